"""DeepFashion In-Shop: 52,712 photos of 7,982 clothes, queries and gallery apart."""

import os
from pathlib import Path

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.benchmarks import Benchmark, Listing, read_headed_table
from keras_ms.data.sets.declaration import EXTRACTING, PHOTOS_OF_A_BENCHMARK, DataSet
from keras_ms.data.sets.release import extracted, find_folder
from keras_ms.data.text_files import read_lines
from keras_ms.terminal.progress import Progress

IN_SHOP = Benchmark(
    name="in_shop",
    title="DeepFashion In-Shop",
    counts={"train": (3997, 25882), "test": (3985, 26830)},
    queries=(14218, 12612),
    files=("Eval/list_eval_partition.txt, and Img/img.zip or Img/img/ (the photos of 256 pixels)",),
    source=(
        "The authors give it, after an agreement, at "
        "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html"
    ),
)
_LIST = "list_eval_partition.txt"
_HEADER = "image_name item_id evaluation_status"
_STATUSES = ("train", "query", "gallery")


def load_in_shop(
    data_dir: str | Path, *, check_counts: bool = True, progress: Progress | None = None
) -> ImageList:
    """Reads DeepFashion In-Shop: its list says which images train, are queries or the gallery.

    Test images are searched query → gallery only: `is_query` and `is_gallery` of the list say
    which is which. Training images are both, for the classes held out of them for validation.

    `data_dir` holds Eval/list_eval_partition.txt and Img/img, or Img/img.zip, which is extracted
    beside itself once (both also without Eval/ and Img/). tensorflow-datasets has no builder.

    Reference: Liu, Luo, Qiu, Wang, Tang, DeepFashion: Powering Robust Clothes Recognition and
    Retrieval with Rich Annotations, CVPR 2016.

    Args:
        data_dir: folder.
        check_counts: refuse a list or folder of images that is not the whole published set. With
            False, what is there is used, and a warning tells what is missing. Defaults to `True`.
        progress: called with (files written, files in all or None) while the archive is
            extracted.

    Returns:
        `ImageList` of 25,882 images of 3,997 training classes and of 3,985 test classes with
        14,218 queries and 12,612 in the gallery.

    Raises:
        FileNotFoundError: files are missing; each is named, with the place where it goes.
        ValueError: counts differ from the published, the list or the archive is damaged.

    Example:

    >>> clothes = load_in_shop("downloads")   # doctest: +SKIP
    """
    list_folder = find_folder(data_dir, ("Eval", ""), marker=_LIST)
    image_folder = find_folder(data_dir, ("Img",), marker="img")
    if image_folder is None:
        image_folder = find_folder(data_dir, ("Img", ""), marker="img.zip")
    # where case does not count, Img would be found by the name img
    if image_folder is None and "img" in os.listdir(data_dir):
        image_folder = Path(data_dir)
    if list_folder is None or image_folder is None:
        missing = [] if list_folder else [Path(data_dir, "Eval", _LIST)]
        missing += [] if image_folder else [Path(data_dir, "Img", "img.zip")]
        raise IN_SHOP.missing(data_dir, missing)
    paths, items, statuses = _read_list(list_folder / _LIST)
    extracted(
        image_folder / "img.zip",
        image_folder / "img",
        prefix="img",
        check_counts=check_counts,
        progress=progress,
    )
    names, labels = np.unique(items, return_inverse=True)
    train = statuses == "train"
    listing = Listing(
        image_folder,
        paths,
        labels,
        names.tolist(),
        train,
        is_query=train | (statuses == "query"),
        is_gallery=train | (statuses == "gallery"),
    )
    return IN_SHOP.image_list(data_dir, listing, check_counts=check_counts)


def _read_list(path):
    """(paths, item ids (N,) str, statuses (N,) str) of list_eval_partition.txt."""
    paths, items, statuses = read_headed_table(path, _HEADER, lines_before=1)
    count = read_lines(path, "a list of images", keep_bytes=True)[0].strip()
    if count != str(len(paths)):
        raise ValueError(
            f"{path} lists {len(paths)} images, and its first line says {count[:20]!r}: it is cut "
            "off or changed. Fetch it again"
        )
    unknown = sorted(set(statuses) - set(_STATUSES))
    if unknown:
        raise ValueError(f"Expected {', '.join(_STATUSES)} as status in {path}. Got: {unknown[:5]}")
    return list(paths), np.array(items), np.array(statuses)


DATA_SET = DataSet(
    name="in_shop",
    load=load_in_shop,
    marks=("list_eval_partition.txt", "Eval/list_eval_partition.txt", "Img/img.zip"),
    options=PHOTOS_OF_A_BENCHMARK,
    progress=EXTRACTING,
)
