"""Reads data sets that tensorflow-datasets has prepared already; never starts a download."""

import csv
import logging
import re
from pathlib import Path
from typing import NamedTuple

from keras_ms.data.file_names import some_names
from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.benchmarks import Benchmark
from keras_ms.data.sets.csv_list import load_csv
from keras_ms.files import whole_folder

logger = logging.getLogger(__name__)

_LIST = "images.csv"
_PNG_START = b"\x89PNG"


class PreparedDataset(NamedTuple):
    """A data set as tensorflow-datasets has it.

    Attributes:
        builder: name, such as "caltech_birds2011".
        label_key: which feature is the class; 0-based.
        last_training_class: number of the last class that trains, counted from 1. Its own splits
            share their classes and are taken together.
    """

    builder: str
    label_key: str
    last_training_class: int


def load_prepared(
    benchmark: Benchmark, data_dir: str | Path, dataset: PreparedDataset, *, check_counts: bool
) -> ImageList:
    """The ImageList of a set that tensorflow-datasets prepared, split by class.

    Its images are written as files into `<data_dir>/<builder>_images`, bytes unchanged, the first
    time: training reads them in any order, which tensorflow-datasets' files do not allow. The
    folder appears whole or not at all, and is all that is read afterwards.

    Args:
        benchmark: a `Benchmark`.
        data_dir: what tensorflow-datasets calls so: it holds `<builder>/<version>/`.
        dataset: the set there.
        check_counts: as in the loaders.

    Raises:
        FileNotFoundError: no such set, or files of it are missing.
        FileExistsError: `<builder>_images` holds something else.
        ValueError: it differs from the published set; its images are not written then.
        ImportError: tensorflow-datasets is needed and not there.
    """
    images_folder = Path(data_dir, f"{dataset.builder}_images")
    if not (images_folder / _LIST).is_file():
        prepared = _prepared_folder(benchmark, Path(data_dir), dataset.builder)
        logger.info("Writing the images of %s into %s, once", prepared, images_folder)
        with whole_folder(images_folder, replace=False) as new:
            examples = _examples(prepared, dataset.label_key)
            _write_images(examples, new, dataset.last_training_class)
            if check_counts:
                benchmark.check(load_csv(new / _LIST, check_images=False), check_counts)
    images = load_csv(images_folder / _LIST, name=benchmark.name, check_images=False)
    benchmark.check(images, check_counts)
    return images


def _prepared_folder(benchmark, data_dir, builder):
    """The folder of the newest version, with all its files there."""
    versions = [
        path.parent
        for path in data_dir.glob(f"{builder}/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    if not versions:
        unfinished = sorted(data_dir.glob(f"{builder}/*incomplete*"))
        if unfinished:
            raise FileNotFoundError(
                f"tensorflow-datasets did not finish {some_names(unfinished)}: prepare the set anew"
            )
        raise benchmark.missing(data_dir)
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def _examples(folder, label_key):
    """(encoded image, class id) of all examples of all splits, in their files' order."""
    try:
        import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"{folder} is read with tensorflow-datasets, which cannot be imported ({error}). "
            "Install it: pip install tensorflow-datasets importlib_resources"
        ) from error
    # from the folder alone: no builder that could download
    builder = tfds.builder_from_directory(folder)
    splits = sorted(builder.info.splits)
    files = [Path(file) for name in splits for file in builder.info.splits[name].filepaths]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"Files of {folder} are missing: {some_names(missing)}. Prepare it anew with "
            "tensorflow-datasets"
        )
    for name in splits:
        examples = builder.as_dataset(
            split=name,
            shuffle_files=False,
            decoders=tfds.decode.PartialDecoding(
                {"image": True, label_key: True}, decoders={"image": tfds.decode.SkipDecoding()}
            ),
        )
        for example in examples.as_numpy_iterator():
            yield example["image"], int(example[label_key])


def _write_images(examples, folder, last_training_class):
    with open(folder / _LIST, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for number, (image, class_id) in enumerate(examples):
            suffix = "png" if image.startswith(_PNG_START) else "jpg"
            # numbered from 1, as their authors do
            path = Path(f"{class_id + 1:05}", f"{number:06}.{suffix}")
            (folder / path.parent).mkdir(exist_ok=True)
            (folder / path).write_bytes(image)
            split = "train" if class_id < last_training_class else "test"
            table.writerow([path.as_posix(), class_id + 1, split])
