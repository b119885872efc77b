"""Writes an ONNX file that onnxruntime, OpenVINO and others run without Python or TensorFlow."""

import json
import logging
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from keras_ms.export.card import explained_write_errors, model_card
from keras_ms.export.inference_model import inference_model
from keras_ms.export.parity import checked_tolerance, import_onnx_package, refuse_if_different
from keras_ms.whole_files import whole_file

# The versions of the operator set that the converter writes correctly; it fails outside them.
OPSETS = range(11, 19)


def export_onnx(
    model,
    path,
    *,
    opset=17,
    tolerance=1e-5,
    metadata=None,
    preprocessing=None,
    image_size=None,
):
    """Writes the inference mode of a Keras model as an ONNX file.

    The input is named `image`, the output `embedding` (float32), the first dimension of both
    `batch`, of any size. The file's metadata hold `preprocessing` in words,
    `preprocessing_rule` as JSON, `embedding_dimension`, `training_data`, `recall_at_1` and
    `keras_ms_version`. Mixed-precision models are written in float32.

    The file takes its name only after onnx's checker passed it and its outputs in onnxruntime were
    compared with the model's on seeded random images, 0–255, at batch sizes 1 and 3; otherwise
    whatever stood there stays.

    Args:
        model: any Keras model with one input and one output, built or called. Integer inputs keep
            their type, all others become float32.
        path: file to write, by custom ending in `.onnx`. An existing file is replaced.
        opset: version of ONNX's operator set, 11 to 18. Defaults to `17`, which all current
            runtimes read.
        tolerance: largest difference allowed, absolute for outputs up to 1 and relative to the
            largest output above. Defaults to `1e-5`, some ten times what different orders of
            summation cost a deep network in float32.
        metadata: mapping of facts to store. `training_data` and `recall_at_1` are known only to
            the caller. `preprocessing`, in words, for a model that expects something else than
            keras_ms's own (RGB, 0-255).
        preprocessing: `Preprocessing`, how a picture becomes the model's input. Defaults to
            `None`: size, range and order of colours alone, without how to resize.
        image_size: pixels, an int or (height, width), at which a model that leaves them open is
            compared. Defaults to `None`: 224.

    Returns:
        float: the largest absolute difference that was found.

    Raises:
        ImportError: a package of the extra `onnx` is missing.
        ValueError: the model cannot be exported (several inputs or outputs, never called, no
            float32 copy, an operation that ONNX does not have), `opset` is not supported, or
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
        raise ValueError(
            f"Expected `opset` to be one of {list(OPSETS)}. Received: opset={opset!r}"
        )
    for package in ("onnx", "onnxruntime"):
        import_onnx_package(package)
    wrapped = inference_model(model, image_size)
    card = model_card(wrapped, metadata, preprocessing)
    content = _onnx_model(wrapped, opset, card).SerializeToString()
    with explained_write_errors(path, len(content)), whole_file(path) as new:
        new.write_bytes(content)
        return refuse_if_different(wrapped, new, tolerance)


def _onnx_model(wrapped, opset, card):
    import onnx
    import tensorflow as tf

    spec = tf.TensorSpec((None, *wrapped.input_shape), wrapped.input_dtype, name="image")
    # without autograph, which Keras does not need and which writes files of its own
    function = tf.function(
        lambda image: {"embedding": wrapped(image)}, input_signature=[spec], autograph=False
    )
    try:
        with _quiet_tf2onnx() as tf2onnx, _constant_normalization(wrapped.model):
            proto, _ = tf2onnx.convert.from_function(function, [spec], opset=opset)
        _name_dimensions(proto.graph, wrapped)
        facts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in card.items()}
        onnx.helper.set_model_props(proto, facts)
        onnx.checker.check_model(proto, full_check=True)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"The model {wrapped.model.name!r} cannot be written as ONNX with opset {opset}: "
            f"{error}\nReplace the layer that is named (Resizing with antialias or 'lanczos' is "
            "one), or export a SavedModel."
        ) from error
    return proto


def _name_dimensions(graph, wrapped):
    """Names the open sizes; the converter calls them unk__27 and the like."""
    open_sizes = {1: "height", 2: "width"} if len(wrapped.input_shape) == 3 else {}
    shapes = {"image": wrapped.input_shape, "embedding": wrapped.output_shape}
    for tensor in (*graph.input, *graph.output):
        dimensions = tensor.type.tensor_type.shape.dim
        dimensions[0].dim_param = "batch"
        for axis, size in enumerate(shapes[tensor.name], 1):
            if size is None:
                dimensions[axis].dim_param = open_sizes[axis]
            else:
                dimensions[axis].dim_value = size


@contextmanager
def _constant_normalization(model):
    """Holds the statistics of Normalization layers as NumPy arrays for a while.

    They are TensorFlow tensors otherwise, which a traced function takes as further inputs; the
    converter then looks for them in vain.
    """
    layers = [x for x in model._flatten_layers() if isinstance(x, keras.layers.Normalization)]
    before = [(layer.mean, layer.variance) for layer in layers]
    try:
        for layer, (mean, variance) in zip(layers, before):
            layer.mean, layer.variance = np.asarray(mean), np.asarray(variance)
        yield
    finally:
        for layer, (mean, variance) in zip(layers, before):
            layer.mean, layer.variance = mean, variance


@contextmanager
def _quiet_tf2onnx():
    """Imports tf2onnx without its warnings and log lines, and undoes what the import changes."""
    logger = logging.getLogger("tf2onnx")
    log_level, tf_level = logger.level, os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    with warnings.catch_warnings():
        # it reads numpy aliases that numpy deprecates
        warnings.simplefilter("ignore")
        try:
            tf2onnx = import_onnx_package("tf2onnx")
            import_onnx_package("tf2onnx.convert")
            logger.setLevel(logging.CRITICAL)
            yield tf2onnx
        finally:
            logger.setLevel(log_level)
            # importing tf2onnx.convert sets this variable for the whole process
            if tf_level is None:
                os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
            else:
                os.environ["TF_CPP_MIN_LOG_LEVEL"] = tf_level
