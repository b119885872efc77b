"""Grocery Store: 5,421 photos of 81 kinds of fruit, vegetables and packages in shops."""

import csv
import io
from pathlib import Path

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.benchmarks import Benchmark, Listing, whole_numbers
from keras_ms.data.sets.declaration import PHOTOS_OF_A_BENCHMARK, DataSet
from keras_ms.data.sets.release import find_folder
from keras_ms.data.text_files import read_text

GROCERY = Benchmark(
    name="grocery",
    title="Grocery Store",
    # the set has no published class-disjoint split: this one is the project's own
    counts={"train": (41, 3051), "test": (40, 2370)},
    files=("train.txt, val.txt, test.txt, classes.csv and the folders train/, val/ and test/",),
    source=(
        "The authors distribute it at https://github.com/marcusklasson/GroceryStoreDataset, "
        "folder dataset/ (MIT)"
    ),
)
_NUM_TRAINING_CLASSES = 41
_LISTS = ("train.txt", "val.txt", "test.txt")


def load_grocery(data_dir: str | Path, *, check_counts: bool = True) -> ImageList:
    """Reads the Grocery Store set: class ids below 41 train, all others test.

    The authors' own train, validation and test lists share all classes; they are taken together.

    Reference: Klasson, Zhang, Kjellström, A Hierarchical Grocery Store Image Dataset with Visual
    and Semantic Labels, WACV 2019.

    Args:
        data_dir: the set's folder dataset/, or a folder that holds it as dataset or grocery.
        check_counts: refuse lists or folders of images that are not the whole published set. With
            False, what is there is used, and a warning tells what is missing. Defaults to `True`.

    Returns:
        `ImageList` of 41 training and 40 test classes, 5,421 images in all.

    Raises:
        FileNotFoundError: files are missing; each is named, with the place where it goes.
        ValueError: counts differ from the published, or a list is damaged.

    Example:

    >>> groceries = load_grocery("downloads/grocery")   # doctest: +SKIP
    """
    folder = find_folder(data_dir, ("", "dataset", "grocery"), marker="classes.csv")
    if folder is None:
        raise GROCERY.missing(data_dir)
    GROCERY.require_files(data_dir, [folder / name for name in _LISTS])
    class_names = _class_names(folder / "classes.csv")
    paths, class_ids = [], []
    for name in _LISTS:
        rows = _rows(folder / name)
        if any(len(row) != 3 for row in rows):
            raise ValueError(
                f"Expected 'path, class id, coarse class id' a line in {folder / name}"
            )
        paths += [row[0] for row in rows]
        class_ids.append(whole_numbers([row[1] for row in rows], folder / name))
    class_ids = np.concatenate(class_ids)
    listing = Listing(folder, paths, class_ids, class_names, class_ids < _NUM_TRAINING_CLASSES)
    return GROCERY.image_list(data_dir, listing, check_counts=check_counts)


def _rows(path):
    text = read_text(path, "a list of images", keep_bytes=True)
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    return [row for row in rows if any(value.strip() for value in row)]


def _class_names(path):
    """Names in the order of their ids, from classes.csv: name, id, and four columns more."""
    rows = _rows(path)[1:]
    ids = whole_numbers([row[1] for row in rows if len(row) > 1], path)
    if not np.array_equal(np.sort(ids), np.arange(len(rows))):
        raise ValueError(f"Expected each class id from 0 on once in {path}, second column")
    return [rows[index][0] for index in np.argsort(ids)]


DATA_SET = DataSet(
    name="grocery",
    load=load_grocery,
    marks=("iconic-images-and-descriptions", "*/iconic-images-and-descriptions"),
    options=PHOTOS_OF_A_BENCHMARK,
)
