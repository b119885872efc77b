"""Paths for libraries that take UTF-8 only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def utf8_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields the path, or, where it is not UTF-8, another one that leads to the same place.

    TensorFlow and onnxruntime take names in UTF-8. Where Python reads names otherwise, as under
    LC_ALL=C with PYTHONUTF8=0, it keeps other bytes in a way that they refuse.
    """
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"link{path.suffix if path.suffix.isascii() else ''}"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path
