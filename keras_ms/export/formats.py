"""A model in several formats, side by side in one folder."""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_ms.export.onnx_file import export_onnx
from keras_ms.export.preprocessing import Preprocessing
from keras_ms.export.saved_model import export_saved_model

PHOTO_ONNX = "photo_onnx"


def export_formats(
    model: keras.Model,
    folder: str | os.PathLike,
    formats: Collection[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    log: Callable[[str], Any] = print,
) -> dict[str, dict[str, Any]]:
    """Writes `saved_model`, `embedder.onnx` and `photo_embedder.onnx`, those that are asked for.

    Args:
        model, metadata, preprocessing: as in `export_saved_model` and `export_onnx`, which also say
            what they raise.
        folder: made if missing.
        formats: any of "saved_model", "onnx" and "photo_onnx", the ONNX file that prepares pictures
            itself.
        log: function that takes a line of text for the user.

    Returns:
        dict from format to {"path": str, "max_difference": float}.

    Raises:
        ValueError: "photo_onnx" without a `preprocessing` that says how to resize.
    """
    inside = None
    if PHOTO_ONNX in formats:
        if preprocessing is None or preprocessing.resize_to is None:
            raise ValueError(
                f"The format {PHOTO_ONNX} needs to know how a photo becomes the model's input: "
                "give the pixels of its shorter side before the centre is cut out (--resize-to, "
                "`resize_to` of Preprocessing)"
            )
        inside = replace(preprocessing, inside=True)
    written = {}
    for kind, export, name, rule in (
        ("saved_model", export_saved_model, "saved_model", preprocessing),
        ("onnx", export_onnx, "embedder.onnx", preprocessing),
        (PHOTO_ONNX, export_onnx, "photo_embedder.onnx", inside),
    ):
        if kind in formats:
            path = Path(folder) / name
            difference = export(model, path, metadata=metadata, preprocessing=rule)
            written[kind] = {"path": str(path), "max_difference": difference}
            log(f"{path}: differs from the model by at most {difference:.1e}")
    return written
