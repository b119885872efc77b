"""Any set of images, listed in a CSV file: path, label, split[, is_query, is_gallery]."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from keras_ms.data.file_names import some_names
from keras_ms.data.folder_layout import SPLITS
from keras_ms.data.image_list import ImageList

_NEEDED = ("path", "label", "split")
_MASKS = ("is_query", "is_gallery")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def load_csv(path, *, name=None):
    """Reads a CSV file with the columns path, label, split and, if wanted, is_query, is_gallery.

    The first line names the columns, in any order; others are passed over. In detail:
    - path: an image file, relative to the CSV file's folder or absolute;
    - label: the class, any text; `class_names` are sorted, by number where all are whole numbers;
    - split: train, validation (or val) or test, the same for all images of a class;
    - is_query, is_gallery: 1 or 0 (also true, false, yes, no) for validation and test images: what
      is searched with and what is searched among. Without a column each image counts as 1.
      Training images are always both, for the classes held out of them for validation.

    Images are not opened, but each file must be there.

    Args:
        path: the CSV file, UTF-8.
        name: what reports call the set. Defaults to `None`: the file's name.

    Returns:
        `ImageList`.

    Raises:
        FileNotFoundError: the CSV file or images it lists are missing; each is named.
        ValueError: columns are missing, a line has more values than there are columns or one that
            is not allowed, or an image is listed twice; it is named.

    Example:

    >>> shoes = load_csv("shoes.csv")   # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a CSV file of images. There is no file {path}")
    rows = _rows(path)
    files = [str(path.parent / row["path"]) for row in rows]
    again = [file for file, times in Counter(files).items() if times > 1]
    if again:
        raise ValueError(
            f"Expected each image once in {path}. There more than once: {some_names(again)}"
        )
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} images that {path} lists are missing: "
            f"{some_names(missing)}. Paths are relative to the CSV file's folder"
        )
    labels = [row["label"] for row in rows]
    names = sorted(set(labels), key=_by_number if all(map(str.isdecimal, labels)) else None)
    ids = {name: number for number, name in enumerate(names)}
    split = np.array([row["split"] for row in rows])
    masks = {
        name: np.array([row[name] for row in rows]) | (split == "train")
        for name in _MASKS
        if name in rows[0]
    }
    return ImageList(
        files, [ids[label] for label in labels], names, split, name=name or path.stem, **masks
    )


def _by_number(name):
    return int(name), name


def _rows(path):
    """The lines as dicts of checked values; is_query and is_gallery only where they are columns."""
    rows = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True, skipinitialspace=True)
        try:
            columns = reader.fieldnames or []
            missing = [name for name in _NEEDED if name not in columns]
            if missing:
                raise ValueError(
                    f"Expected the columns {', '.join(_NEEDED)} in the first line of {path}. "
                    f"Missing: {', '.join(missing)}. Received: {', '.join(columns) or 'no line'}"
                )
            used = _NEEDED + tuple(name for name in _MASKS if name in columns)
            for line in reader:
                where = f"line {reader.line_num} of {path}"
                if None in line:
                    raise ValueError(
                        f"Expected {len(columns)} values in {where}. Received: "
                        f"{len(columns) + len(line[None])}. Quote a value that holds a comma: "
                        '"a,b"'
                    )
                rows.append({name: _value(name, line[name], where) for name in used})
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"Expected a CSV file in UTF-8. {path}: {error}") from error
    if not rows:
        raise ValueError(f"Expected a line for each image. {path} has none after its first line")
    return rows


def _value(name, text, where):
    value = (text or "").strip()
    if name in _MASKS:
        value = _FLAGS.get(value.lower())
        expected = "1 or 0"
    elif name == "split":
        value = "validation" if value == "val" else value
        value = value if value in SPLITS else None
        expected = "train, validation or test"
    else:
        value = value or None
        expected = "some text"
    if value is None:
        raise ValueError(f"Expected {expected} as {name} in {where}. Received: {text!r}")
    return value
