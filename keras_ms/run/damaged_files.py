"""Files of a run, read: of a damaged one, its name, what is wrong and what to do are told."""

import csv
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

# they say themselves what is wrong, and the file is none the worse for it
_NOT_DAMAGE = (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError)


class DamagedFile(ValueError):
    """A file that cannot be read, or that holds something else than its name says."""


@contextmanager
def errors_name_file(path: str | Path, expected: str, remedy: str = "") -> Iterator[None]:
    """Errors of reading a file, or of using what was read, become one that names the file.

    Readers of JSON, of zip archives and of HDF5 raise a dozen kinds of errors, most of which do
    not say which file they are about.

    Args:
        path: the file.
        expected: what should be in it, in words.
        remedy: sentences that say what to do. Defaults to "": none.

    Raises:
        DamagedFile: instead of what was raised within.

    Example:

    ```python
    with errors_name_file("choice.json", "what was chosen", "Delete it"):
        chosen = choice["candidates"][choice["chosen"]]
    ```
    """
    try:
        yield
    except (DamagedFile, *_NOT_DAMAGE):
        raise
    except Exception as error:
        raise DamagedFile(
            f"{path} is damaged or of other content: expected {expected}. Received "
            f"{_fault(Path(path), error)}.{remedy and ' ' + remedy}"
        ) from error


def read_json(path: Path, expected: str, remedy: str = "") -> Any:
    """The dict or the list of a JSON file; None where there is no file.

    Args: as `errors_name_file`.

    Raises:
        DamagedFile: no JSON, or JSON of something else.
    """
    if not path.is_file():
        return None
    with errors_name_file(path, expected, remedy):
        # some editors mark UTF-8 at the beginning of a file
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
        if not isinstance(content, (dict, list)):
            raise ValueError(f"the JSON value {str(content)[:40]!r}")
        return content


def read_arrays(
    path: Path, names: Callable[[list[str]], Iterable[str]], expected: str, remedy: str = ""
) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, a dict; nothing in the file can run.

    Args:
        names: function from the list of all names to those that are read.
        path, expected, remedy: as `errors_name_file`.

    Raises:
        DamagedFile: no .npz file, or one that lacks the arrays.
    """
    with errors_name_file(path, expected, remedy):
        # np.load takes other files for pickles, and its errors speak of these
        if not zipfile.is_zipfile(path):
            raise ValueError("no .npz file, or the beginning of one")
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in names(saved.files)}


def read_numbers(path: Path, expected: str, remedy: str = "") -> list[dict[str, float]]:
    """The rows of a CSV file of numbers, a list of dicts; an empty cell is left out.

    Args: as `errors_name_file`.

    Raises:
        DamagedFile: no table, a row of another length, or something that is no number.
    """
    with errors_name_file(path, expected, remedy), open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"another number of cells than columns in line {reader.line_num}")
            rows.append({name: float(value) for name, value in row.items() if value})
        if not rows:
            raise ValueError("no rows")
        return rows


def load_weights(model: "keras.Model", path: Path, remedy: str = "") -> None:
    """Loads a .weights.h5 file into the model it was saved from.

    Raises:
        DamagedFile: no such file, or one of another network.
    """
    if not path.is_file():
        raise DamagedFile(f"Expected the weights of {model.name}. Nothing is at {path}. {remedy}")
    with errors_name_file(path, f"the weights of {model.name}", remedy):
        model.load_weights(path)


def finite_numbers(recall: Mapping[str, float | None] | None) -> dict[int, float]:
    """Dict of the entries that are finite numbers, from K as text to K; None is nothing.

    Raises:
        ValueError, TypeError, AttributeError: something else than recalls.
    """
    known = {int(k): value for k, value in (recall or {}).items() if value is not None}
    return {k: value for k, value in known.items() if math.isfinite(value)}


def _fault(path, error):
    if path.is_file() and path.stat().st_size == 0:
        return "an empty file"
    kind, words = type(error).__name__, " ".join(str(error).split())
    if type(error) is ValueError:
        return words
    return f"{kind}: {words}" if words else kind
