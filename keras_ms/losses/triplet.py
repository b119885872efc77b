"""The triplet loss: all triplets, the hardest, or TensorFlow's semi-hard ones.

A triplet (anchor a, positive p, negative n) has the loss [S_an - S_ap + margin]+. Which triplets
of an anchor count is its mining; a triplet that counts and is violated adds its share to the
weight of n and takes it from the weight of p. No matrix of triplets is made.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import Pairs
from keras_ms.pairs.positives import visit_positives
from keras_ms.pairs.reductions import BEYOND_ANY_SIMILARITY, num_pairs


def triplet_hard(pairs: Pairs, margin: float = 0.1) -> Tensor:
    """Triplet loss of every anchor with its hardest positive and its hardest negative.

    L_i = [max_N S_in - min_P S_ip + margin]+

    Args:
        pairs: Pairs.
        margin: as in `TripletLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without a positive or without
        a negative.
    """
    sides = sides_of(pairs)
    return ops.relu(sides.hardest_negative[:, 0] - ops.min(sides.positives, axis=-1) + margin)


@keras.saving.register_keras_serializable(package="keras_ms")
def triplet_hard_weights(pairs: Pairs, margin: float = 0.1) -> Tensor:
    """Pair weights of the triplet loss with the anchor's hardest positive and negative, signed.

    1 on the most similar negative and -1 on the least similar positive if they violate the
    margin. Pairs of equal similarity share the weight, as they share the derivative of a maximum.

    Reference: that of `keras_ms.TripletLoss`.

    Args:
        pairs: Pairs.
        margin: as in `keras_ms.TripletLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; 0 in the row of an anchor without
        a positive or without a negative.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(triplet_hard_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[ 0., -1.,  1.,  0.]], dtype=float32)
    """
    sides = sides_of(pairs)
    hardest_positive = ops.min(sides.positives, axis=-1, keepdims=True)
    violates = sides.hardest_negative - hardest_positive + margin > 0
    return _shared(
        ops.logical_and(violates, sides.negatives == sides.hardest_negative), sides.negatives
    ) - _shared(ops.logical_and(violates, sides.positives == hardest_positive), sides.positives)


def triplet_semi_hard(pairs: Pairs, margin: float = 0.1) -> Tensor:
    """Triplet loss of every anchor with TensorFlow's semi-hard negatives.

    L_i = 1/|P_i| sum_P [S_in(p) - S_ip + margin]+, where n(p) is the most similar of the negatives
    less similar than p, or if there is none the least similar of all.

    Args:
        pairs: Pairs.
        margin: as in `TripletLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without a positive or without
        a negative.
    """
    sides = sides_of(pairs)

    def visit(current, total):
        same = num_pairs(sides.positives == current, total.dtype)
        return (total + same * _semi_hard_excess(sides, current, margin),)

    (total,) = visit_positives(
        visit, sides.positives, BEYOND_ANY_SIMILARITY, ops.zeros_like(sides.divisor)
    )
    return (total / sides.divisor)[:, 0]


@keras.saving.register_keras_serializable(package="keras_ms")
def triplet_semi_hard_weights(pairs: Pairs, margin: float = 0.1) -> Tensor:
    """Pair weights of the triplet loss with TensorFlow's semi-hard negatives, signed.

    On a negative: the number of the anchor's positives that chose it and violate the margin with
    it; on a positive: -1 if it violates the margin; both divided by the number of positives.
    Negatives of equal similarity share the weight, as they share the derivative of a maximum.

    Reference: that of `keras_ms.TripletLoss`.

    Args:
        pairs: Pairs.
        margin: as in `keras_ms.TripletLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; 0 in the row of an anchor without
        a positive or without a negative.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(triplet_semi_hard_weights(pairs, margin=0.3)).round(2) + 0  # + 0: no -0
    array([[-0.5,  0. ,  0.5,  0. ]], dtype=float32)
    """
    pairs = pairs._replace(similarity=ops.stop_gradient(pairs.similarity))
    sides = sides_of(pairs)

    def visit(current, counts):
        is_current = sides.positives == current
        active = _semi_hard_excess(sides, current, margin) > 0
        is_current = ops.logical_and(active, is_current)
        is_chosen = ops.logical_and(active, sides.negatives == _semi_hard_choice(sides, current))
        same = num_pairs(is_current, sides.positives.dtype)
        counts = counts + same * _shared(is_chosen, sides.negatives)
        return (counts - ops.cast(is_current, counts.dtype),)

    (counts,) = visit_positives(
        visit, sides.positives, BEYOND_ANY_SIMILARITY, ops.zeros_like(pairs.similarity)
    )
    return counts / sides.divisor


def triplet_all(pairs: Pairs, margin: float = 0.1) -> Tensor:
    """Triplet loss of every anchor, over all its triplets.

    L_i = 1/(|P_i| |N_i|) sum_P sum_N [S_in - S_ip + margin]+

    Args:
        pairs: Pairs.
        margin: as in `keras_ms.TripletLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without a positive or without
        a negative.
    """
    sides = sides_of(pairs)

    def visit(current, total):
        same = num_pairs(sides.positives == current, total.dtype)
        violations = ops.relu(sides.negatives - current + margin)
        return (total + same * ops.sum(violations, axis=-1, keepdims=True),)

    (total,) = visit_positives(
        visit,
        sides.positives,
        BEYOND_ANY_SIMILARITY,
        ops.zeros_like(sides.divisor),
        limit=sides.hardest_negative + margin,
    )
    num_negatives = num_pairs(pairs.negative, total.dtype)
    return (total / sides.divisor / ops.maximum(num_negatives, ops.ones_like(total)))[:, 0]


@keras.saving.register_keras_serializable(package="keras_ms")
def triplet_all_weights(pairs: Pairs, margin: float = 0.1) -> Tensor:
    """Pair weights of the triplet loss over all triplets of an anchor, signed.

    On a negative: the number of positives it violates the margin with; on a positive: minus the
    number of negatives that violate it; both divided by the number of the anchor's triplets,
    |P_i| |N_i|.

    Reference: that of `keras_ms.TripletLoss`.

    Args:
        pairs: Pairs.
        margin: as in `keras_ms.TripletLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; 0 in the row of an anchor without
        a positive or without a negative.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(triplet_all_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[ 0.  , -0.25,  0.25,  0.  ]], dtype=float32)
    """
    pairs = pairs._replace(similarity=ops.stop_gradient(pairs.similarity))
    sides = sides_of(pairs)

    def visit(current, counts):
        is_current = sides.positives == current
        violates = sides.negatives - current + margin > 0
        same = num_pairs(is_current, sides.positives.dtype)
        violating = num_pairs(violates, sides.positives.dtype)
        counts = counts + ops.where(violates, same, ops.zeros_like(same))
        # Where no positive is left, `current` is BEYOND_ANY_SIMILARITY: no negative violates it,
        # and what is taken away is 0.
        return (counts - ops.where(is_current, violating, ops.zeros_like(violating)),)

    (counts,) = visit_positives(
        visit,
        sides.positives,
        BEYOND_ANY_SIMILARITY,
        ops.zeros_like(pairs.similarity),
        limit=sides.hardest_negative + margin,
    )
    num_negatives = num_pairs(pairs.negative, pairs.similarity.dtype)
    return counts / (sides.divisor * ops.maximum(num_negatives, ops.ones_like(num_negatives)))


class Sides(NamedTuple):
    """The two kinds of pairs of Pairs, apart.

    positives:  (anchors, candidates), similarity of positives, BEYOND_ANY_SIMILARITY elsewhere.
    negatives:  (anchors, candidates), similarity of negatives, -BEYOND_ANY_SIMILARITY elsewhere.
    hardest_negative: (anchors, 1), the greatest similarity of a negative, -BEYOND_ANY_SIMILARITY
        without one.
    easiest_negative: (anchors, 1), the smallest similarity of a negative, BEYOND_ANY_SIMILARITY
        without one.
    divisor: (anchors, 1), the number of positives, at least 1.
    """

    positives: Tensor
    negatives: Tensor
    hardest_negative: Tensor
    easiest_negative: Tensor
    divisor: Tensor


def sides_of(pairs: Pairs) -> Sides:
    """The Sides of Pairs."""
    similarity = pairs.similarity
    far = ops.full_like(similarity, BEYOND_ANY_SIMILARITY)
    negatives = ops.where(pairs.negative, similarity, -far)
    num_positives = num_pairs(pairs.positive, similarity.dtype)
    return Sides(
        ops.where(pairs.positive, similarity, far),
        negatives,
        ops.max(negatives, axis=-1, keepdims=True),
        ops.min(ops.where(pairs.negative, similarity, far), axis=-1, keepdims=True),
        ops.maximum(num_positives, ops.ones_like(num_positives)),
    )


def _semi_hard_choice(sides, current):
    """Similarity of the negative that TensorFlow's rule picks for the positive of similarity
    `current` (anchors, 1): the hardest of those less similar than the positive, or if there is
    none the easiest of all; BEYOND_ANY_SIMILARITY for an anchor without negatives."""
    below = ops.where(
        sides.negatives < current,
        sides.negatives,
        ops.full_like(sides.negatives, -BEYOND_ANY_SIMILARITY),
    )
    hardest_below = ops.max(below, axis=-1, keepdims=True)
    return ops.where(hardest_below > -BEYOND_ANY_SIMILARITY, hardest_below, sides.easiest_negative)


def _semi_hard_excess(sides, current, margin):
    """Loss of the triplet that TensorFlow's rule makes of the positive of similarity `current`,
    (anchors, 1); 0 where the anchor has no positive left or no negative."""
    excess = _semi_hard_choice(sides, current) - current + margin
    exists = ops.logical_and(
        current < BEYOND_ANY_SIMILARITY, sides.easiest_negative < BEYOND_ANY_SIMILARITY
    )
    return ops.where(ops.logical_and(exists, excess > 0), excess, ops.zeros_like(excess))


def _shared(mask, like):
    """1 divided among the entries of a row that hold, 0 elsewhere."""
    number = num_pairs(mask, like.dtype)
    share = 1 / ops.maximum(number, ops.ones_like(number))
    return ops.where(mask, share, ops.zeros_like(share))


MININGS = {
    "all": (triplet_all, triplet_all_weights),
    "hard": (triplet_hard, triplet_hard_weights),
    "semi_hard": (triplet_semi_hard, triplet_semi_hard_weights),
}


@keras.saving.register_keras_serializable(package="keras_ms")
class TripletLoss(PairLoss):
    """Computes the triplet loss over the triplets of a batch.

    Use it as the classic baseline, or to keep results comparable with older ones: it asks that
    every positive be more similar to the anchor than a negative by a margin. Batches must hold
    several images of several classes (`keras_ms.balanced_batches`). No triplet is ever listed:
    memory grows with the pairs.

    Reference: Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face Recognition
    and Clustering, CVPR 2015; with mining "hard" Hermans, Beyer, Leibe: In Defense of the Triplet
    Loss for Person Re-Identification, 2017.

    Relations: `MarginLoss` and `ContrastiveLoss` put a boundary where a triplet compares two pairs;
    `keras_ms.HierarchicalTripletLoss` is mining "all" with a margin for each two classes.

    Args:
        margin: by how much a positive has to be more similar than a negative, in cosine
            similarity, >= 0. A squared Euclidean distance is 2 - 2 S, so a margin of squared
            distances is twice as large. Defaults to 0.1, which is FaceNet's 0.2.
        mining: which triplets of an anchor count. `"semi_hard"`: one for each positive, with the
            hardest of the negatives that are less similar than the positive, or if there is none
            the easiest of all (the rule of TensorFlow Addons); `"all"`: all of them, those that
            keep the margin counting 0 in the mean; `"hard"`: the hardest positive with the
            hardest negative. Defaults to `"semi_hard"`, since the hardest negatives can make
            training collapse in its beginning and most of all triplets soon teach nothing.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - The mean is over all anchors of the batch, and within an anchor over its positives or
          triplets: it is not the mean over the triplets of the batch unless classes are of one
          size.
        - Negatives or positives of exactly equal similarity share the gradient of the one picked.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.TripletLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)  # only the second is closer than the margin
    0.033333

    `model.compile(optimizer, loss=keras_ms.TripletLoss(mining="hard"))`
    """

    def __init__(
        self,
        margin: float = 0.1,
        mining: Literal["semi_hard", "hard", "all"] = "semi_hard",
        *,
        name: str = "triplet",
        **options: Any,
    ):
        self.margin = real_number("margin", margin, least=0, reason="of cosine similarity")
        if mining not in MININGS:
            raise ValueError(
                f"Invalid value for argument `mining`. Expected one of {sorted(MININGS)}. "
                f"Received: mining={mining!r}"
            )
        self.mining = mining
        pair_loss, weighting = MININGS[mining]
        super().__init__(
            pair_loss=partial(pair_loss, margin=self.margin),
            weighting=partial(weighting, margin=self.margin),
            name=name,
            **checked_options(self, {"margin": self.margin, "mining": self.mining}, options),
        )
