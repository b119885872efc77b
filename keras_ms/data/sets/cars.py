"""Cars-196: 16,185 photos of 196 models of cars."""

from pathlib import Path

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.benchmarks import Benchmark, Listing, read_table, whole_numbers
from keras_ms.data.sets.declaration import EXTRACTING, PHOTOS_OF_A_BENCHMARK, DataSet
from keras_ms.data.sets.prepared_datasets import PreparedDataset, load_prepared
from keras_ms.data.sets.release import extracted, find_folder
from keras_ms.terminal.progress import Progress

CARS = Benchmark(
    name="cars",
    title="Cars-196",
    counts={"train": (98, 8054), "test": (98, 8131)},
    files=(
        "cars_annos.mat and car_ims.tgz (or car_ims/)",
        "list_train.txt, list_test.txt (image and class number a line) and car_ims.tgz (or "
        "car_ims/)",
        "car_devkit.tgz (or devkit/), cars_test_annos_withlabels.mat, cars_train.tgz (or "
        "cars_train/) and cars_test.tgz (or cars_test/)",
        "cars196/ (as tensorflow-datasets prepares it)",
    ),
    source="Its authors' page: https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
)
# of the authors' archives
_CHECK_SUMS = {
    "car_ims": {"md5": "d5c8f0aa497503f355e17dc7886c3f14"},
    "cars_train": {"sha256": "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288"},
    "cars_test": {"sha256": "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243"},
}
_LAST_TRAINING_CLASS = 98
_PREPARED = PreparedDataset("cars196", "label", _LAST_TRAINING_CLASS)
_TEST_ANNOTATIONS = "cars_test_annos_withlabels.mat"


def load_cars(
    data_dir: str | Path, *, check_counts: bool = True, progress: Progress | None = None
) -> ImageList:
    """Reads Cars-196: classes 1-98 train, 99-196 test, whatever its own split says.

    `data_dir` holds one of, looked for in this order:
    - cars_annos.mat, the list of all images, with car_ims or car_ims.tgz;
    - the same list as text, list_train.txt and list_test.txt, with car_ims or car_ims.tgz;
    - the two halves of the authors' later release: devkit or car_devkit.tgz,
      cars_test_annos_withlabels.mat, cars_train and cars_test or their .tgz;
    - cars196, prepared by tensorflow-datasets, whose images are written as files into
      cars196_images once. Nothing is downloaded.
    Archives are extracted beside themselves once.

    Reference: Krause, Stark, Deng, Fei-Fei, 3D Object Representations for Fine-Grained
    Categorization, 3dRR-13 (2013).

    Args:
        data_dir: folder.
        check_counts: refuse an archive, list or folder of images that is not the whole published
            set. With False, what is there is used, and a warning tells what is missing. Defaults to
            `True`.
        progress: called with (files written, files in all or None) while an archive is
            extracted.

    Returns:
        `ImageList` of 8,054 images of 98 training and 8,131 of 98 test classes.

    Raises:
        FileNotFoundError: files are missing; each is named, with the place where it goes.
        ValueError: counts differ from the published, a list or an archive is damaged.

    Example:

    >>> cars = load_cars("downloads")   # doctest: +SKIP
    """
    data_dir = Path(data_dir)
    if find_folder(data_dir, [""], marker="cars_annos.mat"):
        paths, class_ids, class_names = _annotations(data_dir / "cars_annos.mat")
        image_folders = ["car_ims"]
    elif find_folder(data_dir, [""], marker="list_train.txt"):
        paths, class_ids, class_names = _text_lists(data_dir)
        image_folders = ["car_ims"]
    elif any((data_dir / name).exists() for name in ("devkit", "car_devkit.tgz")):
        paths, class_ids, class_names = _halves(data_dir, progress)
        image_folders = ["cars_train", "cars_test"]
    elif any((data_dir / name).exists() for name in ("car_ims", "car_ims.tgz")):
        raise CARS.missing(data_dir, [data_dir / "cars_annos.mat"])
    else:
        return load_prepared(CARS, data_dir, _PREPARED, check_counts=check_counts)
    # all that is missing is told before anything is extracted
    missing = [
        data_dir / f"{name}.tgz"
        for name in image_folders
        if not (data_dir / name).is_dir() and not (data_dir / f"{name}.tgz").is_file()
    ]
    if missing:
        raise CARS.missing(data_dir, missing)
    for name in image_folders:
        extracted(
            data_dir / f"{name}.tgz",
            data_dir / name,
            prefix=name,
            check_counts=check_counts,
            progress=progress,
            **_CHECK_SUMS[name],
        )
    train = class_ids <= _LAST_TRAINING_CLASS
    listing = Listing(data_dir, paths, class_ids - 1, class_names, train)
    return CARS.image_list(data_dir, listing, check_counts=check_counts)


