"""Paths for libraries that take UTF-8 only, and read a bracket in one as a pattern."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# TensorFlow looks for the parts of a SavedModel's variables by a pattern of names
_OF_PATTERNS = frozenset("*?[]\\")


@contextmanager
def plain_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields the path, or, where others would not find it, a link that leads to the same place.

    TensorFlow and onnxruntime take names in UTF-8. Where Python reads names otherwise, as under
    LC_ALL=C with PYTHONUTF8=0, it keeps other bytes in a way that they refuse.
    """
    path = Path(path)
    if _is_plain(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"link{path.suffix if path.suffix.isascii() else ''}"
        link.symlink_to(path.absolute())
        yield link


def _is_plain(path):
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return os.sep == "\\" or not _OF_PATTERNS & set(path)
