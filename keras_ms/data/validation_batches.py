"""Batches on which a validation loss means something: P classes × K images, the same every time."""

from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ms.data.array_source import ArraySource
from keras_ms.data.balanced_batches import source_labels
from keras_ms.data.balanced_indices import balanced_indices
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import evaluation_batches


def validation_batches(
    source: Any,
    *,
    classes_per_batch: int = 16,
    images_per_class: int = 5,
    image_size: int | None = None,
    resize_to: int | None = None,
    seed: int = 0,
    cache: bool | str = "auto",
) -> tf.data.Dataset:
    """A finite dataset of balanced batches, to measure a loss on held-out classes.

    A loss on pairs needs classes with several images in one batch. `evaluation_batches` gives the
    images class by class: its batches hold one class, and the loss on them is 0. Here every class
    comes once in a pass, with K of its images (where the classes do not divide by P, some come
    twice); images are seen as in evaluation, and every pass and every process gets the same
    batches.

    Relations: for `validation_data`, a loss on held-out classes; `balanced_batches` is endless and
    augmented, to train on; `evaluation_batches` gives every image once, for Recall@K.

    Args:
        source: an ImageList, such as `images.subset("validation")`, or a pair (array, labels) with
            an array (N, …).
        classes_per_batch, images_per_class: P and K, each at least 2. Those of training make its
            loss comparable. Default to 16 and 5.
        image_size, resize_to, cache: as in `evaluation_batches`; for an ImageList only.
        seed: which images of a class, and which classes together; whole number from 0 to 2**63 - 1.
            Defaults to 0.

    Returns:
        A finite tf.data.Dataset of (images or rows, labels int64), ceil(classes / P) batches.

    Raises:
        ValueError: as `balanced_indices` (fewer than P classes, a class with one image) and
            `evaluation_batches`; a source of another kind.

    Example:

    >>> features, labels = np.zeros((12, 3)), np.repeat([0, 1, 2], 4)
    >>> dataset = validation_batches((features, labels), classes_per_batch=2, images_per_class=2)
    >>> [batch_labels.numpy().size for _, batch_labels in dataset]
    [4, 4]
    """
    is_images = isinstance(source, ImageList)
    if not is_images and not (isinstance(source, tuple) and len(source) == 2):
        raise ValueError(
            f"Expected an ImageList or a pair (array, labels). Received: {type(source).__name__}"
        )
    if not is_images and (image_size, resize_to, cache) != (None, None, "auto"):
        raise ValueError(
            "`image_size`, `resize_to` and `cache` are for an ImageList; this source has no images"
        )
    labels = source_labels(source)
    stream = balanced_indices(labels, classes_per_batch, images_per_class, seed=seed)
    classes_per_batch, images_per_class = int(classes_per_batch), int(images_per_class)
    num_batches = -(-len(np.unique(labels)) // classes_per_batch)
    indices = np.concatenate([next(stream) for _ in range(num_batches)])
    batch_size = classes_per_batch * images_per_class
    if is_images:
        return evaluation_batches(
            _chosen(source, indices),
            image_size,
            resize_to=resize_to,
            batch_size=batch_size,
            cache=cache,
        )
    array = ArraySource(source[0], len(labels))
    rows = array.rows(indices, np.zeros(len(indices))), np.asarray(labels, np.int64)[indices]
    return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)


def _chosen(images, indices):
    """The images of these indices, in their order; which are queries says nothing about a loss."""
    columns = {name: getattr(images, name) for name in ("paths", "labels", "split", "images")}
    kept = {name: column[indices] for name, column in columns.items() if column is not None}
    return replace(images, is_query=None, is_gallery=None, **kept)
