"""The images of a run: a data set, with the classes held out that choose the run's weights."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from keras_ms.data.file_names import some_names
from keras_ms.data.folder_layout import SPLITS
from keras_ms.data.image_list import ImageList
from keras_ms.data.load_images import load_images
from keras_ms.data.sets.catalogue import (
    UnreadOption,
    check_options,
    chosen_data_set,
    data_set_options,
)
from keras_ms.data.sets.rotated_classes import rotated_classes
from keras_ms.data.text_files import read_lines
from keras_ms.run.origin import are_same_images, data_summary
from keras_ms.run.settings import Settings
from keras_ms.run.settings.defaults import validation_fraction


def load_images_of_a_run(
    settings: Settings,
    log: Callable[[str], Any] = print,
    needed: Collection[str] | None = None,
) -> ImageList:
    """As `load_run_images`, of a run that has begun: its images may have moved since.

    Raises:
        ValueError, FileNotFoundError: as there; the message names the options for the new place.
    """
    try:
        return load_run_images(settings, log, needed)
    except FileNotFoundError as error:
        more = ", and --test-classes, their list" if settings.data.test_classes else ""
        raise FileNotFoundError(
            f"{error}. Give --data-dir, where the images lie now{more}"
        ) from error


def load_run_images(
    settings: Settings,
    log: Callable[[str], Any] = print,
    needed: Collection[str] | None = None,
) -> ImageList:
    """The ImageList that the settings of a run name, with its validation classes held out.

    Args:
        settings: `Settings`.
        log: function that takes a line of text for the user.
        needed: splits that must be there, each with a class of at least 2 images. Defaults to
            None: what a training needs, train and test, and validation where there is one.

    Raises:
        ValueError, FileNotFoundError: no such data; the message says what is expected, in Python
            and in options of the command line.
    """
    dataset, data_dir = settings.data.dataset, settings.data.data_dir or None
    made_for = {"image_size": settings.images.image_size, "seed": settings.training.seed}
    values = settings.values()
    options = {name: values[name] for name in data_set_options() if name in values}
    options["test_classes"] = options["test_classes"] or None  # a file that lists them
    in_folds, whole_groups = settings.training.tune == "folds", settings.data.validation_groups

    def fraction(num_classes: int) -> float:
        return validation_fraction(settings, num_classes)

    with _in_command_words(options):
        data_set = chosen_data_set(dataset, data_dir)
        check_options(data_set, options)
        if options["test_classes"]:
            options["test_classes"] = _class_names(options["test_classes"])
        # only what is trained on is turned: after the validation classes are held out
        is_turned = options.pop("rotated_classes")
        images = load_images(dataset, data_dir, **made_for, log=log, **options)
    is_validation = images.split == "validation"
    if in_folds:
        images = replace(images, split=np.where(is_validation, "train", images.split))
        if is_validation.any():
            log(
                f"The {len(np.unique(images.labels[is_validation]))} validation classes are held "
                "out in folds like all others, and trained on in the end; --tune off keeps them "
                "apart"
            )
    elif not is_validation.any():
        groups = data_set.has_groups if whole_groups is None else whole_groups
        images = _with_validation(images, fraction, made_for["seed"], groups)
    elif needed is None and settings.data.validation_fraction is not None:
        log(f"{images.name} has validation classes of its own: no further ones are held out")
    if is_turned:
        images = rotated_classes(images)
    if needed is None:
        images = _without_single(images, settings.data.skip_small_classes, log)
    _check_splits(images, {"train", "test", *images.counts()} if needed is None else needed)
    if needed is None:
        _check_chosen_by(images)
    log(str(images))
    return images


def check_resumed_images(
    images: ImageList, trained: Mapping[str, Any] | None, log: Callable[[str], Any]
) -> None:
    """Of a run that goes on: whether its classes are still divided as they were.

    Args:
        images: the `ImageList` of this session.
        trained: `data_summary` of the session before; None, where it is not known.
        log: function that takes a line of text for the user: told of images that came or went.

    Raises:
        ValueError: classes came, went or changed their split.
    """
    found = data_summary(images)
    if trained is None or are_same_images(found, trained):
        return
    before, now = trained["counts"], found["counts"]
    classes = [{split: n for split, (n, _) in counts.items()} for counts in (before, now)]
    if classes[0] != classes[1] or not are_same_images({**found, "counts": before}, trained):
        raise ValueError(
            f"Expected the classes that the run began with, (classes, images): {before}. Received: "
            f"{'as many, others or divided otherwise' if classes[0] == classes[1] else now}. It "
            "would be tested on classes that it was trained on: bring the data back, or begin a "
            "new run"
        )
    log(f"Images came or went since the run began, (classes, images): {before}, now {now}")


def _with_validation(images, fraction, seed, whole_groups):
    count = len(np.unique(images.labels[images.split == "train"]))
    share = fraction(count) if count else 0
    if not share:
        return images
    return images.hold_out_validation(share, seed=seed, whole_groups=whole_groups)


def _check_chosen_by(images):
    """Raises for one validation class, by which the first weights would be the best."""
    classes = np.unique(images.labels[images.split == "validation"])
    if len(classes) == 1:
        raise ValueError(
            "Expected at least 2 validation classes: among images of one class Recall@K is always "
            f"100 %, and chooses nothing. {images.name} has one, {images.class_names[classes[0]]}. "
            "Add classes to its validation split, or make it a training class"
        )


def _check_splits(images, needed):
    for split in sorted(needed, key=SPLITS.index):
        labels = images.labels[images.split == split]
        if not len(labels):
            raise ValueError(f"{images.name} has no {split} classes. It holds: {images}")
        if np.unique(labels, return_counts=True)[1].max() < 2:
            raise ValueError(
                f"Expected a {split} class with at least 2 images, a query and its match. All "
                f"{split} classes of {images.name} have one. Add images"
            )


def _without_single(images, skip, log):
    """Without training classes of one image, which raise unless they are to be skipped.

    Loaders may know nothing of them: validation classes that are trained on after all, and lines
    of a CSV file.
    """
    classes, sizes = np.unique(images.labels[images.split == "train"], return_counts=True)
    single = classes[sizes < 2]
    if not len(single):
        return images
    message = (
        f"{len(single)} of {len(classes)} training classes of {images.name} have 1 image (at least "
        f"2 make a positive pair): {some_names([images.class_names[label] for label in single])}"
    )
    if not skip:
        raise ValueError(
            f"{message}. Add images, or take these classes out of the data (of a folder, leave "
            "them out with --skip-small-classes)"
        )
    log(f"{message}: left out")
    return images.take(np.flatnonzero(~np.isin(images.labels, single)))


def _class_names(path):
    lines = read_lines(path, "a list of the test classes", keep_bytes=True)
    return [line.strip() for line in lines if line.strip()]


@contextmanager
def _in_command_words(options: Collection[str]) -> Iterator[None]:
    """Adds to errors that speak of arguments what these are called on the command line."""
    try:
        yield
    except UnreadOption as error:
        option = error.option.replace("_", "-")
        # a file of settings may have brought it
        switch = f", or give --no-{option} after --config" if error.value is True else ""
        raise ValueError(f"{error} (--{option}{switch})") from error
    except (ValueError, FileNotFoundError) as error:
        words = command_words(str(error), options)
        if not words:
            raise
        kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
        raise kind(f"{error}. On the command line: {', '.join(words)}") from error


def command_words(message: str, options: Collection[str]) -> list[str]:
    """The options of the command line that stand for the arguments that a message names.

    Example:

    >>> command_words("use class_depth=2 or skip_unreadable", ["class_depth", "skip_unreadable"])
    ['--class-depth 2', '--skip-unreadable']
    """
    names = "|".join(["dataset", "data_dir", *options])
    # not in the middle of a path
    named = re.findall(rf"(?<![\w/\\.-])({names})(?![\w/\\-]|\.\w)(?:='?(\w+))?", message)
    words = [
        f"--no-{name}" if value == "False" else f"--{name} {value}".rstrip()
        for name, value in ((name.replace("_", "-"), value) for name, value in named)
    ]
    if "keras_ms.load_csv" in message:
        words.append("--data-dir list.csv")
    return list(dict.fromkeys(words))
