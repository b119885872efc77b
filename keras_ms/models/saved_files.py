"""Keras's files, written in memory first: a disk that is full meets plain bytes, never HDF5.

An HDF5 file whose disk is full cannot be closed: the library then tells of it on standard error
once more, with a traceback, whatever the program does about the error.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import h5py
import keras

from keras_ms.files import whole_file


def write_weights(
    model: keras.Model, path: str | Path, *, attributes: Mapping[str, str] | None = None
) -> None:
    """Writes what `model.save_weights` writes; whole or not at all.

    It takes as much memory as the file takes disk.

    Args:
        model: built, with its optimizer's state if it is compiled.
        path: file that ends in ".weights.h5".
        attributes: what the HDF5 file says beside the weights, which Keras passes over.

    Raises:
        ValueError: another ending.
        OSError: as `keras_ms.files.whole_file`.

    Example:

    ```python
    write_weights(model, "best.weights.h5", attributes={"recall": "0.85"})
    ```
    """
    memory = _NamedMemory(path)
    model.save_weights(memory)
    if attributes:
        with h5py.File(memory, "a") as file:
            file.attrs.update(attributes)
    _write(memory, path)


def write_model(model: keras.Model, path: str | Path) -> None:
    """Writes what `model.save` writes into a .keras file; whole or not at all.

    Args:
        model: built.
        path: file that ends in ".keras".

    Raises:
        ValueError: another ending.
        OSError: as `keras_ms.files.whole_file`.
    """
    if Path(path).suffix != ".keras":
        raise ValueError(f"Expected a file that ends in .keras. Received: {path}")
    memory = _NamedMemory(path)
    model.save(memory)
    _write(memory, path)


class _NamedMemory(io.BytesIO):
    """Memory that Keras takes for a file: it asks the name for its ending."""

    def __init__(self, path):
        super().__init__()
        self._path = str(path)

    def __str__(self):
        return Path(self._path).name


def _write(memory, path):
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(memory.getbuffer())
