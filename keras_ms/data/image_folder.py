"""Reads a folder of images, one subfolder per class, and checks that training can use it."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_ms.data.image_file import SUFFIXES, image_fault

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_LEAVE_OUT_SMALL = "leave them out with skip_small_classes (--skip-small-classes)"
# enough to see the pattern, few enough to read
_MAX_NAMED = 10


def read_image_folder(
    folder,
    *,
    test_fraction,
    test_classes,
    skip_unreadable,
    skip_small_classes,
    check_images,
    progress,
):
    """The columns of an ImageList read from a folder; `ImageList.from_folder` says the rules.

    Returns:
        (paths (N,) str, labels (N,) int64, class names, split (N,) str), in the order of
        the class names within each of train/, validation/ and test/ where the folder has them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            "Expected a folder with one subfolder of images per class. "
            f"{'It is a file' if folder.exists() else 'It does not exist'}: {folder}"
        )
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"Expected `test_fraction` from 0 to 1. Received: {test_fraction}")
    class_folders = _class_folders(folder, test_classes)
    files = {path: _image_files(path) for path, _ in class_folders}
    if not any(files.values()):
        raise ValueError(f"No images in the class folders of {folder}. {_found(files)}")
    if check_images:
        files = _readable(files, skip_unreadable, progress)
    kept = [(path, split) for path, split in class_folders if files[path]]
    if len(kept) < len(class_folders):
        empty = [path.name for path, _ in class_folders if not files[path]]
        message = f"{len(empty)} class folders of {folder} have no images: {some_names(empty)}"
        if not skip_small_classes:
            raise ValueError(f"{message}. Remove them, or {_LEAVE_OUT_SMALL}")
        logger.warning("%s: left out", message)
    if len(kept) < 2:
        raise ValueError(
            "Expected at least 2 classes (one subfolder of images per class). "
            f"{folder} has {len(kept)}: {some_names([path.name for path, _ in kept])}"
        )
    # 0.29 * 100 is 28.999…: rounded down only after lifting what is whole in decimals
    num_train = len(kept) - int(test_fraction * len(kept) + 1e-9)
    kept = [
        (path, split or ("train" if position < num_train else "test"))
        for position, (path, split) in enumerate(kept)
    ]
    kept = _trainable(kept, files, skip_small_classes, folder)
    if sum(split == "test" for _, split in kept) == 1:
        logger.warning("%s has one test class: its Recall@K will be 100 %%, always", folder)
    sizes = [len(files[path]) for path, _ in kept]
    return (
        np.array([str(file) for path, _ in kept for file in files[path]]),
        np.repeat(np.arange(len(kept)), sizes),
        tuple(path.name for path, _ in kept),
        np.repeat([split for _, split in kept], sizes),
    )


def _class_folders(folder, test_classes):
    """[(class folder, its split, or None where `test_fraction` decides)] in order."""
    found = _subfolders(folder)
    names = {path.name for path in found}
    if not found:
        raise ValueError(
            f"Expected one subfolder of images per class. {folder} has no subfolder"
            + (" but images: put them into class folders" if _image_files(folder) else "")
        )
    if names <= set(_SPLIT_FOLDERS) and names & {"train", "test"}:
        if test_classes is not None:
            raise ValueError(f"{folder} has {sorted(names)} subfolders: leave out `test_classes`")
        found.sort(key=lambda path: SPLITS.index(_SPLIT_FOLDERS[path.name]))
        pairs = [(path, _SPLIT_FOLDERS[top.name]) for top in found for path in _subfolders(top)]
        seen, twice = set(), set()
        for path, _ in pairs:
            (twice if path.name in seen else seen).add(path.name)
        if twice:
            raise ValueError(
                f"Expected different classes in the {sorted(names)} subfolders of {folder}: "
                "zero-shot evaluation needs class-disjoint folders. In more than one: "
                f"{some_names(sorted(twice))}. Put all images of a class into one of them"
            )
        return pairs
    if test_classes is None:
        return [(path, None) for path in found]
    if isinstance(test_classes, str):
        raise ValueError(f"Expected `test_classes` as a list of names. Received: {test_classes!r}")
    missing = sorted(set(test_classes) - names)
    if missing or not len(test_classes):
        raise ValueError(
            f"Expected `test_classes` to name subfolders of {folder}. "
            f"Not there: {some_names(missing) or '(the list is empty)'}"
        )
    return [(path, "test" if path.name in set(test_classes) else "train") for path in found]


def _subfolders(folder):
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _image_files(folder):
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _found(class_folders):
    suffixes = {p.suffix or "(none)" for path in class_folders for p in path.iterdir()}
    if not suffixes:
        return "They are empty"
    return f"Expected files ending in {' '.join(SUFFIXES)}. Found: {some_names(sorted(suffixes))}"


def _trainable(class_folders, files, skip_small_classes, folder):
    """The class folders without training classes too small to make a positive pair."""
    small = [path for path, split in class_folders if split == "train" and len(files[path]) < 2]
    if small:
        message = (
            f"{len(small)} training classes of {folder} have 1 image (at least 2 are needed to "
            f"make a positive pair): {some_names([path.name for path in small])}"
        )
        if not skip_small_classes:
            raise ValueError(f"{message}. Add images, or {_LEAVE_OUT_SMALL}")
        logger.warning("%s: left out", message)
        class_folders = [pair for pair in class_folders if pair[0] not in set(small)]
    num_train = sum(split == "train" for _, split in class_folders)
    # none at all is fine: a set that is only evaluated
    if num_train == 1 or not class_folders:
        raise ValueError(
            f"Expected at least 2 training classes. {folder} leaves {num_train} of "
            f"{len(class_folders)}: add classes or lower `test_fraction`"
        )
    return class_folders


def _readable(files, skip_unreadable, progress):
    """`files` without damaged images, which raise unless they are to be skipped."""
    paths = [path for group in files.values() for path in group]
    damaged = {}
    # Pillow decodes outside the interpreter lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (path, fault) in enumerate(zip(paths, pool.map(image_fault, paths)), 1):
            if fault:
                damaged[path] = fault
            if progress is not None:
                progress(done, len(paths))
    if not damaged:
        return files
    separator = "\n  "
    named = [f"{path} ({fault})" for path, fault in damaged.items()]
    message = (
        f"{len(damaged)} of {len(paths)} images cannot be read:"
        f"{separator}{some_names(named, separator)}"
    )
    if not skip_unreadable:
        raise ValueError(
            f"{message}\nRepair or remove them, or leave them out with skip_unreadable "
            "(--skip-unreadable)"
        )
    logger.warning("%s\nLeft out.", message)
    return {folder: [p for p in group if p not in damaged] for folder, group in files.items()}


def some_names(names, separator=", "):
    """The first names in one text, and how many more there are."""
    shown = separator.join(str(name) for name in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return shown if more <= 0 else f"{shown}{separator}and {more} more"
