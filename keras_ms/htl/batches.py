"""Batches of classes together with their nearest ones, in the order of a class tree.

Which items make up a batch is plain NumPy, by the rules of balanced_indices.py: classes and images
are dealt like cards. `neighbour_batches` makes a tf.data.Dataset of them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ms.arguments import whole_number
from keras_ms.data.balanced_batches import (
    CROP_RATIO,
    CROP_SCALE,
    loaded_batches,
    source_labels,
)
from keras_ms.data.balanced_indices import (
    CLASSES,
    FILLING,
    IMAGES,
    checked_labels,
    deal_hands,
    hands_from,
    random_numbers,
)
from keras_ms.htl.class_tree import ClassTree


def neighbour_indices(
    labels: np.ndarray,
    nearest: np.ndarray,
    anchor_classes: int,
    images_per_class: int,
    *,
    classes_per_batch: int,
    seed: int = 0,
    start_step: int = 0,
) -> Iterator[np.ndarray]:
    """Endless batches of indices into `labels`: random classes, each with its nearest ones.

    - The anchor classes are dealt like cards: each class is an anchor once before any is again.
    - Each brings its nearest classes. A class that comes in twice counts once, and the places left
      are filled with random other classes, so that every batch holds `classes_per_batch`.
    - The images of a class are dealt like cards too, from a deck that is new at `start_step`: how
      often a class came before depends on the trees of the time before. A class with too few
      images repeats some.

    Args:
        labels: integers (N,).
        nearest: positions of the nearest classes of every class among the sorted class ids, (C,
            m - 1); (C, 0) fills all places but the anchors' at random.
        anchor_classes: l', at least 1.
        images_per_class: t, at least 2.
        classes_per_batch: l' * m, or any greater number.
        seed: whole number from 0 to 2**63 - 1.
        start_step: the anchors go on as they do after this many batches.

    Yields:
        int64 (classes_per_batch * t,), the images of a class next to each other, an anchor class
        before its neighbours.
    """
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    anchors = hands_from(start_step, len(sizes), anchor_classes, seed, CLASSES)
    image_hands = {}
    for step, hand in enumerate(anchors, start_step):
        chosen = np.concatenate([hand[:, None], nearest[hand]], axis=1).reshape(-1)
        others = random_numbers(seed, step, 0, FILLING).permutation(len(sizes))
        classes = _distinct(np.concatenate([chosen, others]))[:classes_per_batch]
        parts = []
        for label in classes.tolist():
            if label not in image_hands:
                # Decks from the step's number on: fewer decks than steps are used, so the next
                # epoch, which starts at a later step, never deals one of them again.
                image_hands[label] = deal_hands(
                    int(sizes[label]), images_per_class, seed, IMAGES, label, first_block=start_step
                )
            parts.append(starts[label] + next(image_hands[label]))
        yield order[np.concatenate(parts)]


def _distinct(numbers):
    """The numbers without repetitions, in the order in which they first come."""
    return numbers[np.sort(np.unique(numbers, return_index=True)[1])]


class NeighbourIndices:
    """The order of an epoch's items: random classes with their nearest ones, by a class tree.

    Use it with `keras_ms.neighbour_batches`, whose dataset it steers: what `follow` says holds
    from the next epoch on. `keras_ms.RebuildClassTree` calls it before every epoch.

    A batch is l' anchor classes, each with its m - 1 nearest ones, t images each; n = l' m t. The
    rule is that of `neighbour_indices`.

    Reference: Ge, Huang, Dong, Scott: Deep Metric Learning with Hierarchical Triplet Loss,
    ECCV 2018 (anchor-neighbour sampling).

    Relations: `keras_ms.data.balanced_indices.balanced_indices` draws all classes of a batch at
    random; here only the anchor classes are, beside their nearest ones. It is the order alone,
    `neighbour_batches` the dataset made of it.

    Args:
        labels: class ids, integers (N,), in the order of the items.
        anchor_classes: l'. Defaults to 4, as `classes_each`: 4 x 4 classes and 5 images are the
            80 of the official Multi-Similarity recipe; the published l', m and t are not known.
        classes_each: m, an anchor class and its nearest ones, at least 1. Defaults to 4.
        images_per_class: t, at least 2. Defaults to 5.
        steps_per_epoch: batches in an epoch, after which the tree may change.
            `RebuildClassTree` begins epoch k at step k * steps_per_epoch, also of a second `fit`:
            without `initial_epoch` that takes the anchors of the first once more.
        seed: whole number from 0 to 2**63 - 1. Defaults to 0.
        tree: `keras_ms.ClassTree` to begin with. Defaults to None: until `follow` brings one, the
            classes beside the anchors are drawn at random.

    Raises:
        ValueError: as `keras_ms.data.balanced_indices.balanced_indices`; numbers below 1.

    Example:

    >>> order = NeighbourIndices(np.repeat(range(6), 4), anchor_classes=2, classes_each=2,
    ...                          images_per_class=3, steps_per_epoch=10)
    >>> step, indices = next(order.epoch())
    >>> indices.shape
    (12,)
    """

    def __init__(
        self,
        labels: Any,
        *,
        anchor_classes: int = 4,
        classes_each: int = 4,
        images_per_class: int = 5,
        steps_per_epoch: int,
        seed: int = 0,
        tree: ClassTree | None = None,
    ):
        self.anchor_classes = whole_number("anchor_classes", anchor_classes)
        self.classes_each = whole_number("classes_each", classes_each)
        self.steps_per_epoch = whole_number("steps_per_epoch", steps_per_epoch)
        self.classes_per_batch = self.anchor_classes * self.classes_each
        self.labels = checked_labels(labels, self.classes_per_batch, images_per_class, seed, 0)
        self.images_per_class, self.seed = int(images_per_class), int(seed)
        self._class_ids = np.unique(self.labels)
        self._tree, self._nearest = tree, self._positions(tree)
        # until `follow` says where, each epoch goes on where the one before ended
        self._first_step, self._goes_on = 0, True

    def follow(self, tree: ClassTree | None, first_step: int | None = None) -> None:
        """From the next epoch on, takes the nearest classes of this tree.

        Args:
            tree: `keras_ms.ClassTree` of the same classes, or None for random classes.
            first_step: number of the next epoch's first batch. Every epoch begins there until
                told otherwise, however often it is read. Defaults to None: each epoch goes on
                where the one before was read to its end; one that was not is begun again.

        Raises:
            ValueError: a tree of other classes or without class means.
        """
        if tree is not self._tree:
            self._tree, self._nearest = tree, self._positions(tree)
        self._goes_on = first_step is None
        if first_step is not None:
            self._first_step = first_step

    def epoch(self) -> Iterator[tuple[int, np.ndarray]]:
        """The batches of one epoch, (step, indices): those of the tree of this moment."""
        # now, and not at the first batch, as in a generator
        return self._batches(self._nearest, self._first_step)

    def _batches(self, nearest, first_step):
        stream = neighbour_indices(
            self.labels,
            nearest,
            self.anchor_classes,
            self.images_per_class,
            classes_per_batch=self.classes_per_batch,
            seed=self.seed,
            start_step=first_step,
        )
        end = first_step + self.steps_per_epoch
        for step in range(first_step, end):
            indices = next(stream)
            # before the last batch is given away: nobody may ask for another
            if step == end - 1 and self._goes_on:
                self._first_step = end
            yield step, indices

    def _positions(self, tree):
        if tree is None:
            return np.empty((len(self._class_ids), 0), np.int64)
        if not np.array_equal(tree.class_ids, self._class_ids):
            strange = np.setxor1d(tree.class_ids, self._class_ids)
            raise ValueError(
                f"Expected a tree of the {len(self._class_ids)} classes that batches are drawn "
                f"from. Received: one of {len(tree.class_ids)}; class {strange[0]} is in one of "
                "the two only. Build it from the same images"
            )
        return np.searchsorted(self._class_ids, tree.nearest(self.classes_each - 1))


def neighbour_batches(
    source: Any,
    order: NeighbourIndices,
    *,
    views: bool = False,
    image_size: int | None = None,
    crop_scale: tuple[float, float] | None = CROP_SCALE,
    crop_ratio: tuple[float, float] = CROP_RATIO,
    flip: bool = True,
    distort: Callable[..., Any] | None = None,
    shard: tuple[int, int] = (0, 1),
    cache: bool | str = "auto",
    prefetch: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """An epoch of anchor-neighbour batches: random classes, each with its nearest ones.

    The nearest classes are the hardest to tell apart, so that such a batch holds more triplets
    that are violated than one of random classes. The dataset is an epoch long: give `fit` no
    `steps_per_epoch`. When an epoch begins, the dataset asks `order` for its tree and its first
    step; what is prepared ahead never reaches into the next epoch. So every batch is a function of
    the source, the seed, its step and the tree of its epoch. Without steps from `order.follow`, an
    epoch begins where the last one that was read to its end stopped.

    Reference: Ge, Huang, Dong, Scott: Deep Metric Learning with Hierarchical Triplet Loss, ECCV
    2018 (anchor-neighbour sampling).

    Relations: `balanced_batches` needs no tree, has no end and draws classes at random: take it
    unless batches hold too few hard negatives, which triplet losses need most.
    `curriculum_balanced_batches` chooses the images of a class, not the classes.

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
