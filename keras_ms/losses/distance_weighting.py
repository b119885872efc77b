"""How much each pair counts in losses of the Euclidean distance D = sqrt(2 - 2S) of unit vectors:
closed forms of dL/dS, no autodiff.

As dD/dS = -1/D, every weight here holds a factor 1/D. Of two equal vectors D has no derivative;
it is taken to be 0: there is no direction in which to part them.
"""

import keras
import numpy as np
from keras import ops

from keras_ms.pairs.pairs import NEVER, masked_max, row_wise

# Closer negatives are drawn as often as those at this distance (the paper's clipping): below it
# 1 / q grows so steeply that one noisy image would take all draws.
CLOSEST = 0.5


def distances(similarity):
    """Distances of unit vectors, and their inverses.

    Args:
        similarity: (anchors, candidates), cosine similarities.

    Returns:
        `(distance, inverse)`, same shape and dtype. Vectors that are equal up to rounding (a
        distance below 1.4e-3 in float32, 6e-8 in float64) have the distance 0 and the inverse 0.
    """
    squared = 2 - 2 * similarity
    # a product of unit rows is off by a few units in the last place of 1
    rounding = 16 * float(np.finfo(keras.backend.standardize_dtype(similarity.dtype)).eps)
    equal = squared <= rounding
    inverse = ops.rsqrt(ops.where(equal, ops.ones_like(squared), squared))
    inverse = ops.where(equal, ops.zeros_like(squared), inverse)
    return squared * inverse, inverse


def margin_statistics(pairs, cutoff, dimension):
    """1 / |P|, and the logarithm of the sum of 1 / q over the negatives that can be drawn (1e9,
    as if infinite, where there are none), of every anchor; each (anchors, 1)."""
    count = ops.sum(ops.cast(pairs.positive, pairs.similarity.dtype), axis=-1, keepdims=True)
    drawn, exponents, factor = _inverse_density(pairs, cutoff, dimension)
    largest = masked_max(exponents, drawn, -NEVER)
    total = ops.sum(_terms(drawn, exponents - largest, factor), axis=-1, keepdims=True)
    any_drawn = total > 0
    log_total = largest + ops.log(ops.where(any_drawn, total, ops.ones_like(total)))
    log_total = ops.where(any_drawn, log_total, ops.full_like(log_total, NEVER))
    return 1 / ops.maximum(count, ops.ones_like(count)), log_total


def draw_probabilities(pairs, log_total, cutoff, dimension):
    """Probability that distance-weighted sampling draws a pair as the anchor's negative.

    p is proportional to 1 / q(D), where q(D) = D^{d-2} (1 - D^2 / 4)^{(d-3)/2} is the density
    of the distance between random points of the sphere in d dimensions.

    Args:
        pairs: Pairs.
        log_total: (anchors, 1), of `margin_statistics`.
        cutoff: distance from which on negatives are not drawn, or None.
        dimension: d, the size of the embeddings.

    Returns:
        (anchors, candidates); a row sums to 1, or to 0 where no negative can be drawn.
    """
    drawn, exponents, factor = _inverse_density(pairs, cutoff, dimension)
    return _terms(drawn, exponents - log_total, factor)


def _terms(drawn, exponents, factor):
    # those that are not drawn may be beyond what an exponential takes
    exponents = ops.where(drawn, exponents, ops.zeros_like(exponents))
    return ops.where(drawn, factor * ops.exp(exponents), ops.zeros_like(exponents))


def _inverse_density(pairs, cutoff, dimension):
    """Which negatives can be drawn, and 1 / q as a factor times e^exponent.

    D^2 (1 - D^2 / 4) = 1 - S^2 leaves one power: 1 / q = (1 - S^2)^{-(d-3)/2} / D.
    """
    drawn = pairs.negative
    if cutoff is not None:
        drawn = ops.logical_and(drawn, pairs.similarity > 1 - cutoff**2 / 2)
    similarity = ops.minimum(pairs.similarity, 1 - CLOSEST**2 / 2)
    # opposite vectors have a density of 0, whose inverse is kept finite
    opened = ops.maximum(1 - similarity * similarity, 1e-6)
    exponents = -(dimension - 3) / 2 * ops.log(opened)
    return drawn, exponents, ops.rsqrt(2 - 2 * similarity)


