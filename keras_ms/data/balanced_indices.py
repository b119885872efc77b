"""Which items make up each batch: P classes × K images, as indices.

Plain NumPy: one generator for all classes. 11,318 classes start as fast as 100, and any step of
the stream can be reached without the steps before it.
"""

import math
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np

from keras_ms.arguments import class_ids, whole_number

# keep the kinds of random numbers of one seed apart
CLASSES, IMAGES, VIEWS, FILLING = range(4)


def balanced_indices(
    labels: Any,
    classes_per_batch: int,
    images_per_class: int,
    *,
    seed: int = 0,
    start_step: int = 0,
) -> Iterator[np.ndarray]:
    """Endless batches of indices into `labels`: P different classes, K images of each.

    The rule, for classes as for the images of one class, is that of a deck of cards: shuffle all,
    deal hands, shuffle again only when the deck is used up. In detail:
    - every class is visited once before any is visited again, whatever its size;
    - where the classes do not divide by P, a batch takes the rest of one deck and goes on with
      the next, whose order is changed as little as keeps the batch's P classes different;
    - each image of a class is used once before any is used again; leftovers of a deck are never
      dropped, and the next deck goes on with images that the batch does not hold yet;
    - a class with fewer than K images repeats images, each as often as any other or once more.

    Args:
        labels: integers (N,) or (N, 1).
        classes_per_batch: P, at least 2.
        images_per_class: K, at least 2.
        seed: whole number from 0 to 2**63 - 1.
        start_step: the stream goes on as it does after this many batches. Reached directly: each
            deck is a function of the seed and its own number.

    Yields:
        int64 (P * K,), the K images of a class next to each other.

    Raises:
        ValueError: labels that are not integers or not one-dimensional, P or K below 2, fewer
            than P classes, a class with one image, a seed or step out of range.

    Example:

    >>> next(balanced_indices([7, 7, 9, 9], 2, 2, seed=0)).shape
    (4,)
    """
    labels = checked_labels(labels, classes_per_batch, images_per_class, seed, start_step)
    # 4.0 is a whole number too
    numbers = map(int, (classes_per_batch, images_per_class, seed, start_step))
    return _index_batches(labels, *numbers)


def _index_batches(labels, classes_per_batch, images_per_class, seed, start_step):
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    num_classes = len(sizes)

    # a block of batches uses each class equally often, so whole blocks need not be dealt
    batches, visits_each = _block(num_classes, classes_per_batch)
    block, rest = divmod(start_step, batches)
    visits = np.full(num_classes, block * visits_each)
    class_hands = deal_hands(num_classes, classes_per_batch, seed, CLASSES, first_block=block)
    for _ in range(rest):
        visits[next(class_hands)] += 1

    image_hands = {}
    for classes in class_hands:
        parts = []
        for label in classes.tolist():
            if label not in image_hands:
                image_hands[label] = hands_from(
                    int(visits[label]), int(sizes[label]), images_per_class, seed, IMAGES, label
                )
            parts.append(starts[label] + next(image_hands[label]))
        yield order[np.concatenate(parts)]


def _block(size, hand):
    """Hands until a deck ends together with a hand, and how often each card was dealt by then."""
    common = math.gcd(size, hand)
    return size // common, hand // common


def hands_from(
    start: int, size: int, hand: int, seed: int, purpose: int, stream: int = 0
) -> Iterator[np.ndarray]:
    """`deal_hands` from hand number `start` on, reached directly."""
    block, rest = divmod(int(start), _block(size, hand)[0])
    hands = deal_hands(size, hand, seed, purpose, stream, first_block=block)
    for _ in range(rest):
        next(hands)
    return hands


def deal_hands(
    size: int, hand: int, seed: int, purpose: int, stream: int = 0, first_block: int = 0
) -> Iterator[np.ndarray]:
    """Hands of `hand` numbers below `size`, by the rule of `balanced_indices`, block by block."""
    for block in count(first_block):
        random = random_numbers(seed, block, stream, purpose)
        deck = np.empty(0, np.int64)
        for _ in range(_block(size, hand)[0]):
            held, deck = deck[:hand], deck[hand:]
            missing = hand - len(held)
            if missing:
                decks, missing = divmod(missing, size)
                whole = [random.permutation(size) for _ in range(decks)]
                deck = random.permutation(size) if missing else deck
                new, deck = _deal(deck, missing, held, size)
                held = np.concatenate([held, *whole, new])
            yield held


def _deal(deck, number, held, size):
    """(cards, rest of the deck): the first cards that the hand does not hold, while there are."""
    marked = np.zeros(size, bool)
    marked[held] = True
    new = deck[np.argsort(marked[deck], kind="stable")[:number]]
    marked[:] = False
    marked[new] = True
    return new, deck[~marked[deck]]


def view_numbers(step: int, num_items: int, numbers_per_item: int, seed: int) -> np.ndarray:
    """float32 (num_items, numbers_per_item) in [0, 1): the random numbers of one batch's views."""
    random = random_numbers(seed, step, 0, VIEWS)
    return random.random((num_items, numbers_per_item), dtype=np.float32)


def random_numbers(seed: int, number: int, stream: int, purpose: int) -> np.random.Generator:
    """Independent random numbers per (seed, number, stream, purpose): Philox counts from there."""
    counter = np.array([0, number, stream, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def checked_labels(
    labels: Any, classes_per_batch: int, images_per_class: int, seed: int, start_step: int
) -> np.ndarray:
    """The labels as int64 (N,), once every setting is known to be usable with them."""
    labels = class_ids(labels)
    for name, value, reason in (
        ("classes_per_batch", classes_per_batch, "negatives need a second class"),
        ("images_per_class", images_per_class, "positives need a second image"),
    ):
        whole_number(name, value, least=2, reason=reason)
    for name, value in (("seed", seed), ("start_step", start_step)):
        whole_number(name, value, least=0, most=2**63 - 1)
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < classes_per_batch:
        raise ValueError(
            f"Expected at least classes_per_batch={classes_per_batch} classes. Received: "
            f"{len(classes)}. Use classes_per_batch={len(classes)} or fewer, or add classes"
        )
    single = classes[sizes < 2]
    if len(single):
        raise ValueError(
            "Expected at least 2 items of each class, to make a positive pair. "
            f"{len(single)} classes have 1, the first is class {single[0]}: leave them out"
        )
    return labels
