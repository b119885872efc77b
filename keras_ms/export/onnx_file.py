"""Writes an ONNX file that onnxruntime, OpenVINO and others run without Python or TensorFlow."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_ms.export.card import explained_write_errors, model_card
from keras_ms.export.inference_model import inference_model
from keras_ms.export.onnx_conversion import onnx_model
from keras_ms.export.onnx_packages import import_onnx_package
from keras_ms.export.parity import checked_tolerance, refuse_if_different
from keras_ms.export.photo_graph import FIRST_OPSET, photo_graph, with_photo_graph
from keras_ms.export.photo_parity import refuse_if_photos_differ
from keras_ms.export.preprocessing import Preprocessing, square_sizes
from keras_ms.files import whole_file

# The versions of the operator set that the converter writes correctly; it fails outside them.
OPSETS = range(11, 19)


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    opset: int = 17,
    tolerance: float = 1e-5,
    metadata: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> float:
    """Writes the inference mode of a Keras model as an ONNX file.

    The input is named `image`, the output `embedding` (float32), the first dimension of both
    `batch`, of any size. The file's metadata hold `preprocessing` in words,
    `preprocessing_rule` as JSON, `embedding_dimension`, `training_data`, `recall_at_1`,
    `model_fingerprint`, which all files of one model share, and `keras_ms_version`. Mixed-precision
    models are written in float32.

    With `preprocessing=Preprocessing(…, inside=True)` the file takes pictures as they are decoded:
    its input is `picture`, uint8 RGB (batch, height, width, 3) of any size, and it resizes and cuts
    itself. A grey picture is repeated to 3 channels and a photo turned as its EXIF orientation says
    by whoever decodes it: a graph does not see the file.

    The file takes its name only after onnx's checker passed it and its outputs in onnxruntime were
    compared with the model's on seeded random images, 0–255, at batch sizes 1 and 3; one that
    prepares pictures itself, on random pictures of several sizes, small, large and 1 pixel wide:
    its pixels with those of `evaluation_batches`, at most 1 of 255 away, and its embeddings with
    the model's for its pixels. Otherwise whatever stood there stays.

    Args:
        model: any Keras model with one input and one output, built or called. Integer inputs keep
            their type, all others become float32.
        path: file to write, by custom ending in `.onnx`. An existing file is replaced.
        opset: version of ONNX's operator set, 11 to 18. Defaults to `17`, which all current
            runtimes read.
        tolerance: largest difference allowed, absolute for outputs up to 1 and relative to the
            largest output above. Defaults to `1e-5`, some ten times what different orders of
            summation cost a deep network in float32.
        metadata: mapping of facts to store. `training_data` and `recall_at_1` are known only to the
            caller. `preprocessing`, in words, for a model that expects something else than
            keras_ms's own (RGB, 0-255). Defaults to `None`: none.
        preprocessing: `Preprocessing`, how a picture becomes the model's input. Defaults to
            `None`: size, range and order of colours alone, without how to resize. With
            `inside=True`, the file does it.
        image_size: pixels, an int or (height, width), at which a model that leaves them open is
            compared. Defaults to `None`: 224.

    Returns:
        float: the largest absolute difference that was found.

    Raises:
        ImportError: a package of the extra `onnx` is missing.
        ValueError: the model cannot be exported (several inputs or outputs, never called, no
            float32 copy, an operation that ONNX does not have, whose layer is then named),
            `opset` is not supported, below 13 for a file that prepares pictures, or
            `preprocessing` does not fit the model.
        ExportMismatchError: the outputs differ by more than `tolerance`.
        OSError: the file cannot be written, or the disk is full.

    Example:

    ```python
    keras_ms.export_onnx(model, "embedder.onnx", metadata={"training_data": "my shoes, 2024"})
    session = onnxruntime.InferenceSession("embedder.onnx")
    embedding, = session.run(["embedding"], {"image": images})  # float32 (N, H, W, 3), 0–255
    ```
    """
    path = Path(path)
    checked_tolerance(tolerance)
    if opset not in OPSETS:
        raise ValueError(f"Expected `opset` to be one of {list(OPSETS)}. Received: opset={opset!r}")
    onnx = import_onnx_package("onnx")
    import_onnx_package("onnxruntime")
    rule = preprocessing
    rule = rule if isinstance(rule, Preprocessing) and rule.inside else None
    if rule is not None and opset < FIRST_OPSET:
        raise ValueError(
            f"Expected `opset` of at least {FIRST_OPSET} for a file that prepares pictures itself. "
            f"Received: opset={opset}"
        )
    wrapped = inference_model(model, rule.image_size if rule else image_size)
    card = model_card(wrapped, metadata, preprocessing)
    proto, photo = onnx_model(wrapped, opset), None
    if rule is not None:
        rule = replace(rule, image_size=rule.image_size or wrapped.input_shape[0])
        versions = {"opset": opset, "ir_version": proto.ir_version}
        photo = photo_graph(*square_sizes(rule), dtype=wrapped.input_dtype, **versions)
        proto = with_photo_graph(proto, photo)
    facts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in card.items()}
    onnx.helper.set_model_props(proto, facts)
    content = proto.SerializeToString()
    with explained_write_errors(path, len(content)), whole_file(path) as new:
        new.write_bytes(content)
        if rule is not None:
            return refuse_if_photos_differ(wrapped, new, photo, rule, tolerance)
        return refuse_if_different(wrapped, new, tolerance)
