"""The batches of a curriculum: all stages one after the other in one tf.data.Dataset.

Stage k draws from the subsets 0 to k of `curriculum_subsets`; each batch brings the weights of its
images, which `fit` hands to the loss. One dataset, one `fit`: each stage continues from the last.
"""

import logging
from dataclasses import replace

import numpy as np
import tensorflow as tf

from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.curriculum import STAGE_WEIGHTS, Stage, curriculum_stages
from keras_ms.data.image_list import ImageList

logger = logging.getLogger(__name__)

# the kinds of random numbers of balanced_indices are 0 to 2
_SHUFFLING = 3


def curriculum_balanced_batches(
    source,
    subset,
    *,
    steps_per_stage,
    stages=None,
    weights=STAGE_WEIGHTS,
    classes_per_batch=16,  # as balanced_batches
    images_per_class=5,
    seed=0,
    start_step=0,
    cache=False,
    **options,
):
    """Endless P classes × K images for an embedder, from clean to highly noisy images, weighted.

    Steps from k · steps_per_stage on are those of stage k; the last stage has no end. Within a
    stage the batches are those of `balanced_batches` from its images: a function of the source,
    the subsets, the seed and the step. `start_step` goes on where a training stopped, in any stage.

    A class with a single image in a stage makes no positive pair: it is left out of that stage,
    which is logged, and comes in with a later one.

    Args:
        source: an ImageList, class ids (N,), or a pair (array, labels), as in `balanced_batches`.
        subset: integers (N,), of `curriculum_subsets`.
        steps_per_stage: training steps of each stage.
        stages: as in `curriculum_stages`. Defaults to None: one for each subset.
        weights: as in `curriculum_stages`. Defaults to 1, 0.5, 0.5.
        classes_per_batch, images_per_class, seed: as in `balanced_batches`.
        start_step: number of batches that were consumed already.
        cache: as in `balanced_batches`, for each stage of its own. Defaults to False: the stages
            together would keep most images three times.
        **options: of `balanced_batches`, such as image_size, crop_scale, flip, shard.

    Returns:
        A tf.data.Dataset of (items, labels int64 (batch,), sample weights float32 (batch,)). Of
        class ids the items are rows of `source`.

    Raises:
        ValueError: as `balanced_batches`, which is told for the stage; subsets of another number
            of images; steps_per_stage below 1.

    Example:

    >>> features, labels = np.zeros((8, 3)), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> subset = np.array([0, 0, 1, 2, 0, 0, 1, 2])
    >>> batches = curriculum_balanced_batches((features, labels), subset, steps_per_stage=100,
    ...                                       classes_per_batch=2, images_per_class=2)
    >>> model.fit(batches, steps_per_epoch=100, epochs=3)   # doctest: +SKIP
    """
    labels = _labels(source)

    def batches(number, stage, start):
        stage = _with_a_pair(stage, labels, number)
        shared = {
            "classes_per_batch": classes_per_batch,
            "images_per_class": images_per_class,
            "seed": seed,
            "start_step": start,
        }
        ids_only = {"shard": options["shard"]} if "shard" in options else {}
        try:
            # the same rule, seed and step: row by row the items of the other dataset
            rows = balanced_batches(labels[stage.rows], **shared, **ids_only)
        except ValueError as error:
            raise ValueError(
                f"Stage {number + 1} with its {len(stage.rows):,} images: {error}"
            ) from error
        known, each = tf.constant(stage.rows), tf.constant(stage.weights)
        if not isinstance(source, (ImageList, tuple)):
            if set(options) - {"shard", "prefetch"}:
                raise ValueError(
                    f"Class ids take no options of images. Received: {sorted(options)}"
                )
            return rows.map(
                lambda row, label: (tf.gather(known, row), label, tf.gather(each, row))
            )
        items = balanced_batches(_part(source, stage.rows), **shared, cache=cache, **options)
        return tf.data.Dataset.zip(items, rows).map(
            lambda item, row: (*item, tf.gather(each, row[0]))
        )

    return _in_stages(labels, subset, steps_per_stage, stages, weights, start_step, batches)


