"""CUB-200-2011: 11,788 photos of 200 species of birds."""

from pathlib import Path

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.benchmarks import Benchmark, Listing, read_table, whole_numbers
from keras_ms.data.sets.declaration import EXTRACTING, PHOTOS_OF_A_BENCHMARK, DataSet
from keras_ms.data.sets.prepared_datasets import PreparedDataset
from keras_ms.data.sets.release import Release
from keras_ms.terminal.progress import Progress

CUB = Benchmark(
    name="cub",
    title="CUB-200-2011",
    counts={"train": (100, 5864), "test": (100, 5924)},
    files=(
        "CUB_200_2011.tgz (the authors' archive)",
        "CUB_200_2011/ with images.txt, image_class_labels.txt, classes.txt and images/",
        "caltech_birds2011/ (as tensorflow-datasets prepares it)",
    ),
    source="The authors distribute it at https://www.vision.caltech.edu/datasets/cub_200_2011/",
)
_LAST_TRAINING_CLASS = 100
_RELEASE = Release(
    CUB,
    folder="CUB_200_2011",
    archive="CUB_200_2011.tgz",
    sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    lists=("images.txt", "image_class_labels.txt", "classes.txt"),
    prepared=PreparedDataset("caltech_birds2011", "label", _LAST_TRAINING_CLASS),
)


def load_cub(
    data_dir: str | Path, *, check_counts: bool = True, progress: Progress | None = None
) -> ImageList:
    """Reads CUB-200-2011: classes 1-100 train, 101-200 test, whatever its own split says.

    `data_dir` holds one of, looked for in this order:
    - the folder CUB_200_2011 (or is that folder itself);
    - CUB_200_2011.tgz, which is extracted beside itself once;
    - caltech_birds2011, prepared by tensorflow-datasets, whose images are written as files into
      caltech_birds2011_images once. Nothing is downloaded.

    Reference: Wah, Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset,
    CNS-TR-2011-001 (2011).

    Args:
        data_dir: folder.
        check_counts: refuse an archive, list or folder of images that is not the whole published
            set. With False, what is there is used, and a warning tells what is missing. Defaults to
            `True`.
        progress: called with (files written, files in all or None) while the archive is
            extracted.

    Returns:
        `ImageList` of 5,864 images of 100 training and 5,924 of 100 test classes.

    Raises:
        FileNotFoundError: files are missing; each is named, with the place where it goes.
        ValueError: counts differ from the published, a list or an archive is damaged.

    Example:

    >>> birds = load_cub("downloads")   # doctest: +SKIP
    """
    return _RELEASE.load(data_dir, _read_lists, check_counts=check_counts, progress=progress)


def _read_lists(folder):
    images, labels, classes = (folder / name for name in _RELEASE.lists)
    numbers, paths = read_table(images, 2)
    labelled, class_ids = read_table(labels, 2)
    if numbers != labelled:
        raise ValueError(f"{images.name} and {labels.name} in {folder} list different images")
    class_numbers, class_names = read_table(classes, 2)
    if class_numbers != tuple(str(number) for number in range(1, len(class_names) + 1)):
        raise ValueError(f"Expected classes numbered from 1 in {classes}")
    class_ids = whole_numbers(class_ids, labels)
    train = class_ids <= _LAST_TRAINING_CLASS
    return Listing(folder / "images", paths, class_ids - 1, class_names, train)


DATA_SET = DataSet(
    name="cub",
    load=load_cub,
    marks=(*_RELEASE.marks(), "image_class_labels.txt"),
    options=PHOTOS_OF_A_BENCHMARK,
    progress=EXTRACTING,
)
