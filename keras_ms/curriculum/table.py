"""The subsets of a curriculum as a CSV file beside the list of their images."""

import csv
import math
import os
from collections import Counter
from pathlib import Path, PurePath

import numpy as np

from keras_ms.curriculum.subsets import CurriculumSubsets
from keras_ms.data.file_names import same_name, shown_name, some_names
from keras_ms.data.image_list import ImageList
from keras_ms.data.text_files import read_csv
from keras_ms.files import whole_file

_COLUMNS = ("path", "label", "subset", "density", "delta", "centre")
_FLAGS = {"0": False, "1": True}


def write_curriculum(path: str | Path, subsets: CurriculumSubsets, images: ImageList) -> None:
    """Writes the subsets of images as a CSV file, a line for each image.

    Columns: path, label (the class's name), subset (0 clean, 1 noisy, 2 highly noisy), density,
    delta and centre (1 for the densest image of its class). Paths leave out the folder that all
    images share, so that the table stays right when they are moved.

    Args:
        path: the CSV file; it appears whole or not at all.
        subsets: `CurriculumSubsets`.
        images: the `ImageList` that it is about.

    Raises:
        ValueError: another number of images, or an image twice.

    Example:

    >>> paths = [f"photos/{number}.jpg" for number in range(6)]
    >>> images = keras_ms.ImageList(paths, [0, 0, 0, 1, 1, 1], ("crow", "owl"), ["train"] * 6)
    >>> features = np.random.default_rng(0).normal(size=(6, 4))
    >>> subsets = keras_ms.curriculum_subsets(features, images.labels)
    >>> write_curriculum("curriculum.csv", subsets, images)
    >>> bool((keras_ms.read_curriculum("curriculum.csv", images).subset == subsets.subset).all())
    True
    """
    check_subsets(subsets, images)
    names = table_names(images)
    with whole_file(path) as temporary:
        # names of files may hold bytes that are no text
        with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            for name, label, *values, centre in zip(names, images.labels, *subsets):
                # repr of a float is read back as the same number
                numbers = [value.item() for value in values]
                writer.writerow([name, images.class_names[label], *numbers, int(centre)])


def read_curriculum(
    path: str | Path, images: ImageList, *, allow_more: bool = False
) -> CurriculumSubsets:
    """Reads the table of `write_curriculum` for a list of images, in the list's order.

    An image is found by the end of its path, however long: folders may have moved.

    Args:
        path: the CSV file.
        images: `ImageList`.
        allow_more: whether the table may have lines of images that are not in the list, such as
            those of validation classes. Defaults to False.

    Returns:
        `CurriculumSubsets`, a row for each image of the list.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no CSV, columns or values that are not those of such a table, an
            image twice or without a line, a line without an image, or a class that is not the
            image's in the list.

    Example:

    >>> images = keras_ms.ImageList.from_folder("photos").subset("train")  # doctest: +SKIP
    >>> read_curriculum("curriculum.csv", images).subset  # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the table that keras-ms curriculum writes. There is no file {path}"
        )
    lines = _lines(path)
    respelled = {same_name(name): name for name in reversed(lines)}
    rows = [_line_of(lines, respelled, name) for name in images.paths]
    missing = [name for name, row in zip(images.paths, rows) if row is None]
    if missing:
        raise ValueError(
            f"Expected a line for each of {len(images)} images of {images.name} in {path}. "
            f"Without one: {some_names(missing)}. Was it written for these images?"
        )
    names = [images.class_names[label] for label in images.labels]
    other = [
        f"{where} ({line['label']}, here {name})"
        for where, name, line in zip(images.paths, names, (lines[row] for row in rows))
        if same_name(line["label"]) != same_name(name)
    ]
    if other:
        raise ValueError(
            f"Expected in {path} the classes of {images.name}. {len(other)} images are of another "
            f"class there: {some_names(other)}. Their densities are those within that class: make "
            "the table again"
        )
    unused = sorted(set(lines) - set(rows))
    if unused and not allow_more:
        raise ValueError(
            f"{path} has lines of {len(unused)} images that {images.name} has not: "
            f"{some_names(unused)}. allow_more=True passes over them"
        )
    if len(set(rows)) < len(rows):
        raise ValueError(
            f"Expected different lines of {path} for different images of {images.name}. Several "
            "share one: the ends of their paths do not tell them apart"
        )
    kinds = (np.int8, np.float64, np.float64, bool)
    return CurriculumSubsets(
        *(
            np.array([lines[row][name] for row in rows], kind)
            for name, kind in zip(_COLUMNS[2:], kinds)
        )
    )


def table_names(images: ImageList) -> list[str]:
    """What the table calls the images: each is checked to be there once, also before any work.

    Args:
        images: `ImageList`.

    Returns:
        List of paths without the folder that all share, with / between; the names of images in
        memory as they are.

    Raises:
        ValueError: two images of the same name, which `read_curriculum` could not tell apart.
    """
    names = list(images.paths) if images.images is not None else _relative(images)
    again = [str(name) for name, times in Counter(names).items() if times > 1]
    if again:
        raise ValueError(
            f"Expected each of the {len(images)} images of {images.name} once: the table knows "
            f"them by their paths. There more than once: {some_names(again)}"
        )
    return names


def check_subsets(subsets: CurriculumSubsets, images: ImageList) -> None:
    """Raises a ValueError where subsets are of another number of images than the list has."""
    if len(subsets.subset) != len(images):
        raise ValueError(
            f"Expected subsets of the {len(images)} images of {images.name}. Received: "
            f"{len(subsets.subset)}"
        )


def _relative(images):
    """The paths without the folder that all share."""
    folders = {os.path.dirname(path) for path in images.paths}
    try:
        shared = os.path.commonpath(folders) if all(folders) else ""
    except ValueError:  # several drives, or absolute and relative paths
        shared = ""
    relative = (os.path.relpath(path, shared) if shared else path for path in images.paths)
    return [PurePath(path).as_posix() for path in relative]


def _line_of(lines, respelled, path):
    """The name of the line about an image: the longest end of its path that has one.

    Where none has, the longest end whose accents are written otherwise, in `respelled`.
    """
    path = shown_name(path)
    if path in lines:
        return path
    parts = PurePath(path).as_posix().split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    name = next((end for end in ends if end in lines), None)
    if name is None:
        ends = map(same_name, ends)
        name = next((respelled[end] for end in ends if end in respelled), None)
    return name


def _lines(path):
    """{path: values by column}, checked."""
    lines = {}
    columns, rows = read_csv(path, needed=_COLUMNS, keep_bytes=True, exact=True)
    if tuple(columns) != _COLUMNS:
        raise ValueError(
            f"Expected the columns {', '.join(_COLUMNS)} in the first line of {shown_name(path)}. "
            f"Received: {', '.join(columns)}"
        )
    for where, line in rows:
        name = shown_name(line["path"])
        if name in lines:
            raise ValueError(f"Expected each image once in {shown_name(path)}. Twice: {name}")
        lines[name] = _values(line, where)
    return lines


def _values(line, where):
    try:
        values = {
            "label": line["label"],
            "subset": int(line["subset"]),
            "density": float(line["density"]),
            "delta": float(line["delta"]),
            "centre": _FLAGS[line["centre"]],
        }
        if not 0 <= values["subset"] < 128:
            raise ValueError
        if not all(0 <= values[name] < math.inf for name in ("density", "delta")):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            "Expected a path, a class, a subset from 0 on, two numbers from 0 on and 0 or 1 in "
            f"{where}. Received: {str(list(line.values()))[:200]}"
        ) from None
    return values