def _text_lists(data_dir):
    lists = [data_dir / "list_train.txt", data_dir / "list_test.txt"]
    CARS.require_files(data_dir, lists)
    paths, class_ids = [], []
    for path in lists:
        names_of_files, numbers = read_table(path, 2)
        paths += names_of_files
        class_ids.append(whole_numbers(numbers, path))
    class_ids = np.concatenate(class_ids)
    # cars_meta.mat holds the names and nothing else: without it the numbers stand for them
    meta = data_dir / "cars_meta.mat"
    names = _names(_matlab(meta), meta) if meta.is_file() else _numbered(class_ids)
    return [f"car_ims/{path}" for path in paths], class_ids, names


def _halves(data_dir, progress):
    devkit = extracted(
        data_dir / "car_devkit.tgz",
        data_dir / "devkit",
        prefix="devkit",
        check_counts=False,
        progress=progress,
    )
    if devkit is None:
        raise CARS.missing(data_dir, [data_dir / "car_devkit.tgz"])
    test = data_dir / _TEST_ANNOTATIONS
    test = test if test.is_file() else devkit / _TEST_ANNOTATIONS
    files = [devkit / "cars_train_annos.mat", test, devkit / "cars_meta.mat"]
    CARS.require_files(data_dir, files)
    train_paths, train_ids, _ = _annotations(files[0])
    test_paths, test_ids, _ = _annotations(files[1])
    paths = [f"cars_train/{path}" for path in train_paths]
    paths += [f"cars_test/{path}" for path in test_paths]
    return paths, np.concatenate([train_ids, test_ids]), _names(_matlab(files[2]), files[2])


def _annotations(path):
    """(paths, 1-based class ids, class names or numbers for them) of an annotation file."""
    contents = _matlab(path)
    try:
        rows = contents["annotations"].ravel()
        name = "relative_im_path" if "relative_im_path" in rows.dtype.names else "fname"
        paths = [str(value.item()) for value in rows[name]]
        class_ids = np.array([int(value.item()) for value in rows["class"]], np.int64)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected `annotations` with an image and a `class` for each in {path}. It lacks or "
            f"garbles {error}"
        ) from error
    named = "class_names" in contents
    return paths, class_ids, _names(contents, path) if named else _numbered(class_ids)


def _names(contents, path):
    try:
        return [str(name.item()) for name in contents["class_names"].ravel()]
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Expected `class_names` in {path}. It lacks or garbles {error}"
        ) from error


def _numbered(class_ids):
    return [f"{number:03}" for number in range(1, class_ids.max() + 1)]


def _matlab(path):
    from scipy.io import loadmat

    try:
        return loadmat(path)
    except Exception as error:  # its parser raises whatever damaged bytes make it trip over
        raise ValueError(
            f"{path} is damaged or no MATLAB file ({error}). Fetch it again"
        ) from error


DATA_SET = DataSet(
    name="cars",
    load=load_cars,
    marks=(
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
    options=PHOTOS_OF_A_BENCHMARK,
    progress=EXTRACTING,
)
