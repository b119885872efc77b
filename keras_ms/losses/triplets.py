"""Triplet losses and how much each pair counts in them: closed forms, no matrix of triplets.

A triplet (anchor a, positive p, negative n) has the loss [S_an - S_ap + margin]+. Which triplets
of an anchor count is its mining; a triplet that counts and is violated adds its share to the
weight of n and takes it from the weight of p.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_ms.pairs.pairs import FAR
from keras_ms.pairs.positives import visit_positives


class Sides(NamedTuple):
    """The two kinds of pairs of Pairs, apart.

    positives:  (anchors, candidates), similarity of positives, FAR elsewhere.
    negatives:  (anchors, candidates), similarity of negatives, -FAR elsewhere.
    hardest_negative: (anchors, 1), the greatest similarity of a negative, -FAR without one.
    easiest_negative: (anchors, 1), the smallest similarity of a negative, FAR without one.
    divisor: (anchors, 1), the number of positives, at least 1.
    """

    positives: object
    negatives: object
    hardest_negative: object
    easiest_negative: object
    divisor: object


def sides(pairs):
    """The Sides of Pairs."""
    similarity = pairs.similarity
    far = ops.full_like(similarity, FAR)
    negatives = ops.where(pairs.negative, similarity, -far)
    return Sides(
        ops.where(pairs.positive, similarity, far),
        negatives,
        ops.max(negatives, axis=-1, keepdims=True),
        ops.min(ops.where(pairs.negative, similarity, far), axis=-1, keepdims=True),
        ops.maximum(count(pairs.positive, similarity), ops.ones_like(similarity[:, :1])),
    )


def count(mask, like):
    """How many entries of each row hold, (anchors, 1) of the dtype of `like`."""
    return ops.sum(ops.cast(mask, like.dtype), axis=-1, keepdims=True)


def semi_hard_choice(of, current):
    """Similarity of the negative that TensorFlow's rule picks for the positive of similarity
    `current` (anchors, 1): the hardest of those less similar than the positive, or if there is
    none the easiest of all; FAR for an anchor without negatives."""
    below = ops.where(of.negatives < current, of.negatives, ops.full_like(of.negatives, -FAR))
    hardest_below = ops.max(below, axis=-1, keepdims=True)
    return ops.where(hardest_below > -FAR, hardest_below, of.easiest_negative)


def semi_hard_excess(of, current, margin):
    """Loss of the triplet that TensorFlow's rule makes of the positive of similarity `current`,
    (anchors, 1); 0 where the anchor has no positive left or no negative."""
    excess = semi_hard_choice(of, current) - current + margin
    exists = ops.logical_and(current < FAR, of.easiest_negative < FAR)
    return ops.where(ops.logical_and(exists, excess > 0), excess, ops.zeros_like(excess))


def triplet_all(pairs, margin=0.1):
    """Triplet loss of every anchor, over all its triplets.

    L_i = 1/(|P_i| |N_i|) sum_P sum_N [S_in - S_ip + margin]+

    Args:
        pairs: Pairs.
        margin: as in `keras_ms.TripletLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without a positive or without
        a negative.
    """
    of = sides(pairs)

    def visit(current, total):
        same = count(of.positives == current, total)
        violations = ops.relu(of.negatives - current + margin)
        return (total + same * ops.sum(violations, axis=-1, keepdims=True),)

    (total,) = visit_positives(
        visit,
        of.positives,
        FAR,
        ops.zeros_like(of.divisor),
        limit=of.hardest_negative + margin,
    )
    num_negatives = count(pairs.negative, total)
    return (total / of.divisor / ops.maximum(num_negatives, ops.ones_like(total)))[:, 0]


@keras.saving.register_keras_serializable(package="keras_ms")
def triplet_all_weights(pairs, margin=0.1):
    """Pair weights of the triplet loss over all triplets of an anchor, signed.

    On a negative: the number of positives it violates the margin with; on a positive: minus the
    number of negatives that violate it; both divided by the number of the anchor's triplets,
    |P_i| |N_i|.

    Args:
        pairs: Pairs.
        margin: as in `keras_ms.TripletLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; 0 in the row of an anchor without
        a positive or without a negative.
    """
    pairs = pairs._replace(similarity=ops.stop_gradient(pairs.similarity))
    of = sides(pairs)

    def visit(current, counts):
        is_current = of.positives == current
        violates = of.negatives - current + margin > 0
        same = count(is_current, of.positives)
        violating = count(violates, of.positives)
        counts = counts + ops.where(violates, same, ops.zeros_like(same))
        # Where no positive is left, `current` is FAR: no negative violates it, and what is taken
        # away is 0.
        return (counts - ops.where(is_current, violating, ops.zeros_like(violating)),)

    (counts,) = visit_positives(
        visit,
        of.positives,
        FAR,
        ops.zeros_like(pairs.similarity),
        limit=of.hardest_negative + margin,
    )
    num_negatives = count(pairs.negative, pairs.similarity)
    return counts / (of.divisor * ops.maximum(num_negatives, ops.ones_like(num_negatives)))


@keras.saving.register_keras_serializable(package="keras_ms")
def triplet_hard_weights(pairs, margin=0.1):
    """Pair weights of the triplet loss with the anchor's hardest positive and negative, signed.

    1 on the most similar negative and -1 on the least similar positive if they violate the
    margin. Pairs of equal similarity share the weight, as they share the derivative of a maximum.

    Args:
        pairs: Pairs.
        margin: as in `keras_ms.TripletLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; 0 in the row of an anchor without
        a positive or without a negative.
    """
    of = sides(pairs)
    hardest_positive = ops.min(of.positives, axis=-1, keepdims=True)
    violates = of.hardest_negative - hardest_positive + margin > 0
    return _shared(
        ops.logical_and(violates, of.negatives == of.hardest_negative), of.negatives
    ) - _shared(ops.logical_and(violates, of.positives == hardest_positive), of.positives)


@keras.saving.register_keras_serializable(package="keras_ms")
def triplet_semi_hard_weights(pairs, margin=0.1):
    """Pair weights of the triplet loss with TensorFlow's semi-hard negatives, signed.

    On a negative: the number of the anchor's positives that chose it and violate the margin with
    it; on a positive: -1 if it violates the margin; both divided by the number of positives.
    Negatives of equal similarity share the weight, as they share the derivative of a maximum.

    Args:
        pairs: Pairs.
        margin: as in `keras_ms.TripletLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; 0 in the row of an anchor without
        a positive or without a negative.
    """
    pairs = pairs._replace(similarity=ops.stop_gradient(pairs.similarity))
    of = sides(pairs)

    def visit(current, counts):
        is_current = of.positives == current
        active = semi_hard_excess(of, current, margin) > 0
        is_current = ops.logical_and(active, is_current)
        is_chosen = ops.logical_and(active, of.negatives == semi_hard_choice(of, current))
        same = count(is_current, of.positives)
        counts = counts + same * _shared(is_chosen, of.negatives)
        return (counts - ops.cast(is_current, counts.dtype),)

    (counts,) = visit_positives(visit, of.positives, FAR, ops.zeros_like(pairs.similarity))
    return counts / of.divisor


def _shared(mask, like):
    """1 divided among the entries of a row that hold, 0 elsewhere."""
    number = count(mask, like)
    share = 1 / ops.maximum(number, ops.ones_like(number))
    return ops.where(mask, share, ops.zeros_like(share))
