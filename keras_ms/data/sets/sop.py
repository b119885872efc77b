"""Stanford Online Products: 120,053 photos of 22,634 products."""

from pathlib import Path

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.benchmarks import (
    Benchmark,
    Progress,
    extracted,
    find_folder,
    read_table,
    whole_numbers,
)
from keras_ms.data.sets.declaration import EXTRACTING, PHOTOS_OF_A_BENCHMARK, DataSet
from keras_ms.data.sets.prepared_datasets import load_prepared
from keras_ms.data.text_files import read_lines

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
_SHA256 = "b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48"
_HEADER = "image_id class_id super_class_id path"
_LAST_TRAINING_CLASS = 11318


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
            set. With False, what is there is used, and a warning tells what is missing.
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
    folder = find_folder(data_dir, ("Stanford_Online_Products", ""), marker="Ebay_train.txt")
    if folder is None:
        name = "Stanford_Online_Products"
        folder = extracted(
            Path(data_dir, f"{name}.zip"),
            Path(data_dir, name),
            prefix=name,
            check_counts=check_counts,
            progress=progress,
            sha256=_SHA256,
        )
    if folder is None:
        return load_prepared(
            SOP,
            data_dir,
            builder="stanford_online_products",
            label_key="class_id",
            last_training_class=_LAST_TRAINING_CLASS,
            check_counts=check_counts,
        )
    lists = [folder / "Ebay_train.txt", folder / "Ebay_test.txt"]
    missing = [path for path in lists if not path.is_file()]
    if missing:
        raise SOP.missing(data_dir, missing)
    columns = [_read_list(path) for path in lists]
    class_ids = np.concatenate([ids for ids, _ in columns])
    paths = [path for _, paths in columns for path in paths]
    numbers, first, labels = np.unique(class_ids, return_index=True, return_inverse=True)
    names = [f"{Path(paths[index]).parent}/{number}" for index, number in zip(first, numbers)]
    train = np.arange(len(paths)) < len(columns[0][0])
    return SOP.image_list(
        data_dir,
        folder,
        paths=paths,
        class_ids=labels,
        class_names=names,
        train=train,
        check_counts=check_counts,
    )


def _read_list(path):
    """(class ids (N,), paths) of a list in the format of Ebay_train.txt."""
    header = read_lines(path, "a list of images", keep_bytes=True)[0].strip()
    if header.split() != _HEADER.split():
        raise ValueError(f"Expected {_HEADER!r} in the first line of {path}. Received: {header!r}")
    _, class_ids, _, paths = read_table(path, 4, skip_lines=1)
    return whole_numbers(class_ids, path), list(paths)


DATA_SET = DataSet(
    name="sop",
    load=load_sop,
    marks=(
        "Stanford_Online_Products",
        "Stanford_Online_Products.zip",
        "Ebay_train.txt",
        "stanford_online_products",
        "stanford_online_products_images/images.csv",
    ),
    options=PHOTOS_OF_A_BENCHMARK,
    progress=EXTRACTING,
)
