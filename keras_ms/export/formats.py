"""A model in several formats, side by side in one folder."""

from pathlib import Path

from keras_ms.export.onnx_file import export_onnx
from keras_ms.export.saved_model import export_saved_model


def export_formats(model, folder, formats, *, metadata=None, preprocessing=None, log=print):
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
