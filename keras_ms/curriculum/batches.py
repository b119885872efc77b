"""The batches of a curriculum: all stages one after the other in one tf.data.Dataset.

Stage k draws from the subsets 0 to k of `curriculum_subsets`; each batch brings the weights of its
images, which `fit` hands to the loss. One dataset, one `fit`: each stage continues from the last.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ms.arguments import whole_number
from keras_ms.curriculum.subsets import STAGE_WEIGHTS, Stage, curriculum_stages
from keras_ms.data.balanced_batches import checked_shard, endless, loaded_batches, source_labels
from keras_ms.data.balanced_indices import balanced_indices, checked_labels, random_numbers
from keras_ms.data.image_list import ImageList

logger = logging.getLogger(__name__)

# the kinds of random numbers of balanced_indices are 0 to 3
_SHUFFLING = 4
_MOST_SEED = 2**63 - 1
# how images are shown, as in balanced_batches
_VIEW_OPTIONS = (
    "views",
    "image_size",
    "crop_scale",
    "crop_ratio",
    "flip",
    "distort",
    "shard",
    "cache",
    "prefetch",
)


def curriculum_balanced_batches(
    source: Any,
    subset: Any,
    *,
    steps_per_stage: int,
    stages: int | None = None,
    weights: Sequence[float] = STAGE_WEIGHTS,
    classes_per_batch: int = 16,  # as balanced_batches
    images_per_class: int = 5,
    seed: int = 0,
    start_step: int = 0,
    **options: Any,
) -> tf.data.Dataset:
    """Endless P classes × K images for an embedder, from clean to highly noisy images, weighted.

    Steps from k · steps_per_stage on are those of stage k; the last stage has no end. Within a
    stage the classes and images are those of `balanced_indices` from its images, from its first
    step on with a seed of its own: a function of the subsets, the seed and the step. `start_step`
    goes on where a training stopped, in any stage.

    A class with a single image in a stage makes no positive pair: it is left out of that stage,
    which is logged, and comes in with a later one.

    Reference: Guo et al.: CurriculumNet: Weakly Supervised Learning from Large-Scale Web Images,
    ECCV 2018; its stages, with balanced batches for an embedder.

    Relations: `balanced_batches` draws from all images from the first step on: take that where the
    labels can be trusted, this for labels of the web. `curriculum_batches` is the one for
    classifiers, `neighbour_batches` goes by classes instead.

    Args:
        source: an ImageList, class ids (N,), or a pair (array, labels), as in `balanced_batches`.
        subset: integers (N,), of `curriculum_subsets`.
        steps_per_stage: training steps of each stage.
        stages: as in `curriculum_stages`. Defaults to None: one for each subset.
        weights: as in `curriculum_stages`. Defaults to 1, 0.5, 0.5.
        classes_per_batch, images_per_class, seed: as in `balanced_batches`.
        start_step: number of batches that were consumed already. Defaults to 0.
        **options: views, image_size, crop_scale, crop_ratio, flip, distort, shard, cache,
            prefetch, as in `balanced_batches`.

    Returns:
        A tf.data.Dataset of (items, labels int64 (batch,), sample weights float32 (batch,)). Of
        class ids the items are rows of `source`.

    Raises:
        ValueError: as `balanced_batches`, for the images of the stage that it names; subsets of
            another number of images; steps_per_stage below 1.
        TypeError: an option of another name.

    Example:

    >>> features, labels = np.zeros((8, 3)), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> subset = np.array([0, 0, 1, 2, 0, 0, 1, 2])
    >>> batches = curriculum_balanced_batches((features, labels), subset, steps_per_stage=100,
    ...                                       classes_per_batch=2, images_per_class=2)
    >>> model.fit(batches, steps_per_epoch=100, epochs=3)   # doctest: +SKIP
    """
    _check_names("curriculum_balanced_batches", options)
    labels, seed = source_labels(source), _checked_seed(seed)
    steps_per_stage, start_step = _checked_steps(steps_per_stage, start_step)
    every, each = _checked_stages(labels, subset, stages, weights)
    every = [_with_a_pair(stage, labels, number) for number, stage in enumerate(every, 1)]
    for number, stage in enumerate(every, 1):
        try:
            checked_labels(
                labels[stage.rows], classes_per_batch, images_per_class, seed, start_step
            )
        except ValueError as error:
            raise ValueError(f"Stage {number} with {len(stage.rows):,} images: {error}") from error
    shape = {
        "classes_per_batch": int(classes_per_batch),
        "images_per_class": int(images_per_class),
    }

    def draw(number, start):
        return balanced_indices(
            labels[every[number].rows], **shape, seed=_stage_seed(seed, number), start_step=start
        )

    numbered = _numbered_batches(every, steps_per_stage, start_step, draw)
    return _weighted(source, labels, each, numbered, {**shape, "seed": seed, **options})


def curriculum_batches(
    source: Any,
    subset: Any,
    *,
    batch_size: int,
    steps_per_stage: int,
    stages: int | None = None,
    weights: Sequence[float] = STAGE_WEIGHTS,
    seed: int = 0,
    start_step: int = 0,
    **options: Any,
) -> tf.data.Dataset:
    """Endless shuffled batches for a classifier, from clean to highly noisy images, weighted.

    As `curriculum_balanced_batches`, with images of any class in a batch: all images of the stage
    in random order, then all in another order, and so on, without a smaller batch at the end. Each
    stage begins such an order anew.

    Reference: Guo et al.: CurriculumNet: Weakly Supervised Learning from Large-Scale Web Images,
    ECCV 2018.

    Relations: for a classifier, whose batches need no pairs; `curriculum_balanced_batches` is the
    one for pair-based losses.

    Args:
        source: an ImageList, class ids (N,), or a pair (array, labels), as in `balanced_batches`.
        subset: integers (N,), of `curriculum_subsets`.
        batch_size: images in a batch.
        steps_per_stage: training steps of each stage.
        stages: as in `curriculum_stages`. Defaults to None: one for each subset.
        weights: as in `curriculum_stages`. Defaults to 1, 0.5, 0.5.
        seed: whole number from 0 to 2**63 - 1. Defaults to 0.
        start_step: number of batches that were consumed already. Defaults to 0.
        **options: views, image_size, crop_scale, crop_ratio, flip, distort, shard, cache,
            prefetch, as in `balanced_batches`.

    Returns:
        A tf.data.Dataset of (items, labels int64 (batch,), sample weights float32 (batch,)). Of
        class ids the items are rows of `source`.

    Raises:
        ValueError: labels or options that `balanced_batches` refuses, subsets of another number of
            images, a number below 1, or a shard that does not divide the batch.
        TypeError: an option of another name.

    Example:

    >>> features, labels = np.zeros((4, 3)), np.array([0, 0, 1, 1])
    >>> batches = curriculum_batches((features, labels), np.array([0, 1, 0, 2]), batch_size=2,
    ...                              steps_per_stage=100)
    >>> model.fit(batches, steps_per_epoch=100, epochs=3)   # doctest: +SKIP
    """
    _check_names("curriculum_batches", options)
    batch_size = whole_number("batch_size", batch_size)
    checked_shard(options.get("shard", (0, 1)), batch_size, "batch_size")
    labels, seed = source_labels(source), _checked_seed(seed)
    steps_per_stage, start_step = _checked_steps(steps_per_stage, start_step)
    every, each = _checked_stages(labels, subset, stages, weights)

    def draw(number, start):
        return shuffled_indices(len(every[number].rows), batch_size, seed, start, stream=number)

    shape = {"classes_per_batch": batch_size, "images_per_class": 1}  # their product counts
    numbered = _numbered_batches(every, steps_per_stage, start_step, draw)
    return _weighted(source, labels, each, numbered, {**shape, "seed": seed, **options})


def shuffled_indices(
    size: int, batch_size: int, seed: int = 0, start_step: int = 0, stream: int = 0
) -> Iterator[np.ndarray]:
    """Endless batches of numbers below `size`: each once in random order, then again in another.

    Args:
        size: how many numbers there are.
        batch_size: how many are in a batch.
        seed: whole number from 0 to 2**63 - 1.
        start_step: number of batches that were consumed already.
        stream: another one has other orders.

    Yields:
        int64 (batch_size,); a function of the arguments and the step, reached directly.
    """
    position = start_step * batch_size
    deck, rest = divmod(position, size)
    left = _shuffled(size, seed, deck, stream)[rest:]
    while True:
        while len(left) < batch_size:
            deck += 1
            left = np.concatenate([left, _shuffled(size, seed, deck, stream)])
        yield left[:batch_size]
        left = left[batch_size:]


def _shuffled(size, seed, deck, stream):
    return random_numbers(seed, deck, stream, _SHUFFLING).permutation(size)


def _stage_seed(seed, number):
    """A seed for each stage: with the same one a class of as many images repeated its orders."""
    words = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return int(words[0]) & _MOST_SEED


def _check_names(function, options):
    unknown = sorted(set(options) - set(_VIEW_OPTIONS))
    if unknown:
        raise TypeError(
            f"{function}() has no argument {', '.join(unknown)}. Images are shown as told by: "
            f"{', '.join(_VIEW_OPTIONS)}"
        )


def _checked_seed(seed):
    return whole_number("seed", seed, least=0, most=_MOST_SEED)


def _checked_steps(steps_per_stage, start_step):
    return (
        whole_number("steps_per_stage", steps_per_stage),
        whole_number("start_step", start_step, least=0),
    )


def _checked_stages(labels, subset, stages, weights):
    """(the stages, float32 (N,) weight of each image)."""
    subset = np.asarray(subset)
    if subset.shape != labels.shape:
        raise ValueError(
            f"Expected a subset for each of {len(labels)} images. Received: shape {subset.shape}"
        )
    every = curriculum_stages(subset, stages, weights)
    each = np.zeros(len(labels), np.float32)
    each[every[-1].rows] = every[-1].weights
    return every, each


def _with_a_pair(stage, labels, number):
    """The stage without the classes that have one image in it."""
    _, where, counts = np.unique(labels[stage.rows], return_inverse=True, return_counts=True)
    kept = counts[where] > 1
    if not kept.all():
        logger.info("Stage %d leaves out %d classes with a single image", number, (~kept).sum())
    return Stage(stage.rows[kept], stage.weights[kept])


def _numbered_batches(every, steps_per_stage, start_step, draw):
    """Function that returns an iterator of (step, rows), from `start_step` on, in all stages.

    `draw(number of the stage, step within it)` gives the places among the stage's rows.
    """

    def numbered():
        for number, stage in enumerate(every):
            first = number * steps_per_stage
            start = max(start_step, first)
            last = number == len(every) - 1
            steps = count(start) if last else range(start, first + steps_per_stage)
            for step, places in zip(steps, draw(number, start - first)):
                yield step, stage.rows[places]

    return numbered


def _weighted(source, labels, each, numbered_batches, options):
    items = endless(loaded_batches(source, numbered_batches, **options))
    each = tf.constant(each)
    if not isinstance(source, (ImageList, tuple)):
        return items.map(lambda rows, label: (rows, label, tf.gather(each, rows)))
    # the same batches once more, as rows: they tell the weights
    unread = set(_VIEW_OPTIONS) - {"shard"}
    of_rows = {name: value for name, value in options.items() if name not in unread}
    rows = endless(loaded_batches(labels, numbered_batches, **of_rows))
    return tf.data.Dataset.zip(items, rows).map(lambda item, row: (*item, tf.gather(each, row[0])))
