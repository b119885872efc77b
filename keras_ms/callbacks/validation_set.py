"""The images that a callback measures on, read again for each measurement and checked first."""

import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ms.arguments import class_ids, is_endless, knows_its_length, reads_once

# Of a dataset that does not know its length: as many images say that it may have no end, and as
# many that it has none. The largest test set of the field holds 60,502.
WARN_FROM = 20_000
REFUSE_FROM = 200_000
REPEATS_FROM = 1000

_FORMS = (
    "a finite tf.data.Dataset, a PyDataset or a list of batches (images, labels), or one tuple of "
    "arrays (images, labels)"
)


class ValidationSet:
    """Batches (images, labels) of whatever holds them.

    Args:
        dataset: as in `keras_ms.RecallAtK`.
        batch_size: images of a batch where `dataset` is a tuple of arrays.

    Raises:
        ValueError: what cannot be read again or has no end, or is no images with labels.
    """

    def __init__(self, dataset: Any, batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self.has_known_length = True
        if isinstance(dataset, tuple):
            self._check_arrays()
            return
        if reads_once(dataset):
            raise ValueError(
                f"The images are read again for each measurement. Received a "
                f"{type(dataset).__name__}, which can be read once: give {_FORMS}"
            )
        is_py_dataset = isinstance(dataset, keras.utils.PyDataset)
        if not is_py_dataset and not hasattr(dataset, "__iter__"):
            raise ValueError(f"Expected {_FORMS}. Received: {type(dataset).__name__}")
        if is_endless(dataset):
            raise ValueError(
                "Recall@K is measured on a finite dataset. Received one that repeats forever: "
                "leave out .repeat(), or cut it with .take(number_of_batches)"
            )
        self.has_known_length = is_py_dataset or knows_its_length(dataset)

    def check(self) -> None:
        """Raises ValueError if there is no first batch, or it is none of (images, class ids)."""
        if isinstance(self.dataset, tuple):
            return
        if next(iter(self.batches()), None) is None:
            raise ValueError("Expected images to measure on. Received an empty dataset: no batch")

    def batches(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields (images, labels): images as they come, labels as integers (batch,)."""
        repetition = None if self.has_known_length else _RepetitionCheck()
        for batch in self._given_batches():
            if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 3:
                raise ValueError(
                    f"Expected {_FORMS}. Received a batch of type {type(batch).__name__}"
                    + (f" and length {len(batch)}" if isinstance(batch, (tuple, list)) else "")
                )
            images, labels = batch[:2]
            labels = checked_class_ids(labels)
            if repetition:
                repetition.check(images, labels)
            yield images, labels

    def _given_batches(self):
        if not isinstance(self.dataset, tuple):
            return iter(self.dataset)
        images, labels = self.dataset
        return (
            keras.tree.map_structure(lambda array: array[start : start + self.batch_size], pair)
            for pair in [(images, labels)]
            for start in range(0, len(labels), self.batch_size)
        )

    def _check_arrays(self):
        if len(self.dataset) != 2:
            raise ValueError(
                "Expected a tuple of two arrays (images, labels). Received a tuple of "
                f"{len(self.dataset)}"
            )
        images, labels = self.dataset
        ids = checked_class_ids(labels)
        if not hasattr(next(iter(keras.tree.flatten(images)), None), "__len__"):
            images = np.asarray(images)  # lists of numbers
        self.dataset = images, ids
        lengths = {len(array) for array in keras.tree.flatten(images)}
        if lengths != {len(ids)} or not len(ids):
            raise ValueError(
                "Expected a tuple of arrays (images, labels) of one length, at least 1. Received "
                f"images of length {sorted(lengths)} and {len(ids)} labels"
            )
        check_some_class_has_two(ids)


def checked_class_ids(labels: Any) -> np.ndarray:
    """Class ids as int64 (count,), from a tensor of any backend too.

    Raises:
        ValueError: labels of several outputs, one-hot vectors, names, floats; it says what to do.
    """
    if isinstance(labels, dict) or (isinstance(labels, (tuple, list)) and _holds_arrays(labels)):
        outputs = sorted(labels) if isinstance(labels, dict) else f"{len(labels)} arrays"
        raise ValueError(
            "Expected labels as one array of integer class ids. Received those of several outputs: "
            f"{outputs}. Give one of them: dataset.map(lambda images, labels: (images, labels[…]))"
        )
    return class_ids(labels)


def check_some_class_has_two(ids: np.ndarray) -> None:
    """Raises ValueError if no two labels are equal: no query has anything to find."""
    if np.unique(ids, return_counts=True)[1].max() < 2:
        raise ValueError(
            "Recall@K needs a query whose class has another item to find. Received "
            f"{len(ids)} labels, none with one: every class holds a single image. Check the "
            "labels or give more images of each class"
        )


def _holds_arrays(values):
    return any(getattr(value, "ndim", 0) > 0 or isinstance(value, (list, tuple))
               for value in values)  # fmt: skip


class _RepetitionCheck:
    """Tells a dataset that begins again, or goes on for very long, from one that ends."""

    def __init__(self):
        self.fingerprints = []
        self.period = None
        self.num_images = 0
        self.warned = False

    def check(self, images, labels):
        """Raises ValueError once the batches have come twice or are too many."""
        parts = [np.asarray(ops.convert_to_numpy(array)) for array in keras.tree.flatten(images)]
        self.fingerprints.append(tuple(zlib.crc32(part.tobytes()) for part in (*parts, labels)))
        self.num_images += len(labels)
        here = len(self.fingerprints) - 1
        if self.period is None and here and self.fingerprints[-1] == self.fingerprints[0]:
            self.period = here
        elif self.period and self.fingerprints[-1] != self.fingerprints[here - self.period]:
            self.period = None
        # data made up for a trial may repeat itself, and end
        if self.period and here + 1 >= 2 * self.period and self.num_images >= REPEATS_FROM:
            self._refuse(f"It gave its first {self.period} batches again")
        if self.num_images >= REFUSE_FROM:
            self._refuse(f"It did not end within {self.num_images:,} images")
        if self.num_images >= WARN_FROM and not self.warned:
            self.warned = True
            warnings.warn(
                f"RecallAtK has read {self.num_images:,} images of a dataset that does not know "
                f"its length, and goes on up to {REFUSE_FROM:,}. If it repeats, cut it with "
                ".take(number_of_batches).",
                stacklevel=2,
            )

    def _refuse(self, found):
        raise ValueError(
            f"Recall@K is measured on a finite dataset. {found}: leave out .repeat(), cut it with "
            ".take(number_of_batches), or, where it has an end, say so with "
            ".apply(tf.data.experimental.assert_cardinality(number_of_batches))"
        )
