"""Batches of classes with their nearest ones, as a tf.data.Dataset that follows the class tree."""

import numpy as np
import tensorflow as tf

from keras_ms.data.balanced_batches import loaded_batches, source_labels


def neighbour_batches(
    source,
    order,
    *,
    views=False,
    image_size=None,
    crop_scale=(0.16, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=True,
    distort=None,
    shard=(0, 1),
    cache="auto",
    prefetch=tf.data.AUTOTUNE,
):
    """An epoch of anchor-neighbour batches: random classes, each with its nearest ones.

    The nearest classes are the hardest to tell apart, so that such a batch holds more triplets
    that are violated than one of random classes. The dataset is an epoch long: give `fit` no
    `steps_per_epoch`. When an epoch begins, the dataset asks `order` for its tree and its first
    step; what is prepared ahead never reaches into the next epoch. So every batch is a function of
    the source, the seed, its step and the tree of its epoch. Without steps from `order.follow`, an
    epoch begins where the last one that was read to its end stopped.

    Args:
        source: as in `keras_ms.balanced_batches`: an ImageList, class ids or (array, labels).
        order: `keras_ms.NeighbourIndices` of the same labels. It decides the classes of a batch,
            the images of a class, the steps of an epoch and the seed.
        views, image_size, crop_scale, crop_ratio, flip, distort, shard, cache, prefetch: as in
            `keras_ms.balanced_batches`.

    Returns:
        A tf.data.Dataset of (items, labels int64 (batch,)) with static shapes, `steps_per_epoch`
        batches long.

    Raises:
        ValueError: other labels than those of `order`, and as `keras_ms.balanced_batches`.

    Example:

    >>> features, labels = np.zeros((24, 3)), np.repeat(range(6), 4)
    >>> order = keras_ms.NeighbourIndices(
    ...     labels, anchor_classes=2, classes_each=2, steps_per_epoch=10
    ... )
    >>> dataset = neighbour_batches((features, labels), order)
    >>> dataset.element_spec[0].shape, int(dataset.cardinality())
    (TensorShape([20, 3]), 10)
    """
    if not np.array_equal(source_labels(source), order.labels):
        raise ValueError(
            "Expected `order` to be made from the labels of this source, "
            "NeighbourIndices(labels, …). Received: others"
        )
    dataset = loaded_batches(
        source,
        order.epoch,
        views=views,
        classes_per_batch=order.classes_per_batch,
        images_per_class=order.images_per_class,
        image_size=image_size,
        crop_scale=crop_scale,
        crop_ratio=crop_ratio,
        flip=flip,
        distort=distort,
        seed=order.seed,
        shard=shard,
        cache=cache,
        prefetch=prefetch,
    )
    # Keras then makes a new iterator, and so asks `order` anew, for every epoch
    return dataset.apply(tf.data.experimental.assert_cardinality(order.steps_per_epoch))
