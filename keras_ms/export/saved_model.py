"""Writes a TensorFlow SavedModel that needs neither Keras nor keras_ms to run."""

import contextlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_ms.export.card import explained_write_errors, model_card
from keras_ms.export.inference_model import InferenceModel, inference_model
from keras_ms.export.parity import checked_tolerance, refuse_if_far, runner_like_model
from keras_ms.export.plain_path import plain_path
from keras_ms.export.preprocessing import METADATA_FILE, Preprocessing
from keras_ms.files import whole_folder


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    tolerance: float = 1e-5,
    metadata: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> float:
    """Writes the inference mode of a Keras model as a TensorFlow SavedModel folder.

    The signatures `serve` and `serving_default` take `image`, any number of images, and return
    `embedding`, float32. Where `preprocessing` says how to resize to a square, two more take photos
    as they are: `embed` takes `picture`, uint8 (batch, height, width, 3) of any size, and
    `embed_jpeg` takes `contents`, the bytes of JPEG and PNG files (files,); JPEGs are turned by
    their EXIF orientation if the rule says so, PNGs never.

    What is known about the model stands in `assets.extra/keras_ms.json`. Mixed-precision models are
    written in float32.

    The folder takes its name only after its outputs were compared with the model's on seeded
    random images, 0–255, at batch sizes 1 and 3, those for photos on random pictures of several
    sizes; otherwise whatever stood there stays.

    Args:
        model: any Keras model with one input and one output, built or called. Integer inputs keep
            their type, all others become float32.
        path: folder to write. An earlier SavedModel there is replaced.
        tolerance: largest difference allowed, absolute for outputs up to 1 and relative to the
            largest output above. Defaults to `1e-5`, some ten times what different orders of
            summation cost a deep network in float32.
        metadata: mapping of facts to store, such as `training_data` and `recall_at_1`. Defaults to
            `None`: none.
        preprocessing: `Preprocessing`, how a picture becomes the model's input. Defaults to
            `None`: size, range and order of colours alone, without how to resize. Without
            `inside`, which says what an ONNX file does.
        image_size: pixels, an int or (height, width), at which a model that leaves them open is
            compared. Defaults to `None`: 224.

    Returns:
        float: the largest absolute difference that was found, usually 0.

    Raises:
        ValueError: the model cannot be exported (several inputs or outputs, never called, no
            float32 copy), `path` is a folder that holds something else, or `preprocessing` does
            not fit the model.
        ExportMismatchError: the outputs differ by more than `tolerance`.
        OSError: the folder cannot be written, or the disk is full.

    Example:

    ```python
    keras_ms.export_saved_model(model, "saved_models/birds", metadata={"recall_at_1": 0.61})
    # anywhere with TensorFlow:
    loaded = tf.saved_model.load("saved_models/birds")
    embedding = loaded.signatures["serving_default"](image=images)["embedding"]
    ```
    """
    path = Path(path)
    checked_tolerance(tolerance)
    _refuse_to_replace_other_folders(path)
    if isinstance(preprocessing, Preprocessing) and preprocessing.inside:
        raise ValueError(
            "inside=True is for ONNX files. A SavedModel takes prepared images and photos, each by "
            "a signature of its own: leave it out"
        )
    wrapped = inference_model(model, image_size)
    card = model_card(wrapped, metadata, preprocessing)
    archive = _archive(wrapped)
    rule = _photo_rule(wrapped, preprocessing)
    if rule is not None:
        from keras_ms.export.photo_signatures import (
            SIGNATURES,
            add_photo_signatures,
            compare_signatures,
        )

        add_photo_signatures(archive, wrapped, rule)
        card["signatures"] = SIGNATURES
    byte_count = 4 * wrapped.model.count_params()  # float32
    with explained_write_errors(path, byte_count), whole_folder(path) as new:
        # Keras prints the signatures even with verbose=False
        with contextlib.redirect_stdout(io.StringIO()), plain_path(new) as path_for_tensorflow:
            archive.write_out(str(path_for_tensorflow), verbose=False)
        card_file = new / METADATA_FILE
        card_file.parent.mkdir()
        card_file.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        runner, difference = runner_like_model(wrapped, new, tolerance)
        if rule is None:
            return difference
        by_photos = compare_signatures(wrapped, runner.signatures, rule)
        return max(difference, refuse_if_far(wrapped, new, by_photos, tolerance))


def _archive(wrapped: InferenceModel) -> Any:
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    spec = tf.TensorSpec((None, *wrapped.input_shape), wrapped.input_dtype, name="image")
    archive.add_endpoint("serve", lambda image: {"embedding": wrapped(image)}, [spec])
    return archive


def _photo_rule(wrapped, preprocessing):
    """The rule with both sizes, or None where it makes no square of a picture."""
    if preprocessing is None or preprocessing.resize_to is None:
        return None
    height, width = wrapped.input_shape[:2]
    side = preprocessing.image_size or (height if height == width else None)
    return replace(preprocessing, image_size=side) if isinstance(side, int) else None


def _refuse_to_replace_other_folders(path):
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").exists():
        raise ValueError(
            f"The folder {str(path)!r} holds something else than a SavedModel and would be "
            f"replaced. Choose a new folder, such as {str(path / 'saved_model')!r}."
        )
