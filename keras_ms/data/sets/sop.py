"""Stanford Online Products: 120,053 photos of 22,634 products."""

from pathlib import Path

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.benchmarks import (
    Benchmark,
    Listing,
    read_headed_table,
    whole_numbers,
)
from keras_ms.data.sets.declaration import EXTRACTING, PHOTOS_OF_A_BENCHMARK, DataSet
from keras_ms.data.sets.prepared_datasets import PreparedDataset
from keras_ms.data.sets.release import Release
from keras_ms.terminal.progress import Progress

SOP = Benchmark(
    name="sop",
    title="Stanford Online Products",
    counts={"train": (11318, 59551), "test": (11316, 60502)},
    files=(
        "Stanford_Online_Products.zip (the authors' archive)",
        "Stanford_Online_Products/ with Ebay_train.txt, Ebay_test.txt and the image folders",
        "stanford_online_products/ (as tensorflow-datasets prepares it)",
    ),
    source="The authors distribute it at https://cvgl.stanford.edu/projects/lifted_struct/",
)
_RELEASE = Release(
    SOP,
    folder="Stanford_Online_Products",
    archive="Stanford_Online_Products.zip",
    sha256="b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
    lists=("Ebay_train.txt", "Ebay_test.txt"),
    prepared=PreparedDataset("stanford_online_products", "class_id", 11318),
)
_HEADER = "image_id class_id super_class_id path"


def load_sop(
    data_dir: str | Path, *, check_counts: bool = True, progress: Progress | None = None
) -> ImageList:
    """Reads Stanford Online Products: Ebay_train.txt trains, Ebay_test.txt tests.

    `data_dir` holds one of, looked for in this order:
    - the folder Stanford_Online_Products (or is that folder itself);
    - Stanford_Online_Products.zip, which is extracted beside itself once;
    - stanford_online_products, prepared by tensorflow-datasets, whose images are written as files
      into stanford_online_products_images once. Nothing is downloaded.

    A class is one product; `class_names` are "folder/class id", such as "bicycle_final/1".

    Reference: Oh Song, Xiang, Jegelka, Savarese, Deep Metric Learning via Lifted Structured
    Feature Embedding, CVPR 2016.

    Args:
        data_dir: folder.
        check_counts: refuse an archive, list or folder of images that is not the whole published
            set. With False, what is there is used, and a warning tells what is missing. Defaults to
            `True`.
        progress: called with (files written, files in all or None) while the archive is
            extracted.

    Returns:
        `ImageList` of 59,551 images of 11,318 training and 60,502 of 11,316 test classes.

    Raises:
        FileNotFoundError: files are missing; each is named, with the place where it goes.
        ValueError: counts differ from the published, a list or an archive is damaged.

    Example:

    >>> products = load_sop("downloads")   # doctest: +SKIP
    """
    return _RELEASE.load(data_dir, _read_lists, check_counts=check_counts, progress=progress)


def _read_lists(folder):
    class_ids, paths, sizes = [], [], []
    for name in _RELEASE.lists:
        _, numbers, _, files = read_headed_table(folder / name, _HEADER)
        class_ids.append(whole_numbers(numbers, folder / name))
        paths += files
        sizes.append(len(files))
    numbers, first, labels = np.unique(
        np.concatenate(class_ids), return_index=True, return_inverse=True
    )
    names = [f"{Path(paths[index]).parent}/{number}" for index, number in zip(first, numbers)]
    return Listing(folder, paths, labels, names, train=np.arange(len(paths)) < sizes[0])


DATA_SET = DataSet(
    name="sop",
    load=load_sop,
    marks=(*_RELEASE.marks(), "Ebay_train.txt"),
    options=PHOTOS_OF_A_BENCHMARK,
    progress=EXTRACTING,
)
