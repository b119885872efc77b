"""A model in several formats, side by side in one folder."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_ms.export.onnx_file import export_onnx
from keras_ms.export.preprocessing import Preprocessing
from keras_ms.export.saved_model import export_saved_model


def export_formats(
    model: keras.Model,
    folder: str | os.PathLike,
    formats: Collection[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    log: Callable[[str], Any] = print,
) -> dict[str, dict[str, Any]]:
    """Writes `folder/saved_model` and `folder/embedder.onnx`, those of them that are asked for.

    Args:
        model, metadata, preprocessing: as in `export_saved_model` and `export_onnx`, which also say
            what they raise.
        folder: made if missing.
        formats: any of "saved_model" and "onnx".
        log: function that takes a line of text for the user.

    Returns:
        dict from format to {"path": str, "max_difference": float}.
    """
    written = {}
    for kind, export, name in (
        ("saved_model", export_saved_model, "saved_model"),
        ("onnx", export_onnx, "embedder.onnx"),
    ):
        if kind in formats:
            path = Path(folder) / name
            difference = export(model, path, metadata=metadata, preprocessing=preprocessing)
            written[kind] = {"path": str(path), "max_difference": difference}
            log(f"{path}: differs from the model by at most {difference:.1e}")
    return written
