"""From the settings of a run to its ImageList."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_ms.data.csv_list import load_csv
from keras_ms.data.file_names import file_path, shown_name
from keras_ms.data.folder_layout import SPLITS
from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.cars import load_cars
from keras_ms.data.sets.cub import load_cub
from keras_ms.data.sets.glyphs import draw_glyphs
from keras_ms.data.sets.grocery import load_grocery
from keras_ms.data.sets.in_shop import load_in_shop
from keras_ms.data.sets.omniglot import load_omniglot
from keras_ms.data.sets.products import load_sop
from keras_ms.data.sets.rotated_classes import rotated_classes
from keras_ms.data.text_files import read_lines
from keras_ms.run.setting_defaults import validation_fraction
from keras_ms.terminal.progress import progress_lines

_TELL_EVERY = 10_000  # images listed or extracted, some seconds
_LISTS = (".csv", ".tsv", ".txt")

# data set → files of which any marks a folder as holding it; none is what a class folder is called
_MARKS = {
    "cub": (
        "CUB_200_2011",
        "CUB_200_2011.tgz",
        "image_class_labels.txt",
        "caltech_birds2011",
        "caltech_birds2011_images/images.csv",
    ),
    "cars": (
        "cars_annos.mat",
        "car_ims",
        "car_ims.tgz",
        "car_devkit.tgz",
        "devkit/cars_meta.mat",
        "cars_train.tgz",
        "cars_test.tgz",
        "cars_test_annos_withlabels.mat",
        "cars196/*/dataset_info.json",
        "cars196_images/images.csv",
    ),
    "sop": (
        "Stanford_Online_Products",
        "Stanford_Online_Products.zip",
        "Ebay_train.txt",
        "stanford_online_products",
        "stanford_online_products_images/images.csv",
    ),
    "in_shop": ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "Img/img.zip"),
    "grocery": ("iconic-images-and-descriptions", "*/iconic-images-and-descriptions"),
    "omniglot": ("omniglot_images_*.zip", "images_background.zip", "images_evaluation.zip"),
}


def load_images(settings, log=print, needed=None):
    """The ImageList that `settings` name, with its validation classes held out.

    Args:
        settings: `Settings`.
        log: function that takes a line of text for the user.
        needed: splits that must be there, each with a class of at least 2 images. Defaults to
            None: what a training needs, train and test, and validation where there is one.

    Raises:
        ValueError, FileNotFoundError: no such data; the message says what is expected.
    """
    dataset = settings.dataset
    if dataset == "auto":
        dataset = _found_in(settings.data_dir) if settings.data_dir else "glyphs"
        if dataset not in ("glyphs", "folder"):
            log(f"{shown_name(settings.data_dir)}: read as the data set {dataset!r}")
    if dataset != "glyphs" and not settings.data_dir:
        raise ValueError(f"The data set {dataset!r} needs --data-dir, the folder it lies in")
    if dataset == "glyphs" and settings.data_dir:
        raise ValueError("The data set 'glyphs' is drawn and reads no --data-dir. Leave one out")
    _check_read(settings, dataset)
    images = _load(settings, dataset, log)
    exif = settings.apply_exif_orientation
    images = replace(images, apply_exif_orientation=exif)
    held_out = images.split == "validation"
    if settings.tune == "folds":
        # every class is held out once, in a fold, and all are trained on in the end
        if held_out.any():
            count = len(np.unique(images.labels[held_out]))
            log(
                f"The {count} validation classes are held out in folds like all others, and "
                "trained on in the end; --tune off keeps them apart"
            )
        images = replace(images, split=np.where(held_out, "train", images.split))
    elif not held_out.any():
        images = _with_validation(images, settings, dataset)
    if settings.rotated_classes:
        images = rotated_classes(images)
    needed = {"train", "test", *images.counts()} if needed is None else needed
    for split in sorted(needed, key=SPLITS.index):
        if not (images.split == split).any():
            raise ValueError(f"{images.name} has no {split} classes. It holds: {images}")
        labels = images.labels[images.split == split]
        if np.unique(labels, return_counts=True)[1].max() < 2:
            raise ValueError(
                f"Expected a {split} class with at least 2 images, a query and its match. All "
                f"{split} classes of {images.name} have one. Add images"
            )
    log(str(images))
    return images


def _with_validation(images, settings, dataset):
    count = len(np.unique(images.labels[images.split == "train"]))
    fraction = validation_fraction(settings, count) if count else 0
    if not fraction:
        return images
    groups = settings.validation_groups
    return images.hold_out_validation(
        fraction,
        seed=settings.seed,
        whole_groups=dataset == "omniglot" if groups is None else groups,
    )


def _found_in(data_dir):
    """The data set whose files lie in the folder, "csv" for a CSV file; else "folder"."""
    path = Path(file_path(data_dir))
    if path.suffix.lower() in _LISTS and path.is_file():
        return "csv"
    found = [name for name, marks in _MARKS.items() if any(any(path.glob(m)) for m in marks)]
    if len(found) > 1:
        raise ValueError(
            f"{data_dir} holds files of several data sets: {', '.join(found)}. Say which one with "
            "--dataset (or --dataset folder for a folder of images for each class)"
        )
    return found[0] if found else "folder"


def _check_read(settings, dataset):
    """Refuses settings that this data set does not read."""
    defaults = type(settings)()
    for names, readers, reason in (
        (
            (
                "test_classes",
                "test_fraction",
                "class_depth",
                "skip_unreadable",
                "skip_small_classes",
            ),
            ("folder",),
            "is for image folders",
        ),
        (
            ("apply_exif_orientation",),
            ("folder", "csv", "cub", "cars", "sop", "in_shop", "grocery"),
            "is for photos",
        ),
        (("rotated_classes",), ("omniglot",), "is for characters that are drawn upright"),
        (("framed_drawings",), ("omniglot",), "is for drawings on white paper"),
        (
            ("check_counts",),
            ("cub", "cars", "sop", "in_shop", "grocery"),
            "is for published sets with known counts",
        ),
    ):
        for name in names:
            if dataset not in readers and getattr(settings, name) != getattr(defaults, name):
                # a file of settings may have brought it
                option = name.replace("_", "-")
                is_switch = getattr(settings, name) is True
                raise ValueError(
                    f"{name} {reason}; {dataset!r} does not read it. Leave --{option} out"
                    + (f", or give --no-{option} after --config" if is_switch else "")
                )


def _load(settings, dataset, log):
    data_dir, check_counts = file_path(settings.data_dir), settings.check_counts
    if dataset == "glyphs":
        return draw_glyphs(image_size=settings.image_size, seed=settings.seed)
    if dataset == "omniglot":
        return load_omniglot(
            data_dir, image_size=settings.image_size, framed=settings.framed_drawings
        )
    if dataset == "csv":
        return load_csv(data_dir)
    if dataset == "grocery":
        return load_grocery(data_dir, check_counts=check_counts)
    archived = {"cub": load_cub, "cars": load_cars, "sop": load_sop, "in_shop": load_in_shop}
    if dataset in archived:
        load = archived[dataset]
        return load(data_dir, check_counts=check_counts, progress=_extraction(log))
    names = None
    if settings.test_classes:
        lines = read_lines(settings.test_classes, "a list of the test classes", keep_bytes=True)
        names = [line.strip() for line in lines if line.strip()]
    return ImageList.from_folder(
        data_dir,
        test_fraction=settings.test_fraction,
        test_classes=names,
        skip_unreadable=settings.skip_unreadable,
        skip_small_classes=settings.skip_small_classes,
        class_depth=settings.class_depth,
        progress=_checking(log),
        listed=_listing(log),
    )


def _listing(log):
    told = 0

    def tell(found):
        nonlocal told
        if found >= told + _TELL_EVERY:
            told = found
            log(f"Listed {found:,} images")

    return tell


def _checking(log):
    lines = None

    def tell(done, total):
        nonlocal lines
        lines = lines or progress_lines("checking", total, log)
        lines(done / total)

    return tell


def _extraction(log):
    def tell(num_bytes, files):
        if files == 1:
            log("Extracting the archive, once")
        if files % _TELL_EVERY == 0:
            log(f"Extracted {files:,} files, {num_bytes / 1e9:.1f} GB")

    return tell
