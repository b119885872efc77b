"""Loads a .keras file from anywhere: no code in it runs, and what is wrong with it is said."""

import os
import re
import zipfile
from pathlib import Path
from typing import cast

import keras

from keras_ms.models.backbone_sources import check_hub_can_be_imported

_HDF5 = b"\x89HDF"


def load_keras_file(path: str | os.PathLike) -> keras.Model:
    """Loads a Keras model from a file, without its optimizer, in Keras's safe mode.

    Args:
        path: a .keras file, or an older .h5 file.

    Returns:
        keras.Model.

    Raises:
        FileNotFoundError: nothing at `path`.
        ImportError: the file holds layers of KerasHub, and that is missing.
        ValueError: a folder, a damaged file, one that holds code (Lambda layers), or one with
            classes that are not registered here; it names them.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected a .keras file. Nothing is at {path}")
    if path.is_dir():
        raise ValueError(f"Expected a .keras file. Received a folder: {path}")
    with open(path, "rb") as file:
        is_hdf5 = file.read(4) == _HDF5
    if is_hdf5 and path.suffix not in (".h5", ".hdf5"):
        raise ValueError(
            f"{path} is an HDF5 file, an older model or weights alone, and no .keras file. Name a "
            "whole model .h5; load weights with model.load_weights"
        )
    if not is_hdf5 and not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is damaged, or no .keras file: its {path.stat().st_size:,} bytes are not a "
            "whole zip archive. Copy or save it again"
        )
    try:
        # a file from elsewhere must not run code of its own
        return cast(keras.Model, keras.saving.load_model(path, compile=False, safe_mode=True))
    except OSError as error:
        raise ValueError(f"{path} is damaged: {error}. Copy or save it again") from error
    except RecursionError:
        raise ValueError(
            f"{path} is damaged: its configuration is nested deeper than any model's"
        ) from None
    except Exception as error:
        # Keras imports it by itself where a file asks for it
        if re.search(r"parent module keras_hub\b", str(error)):
            check_hub_can_be_imported(str(path))
        raise ValueError(_refusal(path, error)) from error


def _refusal(path, error):
    text = str(error)
    unknown = re.search(r"Could not locate (class|function) '([^']+)'", text) or re.search(
        r"Unknown (layer|object|class)[^']*'([^']+)'", text
    )
    if unknown:
        return (
            f"{path} needs the {unknown[1]} {unknown[2]!r}, which is neither Keras's nor "
            "keras_ms's. Load it in Python, where the module that registers it is imported "
            "(@keras.saving.register_keras_serializable()), and export the model from there: "
            "keras_ms.export_onnx(model, …), keras_ms.export_saved_model(model, …)"
        )
    if "Lambda" in text or "unsafe" in text:
        return (
            f"{path} holds code of its own, in a Lambda layer, which is not run: files from "
            "elsewhere could do anything. Write it as a layer class, or, where you trust the "
            "file, load it in Python with safe_mode=False and export the model from there"
        )
    first = text.strip().splitlines()[0][:300] if text.strip() else "no reason given"
    return (
        f"{path} is damaged, or was written by another version of Keras than "
        f"{keras.__version__}: {type(error).__name__}: {first}"
    )
