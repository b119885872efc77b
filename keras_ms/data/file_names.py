"""Names of files: as the system takes them, as TensorFlow takes them, and as people read them.

On Linux a name is bytes. Python gives it as text in which bytes that are no text stand as lone
surrogates; such text opens the file and can be written nowhere.
"""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# enough to see the pattern, few enough to read
_MAX_NAMED = 10


def shown_name(name: Any) -> str:
    r"""A name as text that every message, table and page can hold.

    Args:
        name: str, bytes or a path; other values are shown as `str` does.

    Returns:
        str, the same under every locale. A byte that is no UTF-8 stands as \xe9.

    Example:

    >>> shown_name("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    if not isinstance(name, bytes):
        try:
            name = str(name).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # a surrogate that stands for no byte
            name = str(name).encode("utf-8", "backslashreplace")
    return name.decode("utf-8", "backslashreplace")


def same_name(name: Any) -> str:
    """What two names share that people cannot tell apart: macOS writes é as e and an accent."""
    return unicodedata.normalize("NFC", shown_name(name))


def file_path(name: str | bytes | os.PathLike) -> str:
    """A path as text that opens the file, from text that was read or typed.

    Where the system's names are ASCII, as under LC_ALL=C, the two differ.
    """
    return os.fsdecode(file_bytes(name))


def file_bytes(name: str | bytes | os.PathLike) -> bytes:
    """A path as the bytes that the system and TensorFlow call the file by."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return str(name).encode("utf-8", "surrogateescape")


def all_file_bytes(paths: Iterable) -> np.ndarray:
    """Paths as an array of bytes, which becomes a tensor whatever the names hold."""
    names = [path if isinstance(path, bytes) else str(path) for path in paths]
    return np.array([file_bytes(name) for name in names], dtype=object)


def some_names(names: Sequence, separator: str = ", ") -> str:
    """The first names in one text, and how many more there are."""
    listed = separator.join(shown_name(name) for name in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return listed if more <= 0 else f"{listed}{separator}and {more} more"