@keras.saving.register_keras_serializable(package="keras_ms")
@row_wise(margin_statistics)
def margin_weights(
    pairs, positive_share, log_total, margin=0.2, boundary=1.2, cutoff=1.4, dimension=128
):
    """Pair weights of the margin loss with distance-weighted sampling in expectation, signed.

    On a negative: p(n|a) / D where D < boundary + margin; on a positive: -1 / (|P| D) where
    D > boundary - margin.

    Args:
        pairs: Pairs, after mining.
        positive_share: filled in, 1 / |P| of the anchor.
        log_total: filled in, the logarithm of the anchor's sum of 1 / q.
        margin, boundary, cutoff: as in `keras_ms.MarginLoss`.
        dimension: size of the embeddings; 128 are the paper's.

    Returns:
        (anchors, candidates), same dtype as the similarities.
    """
    distance, inverse = distances(pairs.similarity)
    zero = ops.zeros_like(inverse)
    pull = ops.where(distance > boundary - margin, -positive_share * inverse, zero)
    push = inverse * draw_probabilities(pairs, log_total, cutoff, dimension)
    push = ops.where(distance < boundary + margin, push, zero)
    return ops.where(pairs.positive, pull, push)


def two_sided_lifted_structure_terms(pairs, margin):
    """What an ordered positive pair (i, j) adds to the two-sided lifted structure loss.

    With T_i = sum_{N_i} e^{-D_ik} the two-sided sum is e^margin (T_i + T_j), a number per anchor
    each, so that no third index is needed.

    Args:
        pairs: Pairs, square.
        margin: as in `keras_ms.LiftedStructureLoss`.

    Returns:
        `(term, factor, total)`: [D_ij + margin + log(T_i + T_j)]+ of positive pairs, 0 elsewhere,
        (anchors, anchors); the number of anchors over the number of ordered positive pairs, which
        makes the mean over the anchors one over the pairs, a scalar; T, (anchors, 1).
    """
    distance, _ = distances(pairs.similarity)
    zero = ops.zeros_like(distance)
    total = ops.sum(ops.where(pairs.negative, ops.exp(-distance), zero), axis=-1, keepdims=True)
    both = total + ops.transpose(total)
    counts = ops.logical_and(pairs.positive, both > 0)
    logarithm = ops.log(ops.where(counts, both, ops.ones_like(both)))
    term = ops.where(counts, ops.relu(distance + margin + logarithm), zero)

    # an item that a Keras mask leaves out has no pair; Keras's mean does not count it either
    has_pair = ops.any(ops.logical_or(pairs.positive, pairs.negative), axis=-1)
    num_anchors = ops.sum(ops.cast(has_pair, distance.dtype))
    num_positive = ops.sum(ops.cast(pairs.positive, distance.dtype))
    return term, num_anchors / ops.maximum(num_positive, ops.ones_like(num_positive)), total


def two_sided_lifted_structure_weights(pairs, upstream, margin=1.0):
    """Pair weights of the two-sided lifted structure loss, signed.

    Args:
        pairs: Pairs, square, after mining.
        upstream: (anchors,), factor of every anchor's loss.
        margin: as in `keras_ms.LiftedStructureLoss`.

    Returns:
        (anchors, anchors): the derivative of the sum of upstream times loss.
    """
    distance, inverse = distances(pairs.similarity)
    term, factor, total = two_sided_lifted_structure_terms(pairs, margin)
    # half a square: derivative by the bracket, which holds D_ij, log T_i and log T_j
    by_term = factor * ops.expand_dims(upstream, 1) * term
    both = total + ops.transpose(total)
    both = ops.where(both > 0, both, ops.ones_like(both))
    # T_i stands in the pairs (i, j) and (j, i), whose sum T_i + T_j is the same
    by_sum = by_term / both
    by_total = ops.sum(by_sum, axis=1, keepdims=True)
    by_total = by_total + ops.expand_dims(ops.sum(by_sum, axis=0), 1)
    push = by_total * ops.exp(-distance) * inverse
    push = ops.where(pairs.negative, push, ops.zeros_like(push))
    return ops.where(pairs.positive, -by_term * inverse, push)
