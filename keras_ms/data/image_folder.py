"""Reads a folder of images, one subfolder per class, and checks that training can use it."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.arguments import real_number, whole_number
from keras_ms.data.checked_images import faults_in_words, image_faults
from keras_ms.data.file_names import file_path, same_name, shown_name, some_names
from keras_ms.data.folder_layout import folder_layout
from keras_ms.data.folder_listing import (
    DEEPER,
    TOO_FEW,
    UNREADABLE,
    list_folder,
    may_be_images,
    tally_line,
)
from keras_ms.data.image_file import SUFFIXES
from keras_ms.terminal.progress import Progress

logger = logging.getLogger(__name__)

_LEAVE_OUT_SMALL = "leave them out with skip_small_classes"


def read_image_folder(
    folder: str | os.PathLike,
    *,
    test_fraction: float,
    test_classes: Sequence[str] | None,
    class_depth: int | None,
    skip_unreadable: bool,
    skip_small_classes: bool,
    check_images: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """The columns of an ImageList read from a folder; `ImageList.from_folder` says the rules.

    Returns:
        dict of `paths` (N,) str, `labels` (N,) int64, `class_names`, `split` (N,) str and
        `passed_over`, in the order of the class names within each of train/, validation/ and
        test/ where the folder has them.
    """
    folder = Path(file_path(folder))
    place = shown_name(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            "Expected a folder with one subfolder of images per class. "
            f"{'It is a file' if folder.exists() else 'It does not exist'}: {place}"
        )
    test_fraction = real_number("test_fraction", test_fraction, least=0, most=1)
    if class_depth is not None:
        class_depth = whole_number("class_depth", class_depth)
    layout = folder_layout(list_folder(folder, SUFFIXES, progress), SUFFIXES, class_depth)
    if layout.where != str(folder):
        logger.info("%s: its classes are the folders of %s", place, shown_name(layout.where))
    classes, passed_over = layout.classes, Counter(layout.passed_over)
    _check_disjoint(classes, place)
    classes = _with_test_classes(classes, test_classes, place)
    if check_images:
        files = (file for one in classes for file in one.files)
        damaged = image_faults(files, sum(len(one.files) for one in classes), progress)
        classes = _readable(
            classes, damaged, skip_unreadable, skip_small_classes, place, passed_over
        )
    classes = _without_empty(classes, skip_small_classes, place, passed_over)
    # 0.29 * 100 is 28.999…: rounded down only after lifting what is whole in decimals
    num_train = len(classes) - int(test_fraction * len(classes) + 1e-9)
    classes = [
        one._replace(split=one.split or ("train" if position < num_train else "test"))
        for position, one in enumerate(classes)
    ]
    classes = _trainable(classes, skip_small_classes, place, passed_over)
    if sum(one.split == "test" for one in classes) == 1:
        logger.warning("%s has one test class: its Recall@K will be 100 %%, always", place)
    sizes = [len(one.files) for one in classes]
    if +passed_over:
        serious = any(map(may_be_images, passed_over))
        logger.log(
            logging.WARNING if serious else logging.INFO,
            "%s: %s%s",
            place,
            tally_line(sum(sizes), passed_over),
            ". class_depth=1 takes the images in subfolders" if passed_over[DEEPER] else "",
        )
    return {
        "paths": np.array([file for one in classes for file in one.files]),
        "labels": np.repeat(np.arange(len(classes)), sizes),
        "class_names": tuple(one.name for one in classes),
        "split": np.repeat([one.split for one in classes], sizes),
        "passed_over": dict(+passed_over),
    }


def _check_disjoint(classes, place):
    """Raises where a class lies in two of train/, validation/ and test/."""
    times = Counter(one.name for one in classes)
    twice = sorted(name for name, number in times.items() if number > 1)
    if len(times) == 1 and twice:
        raise ValueError(
            f"Expected class folders in the train, validation and test subfolders of {place}. Each "
            f"has one folder of images only, {twice[0]}: put the images into a folder for each "
            "class, or list them with their classes in a CSV file (keras_ms.load_csv)"
        )
    if twice:
        raise ValueError(
            f"Expected different classes in the train, validation and test subfolders of {place}: "
            "zero-shot evaluation needs class-disjoint folders. In more than one: "
            f"{some_names(twice)}. Put all images of a class into one of them"
        )


def _with_test_classes(classes, test_classes, place):
    if test_classes is None:
        return classes
    if any(one.split for one in classes):
        raise ValueError(f"{place} has train and test subfolders: leave out `test_classes`")
    if isinstance(test_classes, str):
        raise ValueError(f"Expected `test_classes` as a list of names. Received: {test_classes!r}")
    names = {one.name for one in classes}
    wanted = {same_name(name): name for name in test_classes}
    missing = sorted(wanted[name] for name in wanted.keys() - names)
    if missing or not wanted:
        raise ValueError(
            f"Expected `test_classes` to name subfolders of {place}. "
            f"Not there: {some_names(missing) or '(the list is empty)'}"
        )
    return [one._replace(split="test" if one.name in wanted else "train") for one in classes]


def _without_empty(classes, skip_small_classes, place, passed_over):
    """The classes without those that have no images, which raise unless they are to be skipped."""
    empty = [one.name for one in classes if not one.files]
    if empty:
        message = _empty_in_words(empty, place)
        if not skip_small_classes:
            kinds = tally_line(0, passed_over).partition("; ")[2] if passed_over else ""
            raise ValueError(
                f"{message}{f' ({kinds})' if kinds else ''}. Remove them, or {_LEAVE_OUT_SMALL}"
            )
        logger.warning("%s: left out", message)
        classes = [one for one in classes if one.files]
    if len(classes) < 2:
        raise ValueError(
            "Expected at least 2 classes (one subfolder of images per class). "
            f"{place} has {len(classes)}: {some_names([one.name for one in classes])}"
        )
    return classes


def _empty_in_words(names, place):
    folders = "1 class folder" if len(names) == 1 else f"{len(names)} class folders"
    verb = "has" if len(names) == 1 else "have"
    return f"{folders} of {place} {verb} no images: {some_names(names)}"


def _trainable(classes, skip_small_classes, place, passed_over):
    """The classes without those to train that are too small to make a positive pair."""
    small = [one.name for one in classes if one.split == "train" and len(one.files) < 2]
    if small:
        number = "1 training class" if len(small) == 1 else f"{len(small)} training classes"
        message = (
            f"{number} of {place} {'has' if len(small) == 1 else 'have'} 1 image (at least 2 are "
            f"needed to make a positive pair): {some_names(small)}"
        )
        if not skip_small_classes:
            raise ValueError(f"{message}. Add images, or {_LEAVE_OUT_SMALL}")
        logger.warning("%s: left out", message)
        passed_over[TOO_FEW] += len(small)
        classes = [one for one in classes if one.split != "train" or len(one.files) > 1]
    num_train = sum(one.split == "train" for one in classes)
    # none at all is fine: a set that is only evaluated
    if num_train == 1 or not classes:
        raise ValueError(
            f"Expected at least 2 training classes. {place} leaves {num_train} of "
            f"{len(classes)}: add classes or lower `test_fraction`"
        )
    return classes


def _readable(classes, damaged, skip_unreadable, skip_small_classes, place, passed_over):
    """The classes without damaged images, which raise unless they are to be skipped."""
    if not damaged:
        return classes
    total = sum(len(one.files) for one in classes)
    left = [one._replace(files=[f for f in one.files if f not in damaged]) for one in classes]
    message = faults_in_words(damaged, total)
    if not skip_unreadable:
        # told now, not when the command is given again
        empty = [] if skip_small_classes else [one.name for one in left if not one.files]
        also = f"\nWithout them {_empty_in_words(empty, place)}: {_LEAVE_OUT_SMALL}"
        raise ValueError(
            f"{message}\nRepair or remove them, or leave them out with skip_unreadable"
            + (also if empty else "")
        )
    logger.warning("%s\nLeft out.", message)
    passed_over[UNREADABLE] += len(damaged)
    return left
