"""Any set of images, listed in a CSV file: path, label, split[, is_query, is_gallery]."""

import logging
import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from keras_ms.data.checked_images import faults_in_words, image_faults
from keras_ms.data.file_names import file_path, same_name, shown_name, some_names
from keras_ms.data.folder_layout import SPLITS
from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.declaration import EXIF_ORIENTATION, DataSet, Option, ProgressWords
from keras_ms.data.text_files import check_text, read_csv
from keras_ms.terminal.progress import Progress

logger = logging.getLogger(__name__)

_NEEDED = ("path", "label", "split")
_MASKS = ("is_query", "is_gallery")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_WHAT = "a CSV file"


def load_csv(
    path: str | Path,
    *,
    name: str | None = None,
    skip_unreadable: bool = False,
    check_images: bool = True,
    progress: Progress | None = None,
) -> ImageList:
    r"""Reads a CSV file with the columns path, label, split and, if wanted, is_query, is_gallery.

    The first line names the columns, in any order; others are passed over. Commas, semicolons or
    tabs separate values; empty lines and spaces around values are passed over. In detail:
    - path: an image file, relative to the CSV file's folder or absolute. Where no file is called
      exactly so, one whose accents are written otherwise is taken, and \ for / between folders;
    - label: the class, any text; `class_names` are sorted, by number where all are whole numbers.
      Two that differ in how accents are written are the same;
    - split: train, validation (or val) or test, the same for all images of a class;
    - is_query, is_gallery: 1 or 0 (also true, false, yes, no) for validation and test images: what
      is searched with and what is searched among. Without a column each image counts as 1.
      Training images are always both, for the classes held out of them for validation.

    Each file must be there, and an image that can be read.

    Args:
        path: the CSV file, UTF-8 (or UTF-16 with its mark). Paths may hold other bytes, where the
            names of the files do.
        name: what reports call the set. Defaults to `None`: the file's name.
        skip_unreadable: leave out damaged images (their number is logged) rather than raise.
            Defaults to False.
        check_images: read every image to find damaged ones. Defaults to True.
        progress: told images checked and all of them. Defaults to None.

    Returns:
        `ImageList`.

    Raises:
        FileNotFoundError: the CSV file or images it lists are missing; each is named.
        ValueError: columns are missing, a line has more values than there are columns or one that
            is not allowed, bytes that are no UTF-8, an image is listed twice, or cannot be read; it
            is named.

    Example:

    >>> shoes = load_csv("shoes.csv")   # doctest: +SKIP
    """
    path = Path(file_path(path))
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a CSV file of images. There is no file {shown_name(path)}"
        )
    rows = _rows(path)
    files, listings = [], {}
    for row in rows:
        file = _file(path.parent, row["path"], listings)
        if file is None:
            # bytes that name no file are no text either
            check_text(row["path"], row["where"], _WHAT)
        files.append(file)
    missing = [row["path"] for row, file in zip(rows, files) if file is None]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} images that {shown_name(path)} lists are missing: "
            f"{some_names([os.path.join(path.parent, name) for name in missing])}. Paths are "
            "relative to the CSV file's folder"
        )
    again = [file for file, times in Counter(files).items() if times > 1]
    if again:
        raise ValueError(
            f"Expected each image once in {shown_name(path)}. There more than once: "
            f"{some_names(again)}"
        )
    if check_images:
        rows, files = _readable(rows, files, skip_unreadable, progress)
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
        np.array(files),
        np.array([ids[label] for label in labels]),
        tuple(names),
        split,
        name=name or path.stem,
        **masks,
    )


def _readable(rows, files, skip_unreadable, progress):
    """The rows and files of images that can be read; others raise unless they are to be skipped."""
    faults = image_faults(files, len(files), progress)
    if not faults:
        return rows, files
    message = faults_in_words(faults, len(files))
    left = [number for number, file in enumerate(files) if file not in faults]
    if not skip_unreadable or not left:
        raise ValueError(
            f"{message}\nRepair them or remove their lines, or leave them out with skip_unreadable"
        )
    logger.warning("%s\nLeft out.", message)
    return [rows[number] for number in left], [files[number] for number in left]


def _by_number(name):
    # by its digits: Python refuses to make numbers of thousands of them
    digits = "".join(str(unicodedata.decimal(mark)) for mark in name).lstrip("0")
    return len(digits), digits, name


def _file(folder, name, listings):
    """The path of the file that a line names, None if there is none; `listings` are kept."""
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        path = str(Path(folder, file_path(spelling)))  # also img/./1.jpg as img/1.jpg
        if os.path.isfile(path):
            return path
        path = _respelled(path, listings)
        if path is not None and os.path.isfile(path):
            return path
    return None


def _respelled(path, listings):
    """The path with the accents that its folders and file have on disk; None if there is none."""
    if os.path.lexists(path) or not os.path.basename(path):
        return path
    parent, name = os.path.split(path)
    if parent not in listings:
        folder = _respelled(parent, listings) if parent else os.curdir
        names = os.listdir(folder) if folder and os.path.isdir(folder) else ()
        # the first of several, in order
        listings[parent] = {
            same_name(name): os.path.join(folder, name) for name in sorted(names, reverse=True)
        }
    return listings[parent].get(same_name(name))


def _rows(path):
    """The lines as dicts of checked values; is_query and is_gallery only where they are columns."""
    columns, lines = read_csv(path, _WHAT, needed=_NEEDED, keep_bytes=True)
    used = _NEEDED + tuple(name for name in _MASKS if name in columns)
    rows = []
    for where, line in lines:
        row = {name: _value(name, line[name], where) for name in used}
        rows.append({**row, "where": where})
    if not rows:
        raise ValueError(
            f"Expected a line for each image. {shown_name(path)} has none after its first line"
        )
    return rows


def _value(name, text, where):
    value = text or ""
    if name != "path":
        check_text(value, where, _WHAT)
    if name in _MASKS:
        value = _FLAGS.get(value.lower())
        expected = "1 or 0"
    elif name == "split":
        value = "validation" if value.lower() in ("val", "valid") else value.lower()
        value = value if value in SPLITS else None
        expected = "train, validation or test"
    else:
        value = (same_name(value) if name == "label" else value) or None
        expected = "some text"
    if value is None:
        raise ValueError(f"Expected {expected} as {name} in {where}. Received: {text!r}")
    return value


DATA_SET = DataSet(
    name="csv",
    load=load_csv,
    endings=(".csv", ".tsv", ".txt"),
    options=(Option("skip_unreadable", False, "image folders and CSV files"), EXIF_ORIENTATION),
    progress=ProgressWords("Checked {:,} images", "checking"),
)