def curriculum_batches(
    source,
    subset,
    *,
    batch_size,
    steps_per_stage,
    stages=None,
    weights=STAGE_WEIGHTS,
    seed=0,
    start_step=0,
):
    """Endless shuffled batches for a classifier, from clean to highly noisy images, weighted.

    As `curriculum_balanced_batches`, with images of any class in a batch: all images of the stage
    in random order, then all in another order, and so on, without a smaller batch at the end.

    Args:
        source: class ids (N,), or a pair (array, labels) with an array (N, …).
        subset: integers (N,), of `curriculum_subsets`.
        batch_size: images in a batch.
        steps_per_stage: training steps of each stage.
        stages: as in `curriculum_stages`. Defaults to None: one for each subset.
        weights: as in `curriculum_stages`. Defaults to 1, 0.5, 0.5.
        seed: whole number from 0 to 2**63 - 1.
        start_step: number of batches that were consumed already.

    Returns:
        A tf.data.Dataset of (items, labels int64 (batch,), sample weights float32 (batch,)). Of
        class ids the items are rows of `source`, from which images can be loaded by a map.

    Raises:
        ValueError: a source of another kind, subsets of another number of images, or a number
            below 1.

    Example:

    >>> features, labels = np.zeros((4, 3)), np.array([0, 0, 1, 1])
    >>> batches = curriculum_batches((features, labels), np.array([0, 1, 0, 2]), batch_size=2,
    ...                              steps_per_stage=100)
    >>> model.fit(batches, steps_per_epoch=100, epochs=3)   # doctest: +SKIP
    """
    if isinstance(source, ImageList):
        raise ValueError(
            "Expected class ids or (array, labels). Received: an ImageList. Pass its `labels` and "
            "load the rows that come back with a map"
        )
    if batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"Expected `batch_size` of at least 1. Received: {batch_size}")
    labels = _labels(source)
    array = np.asarray(source[0]) if isinstance(source, tuple) else np.arange(len(labels))

    def batches(number, stage, start):
        def draw():
            for places in shuffled_indices(len(stage.rows), batch_size, seed, start):
                rows = stage.rows[places]
                yield array[rows], labels[rows], stage.weights[places]

        signature = (
            tf.TensorSpec((batch_size, *array.shape[1:]), array.dtype),
            tf.TensorSpec((batch_size,), tf.int64),
            tf.TensorSpec((batch_size,), tf.float32),
        )
        dataset = tf.data.Dataset.from_generator(draw, output_signature=signature)
        return dataset.prefetch(tf.data.AUTOTUNE)

    return _in_stages(labels, subset, steps_per_stage, stages, weights, start_step, batches)


def shuffled_indices(size, batch_size, seed=0, start_step=0):
    """Endless batches of numbers below `size`: each once in random order, then again in another.

    Yields:
        int64 (batch_size,); a function of the arguments and the step, reached directly.
    """
    position = start_step * batch_size
    deck, rest = divmod(position, size)
    left = _shuffled(size, seed, deck)[rest:]
    while True:
        while len(left) < batch_size:
            deck += 1
            left = np.concatenate([left, _shuffled(size, seed, deck)])
        yield left[:batch_size]
        left = left[batch_size:]


def _shuffled(size, seed, deck):
    counter = np.array([0, deck, 0, _SHUFFLING], np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter)).permutation(size)


def _in_stages(labels, subset, steps_per_stage, stages, weights, start_step, batches):
    """The stages' datasets `batches(number, Stage, start_step)` from `start_step` on, in a row."""
    subset = np.asarray(subset)
    if subset.shape != labels.shape:
        raise ValueError(
            f"Expected a subset for each of {len(labels)} images. Received: shape {subset.shape}"
        )
    for name, value, least in (("steps_per_stage", steps_per_stage, 1), ("start_step", start_step, 0)):
        if value != int(value) or value < least:
            raise ValueError(f"Expected `{name}` of at least {least}. Received: {value}")
    every = curriculum_stages(subset, stages, weights)
    joined = None
    for number, stage in enumerate(every):
        start, end = max(start_step, number * steps_per_stage), (number + 1) * steps_per_stage
        last = number == len(every) - 1
        if start >= end and not last:
            continue
        dataset = batches(number, stage, start)
        dataset = dataset if last else dataset.take(end - start)
        joined = dataset if joined is None else joined.concatenate(dataset)
    return joined


def _labels(source):
    labels = source.labels if isinstance(source, ImageList) else source
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ValueError(f"Expected a pair (array, labels). Received: a tuple of {len(source)}")
        labels = source[1]
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            "Expected labels as integers of shape (N,), one class id per item. "
            f"Received: {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int64)


def _with_a_pair(stage, labels, number):
    """The stage without the classes that have one image in it."""
    _, where, counts = np.unique(labels[stage.rows], return_inverse=True, return_counts=True)
    kept = counts[where] > 1
    if not kept.all():
        logger.info(
            "Stage %d leaves out %d classes with a single image", number + 1, (~kept).sum()
        )
    return Stage(stage.rows[kept], stage.weights[kept])


def _part(source, rows):
    """The rows of an ImageList or of (array, labels)."""
    if isinstance(source, ImageList):
        columns = {name: getattr(source, name) for name in ("paths", "labels", "split", "images")}
        kept = {name: column[rows] for name, column in columns.items() if column is not None}
        # which images are searched says nothing about training
        return replace(source, **kept, is_query=None, is_gallery=None)
    array, labels = source[0], np.asarray(source[1])
    array = array if hasattr(array, "shape") else np.asarray(array)
    return array[:, rows] if array.ndim == 3 else array[rows], labels[rows]
