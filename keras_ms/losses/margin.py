"""The margin loss with distance-weighted sampling."""

from functools import partial
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import Pairs
from keras_ms.pairs.reductions import (
    LOG_OF_ZERO,
    log_add,
    log_or_zero,
    masked_max,
    masked_sum,
    num_pairs,
    one_over,
)
from keras_ms.pairs.row_wise import RowForm, RowLoss, RowParts, RowWise
from keras_ms.pairs.unit_vectors import distances

# Closer negatives are drawn as often as those at this distance (the paper's clipping): below it
# 1 / q grows so steeply that one noisy image would take all draws.
CLOSEST = 0.5


@RowLoss
def margin_loss(
    margin: float = 0.2,
    boundary: float = 1.2,
    cutoff: float | None = 1.4,
    dimension: int = 128,
) -> RowParts:
    """The margin loss of every anchor, with distance-weighted sampling in expectation. Call it with
    Pairs after mining.

    L_i = mean_P [D_ik - boundary + margin]+ + sum_N p(k | i) [boundary + margin - D_ik]+

    Args:
        margin, boundary, cutoff: as in `MarginLoss`.
        dimension: size of the embeddings, on which p depends; 128 are the paper's.

    Returns:
        (anchors,), same dtype as the similarities; the mean over no pair is 0.
    """

    def sums(pairs, axis):
        distance, _ = distances(pairs.similarity)
        drawn = _drawn(pairs, cutoff, dimension, axis)
        pull = masked_sum(ops.relu(distance - (boundary - margin)), pairs.positive, axis)
        # how often a negative is drawn is a constant for the gradient
        terms = ops.stop_gradient(drawn.terms) * ops.relu(boundary + margin - distance)
        pushed = ops.sum(terms, axis=axis, keepdims=True)
        largest = ops.stop_gradient(drawn.largest)
        return *_totals(pairs, drawn, axis), pull, _log_of(pushed, largest)

    def value(num_positives, log_total, pull, log_pushed):
        # p sums to 1: the logarithms of both sums differ by that of the mean push
        push = ops.exp(log_pushed - ops.stop_gradient(log_total))
        push = ops.where(log_pushed > LOG_OF_ZERO, push, ops.zeros_like(push))
        return pull * one_over(num_positives) + push

    return RowParts(sums, (ops.add, log_add, ops.add, log_add), value)


@keras.saving.register_keras_serializable(package="keras_ms")
@partial(RowWise, uses_dimension=True)
def margin_weights(
    margin: float = 0.2,
    boundary: float = 1.2,
    cutoff: float | None = 1.4,
    dimension: int = 128,
) -> RowForm:
    """Pair weights of the margin loss with distance-weighted sampling in expectation, signed.
    Call it with Pairs after mining.

    On a negative: p(n|a) / D where D < boundary + margin; on a positive: -1 / (|P| D) where
    D > boundary - margin. As dD/dS = -1/D, every weight holds a factor 1/D.

    Reference: that of `keras_ms.MarginLoss`.

    Args:
        pairs: Pairs, the one argument without a keyword.
        margin, boundary, cutoff: as in `MarginLoss`.
        dimension: size of the embeddings. Defaults to 128, the paper's.

    Returns:
        (anchors, candidates), same dtype as the similarities.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(margin_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[0.  , 0.  , 1.29, 0.  ]], dtype=float32)
    """

    def weights(pairs, positive_share, log_total):
        distance, inverse = distances(pairs.similarity)
        zero = ops.zeros_like(inverse)
        pull = ops.where(distance > boundary - margin, -positive_share * inverse, zero)
        push = inverse * draw_probabilities(pairs, log_total, cutoff, dimension)
        push = ops.where(distance < boundary + margin, push, zero)
        return ops.where(pairs.positive, pull, push)

    return RowForm(_statistics(cutoff, dimension), weights)


def margin_statistics(pairs: Pairs, cutoff: float | None, dimension: int) -> tuple[Tensor, Tensor]:
    """1 / |P|, and the logarithm of the sum of 1 / q over the negatives that can be drawn (1e9,
    as if infinite, where there are none), of every anchor; each (anchors, 1)."""
    return _statistics(cutoff, dimension)(pairs)


def _statistics(cutoff, dimension):
    def of(pairs, axis):
        return _totals(pairs, _drawn(pairs, cutoff, dimension, axis), axis)

    def whole(num_positives, log_total):
        any_drawn = log_total > LOG_OF_ZERO
        log_total = ops.where(any_drawn, log_total, ops.full_like(log_total, -LOG_OF_ZERO))
        return one_over(num_positives), log_total

    return RowParts(of, (ops.add, log_add), whole)


class _Drawn(NamedTuple):
    """1 / q of the negatives that can be drawn: e^largest, of a row, times the terms."""

    largest: Tensor
    terms: Tensor


def _drawn(pairs, cutoff, dimension, axis):
    drawn, exponents, factor = _inverse_density(pairs, cutoff, dimension)
    largest = masked_max(exponents, drawn, LOG_OF_ZERO, axis)
    return _Drawn(largest, _terms(drawn, exponents - largest, factor))


def _totals(pairs, drawn, axis):
    """|P|, and the logarithm of the sum of 1 / q."""
    num_positives = num_pairs(pairs.positive, pairs.similarity.dtype, axis)
    return num_positives, _log_of(ops.sum(drawn.terms, axis=axis, keepdims=True), drawn.largest)


def _log_of(total, largest):
    """log(e^largest total), LOG_OF_ZERO of none."""
    logarithm = largest + log_or_zero(total)
    return ops.where(total > 0, logarithm, ops.full_like(logarithm, LOG_OF_ZERO))


def draw_probabilities(
    pairs: Pairs, log_total: Tensor, cutoff: float | None, dimension: int
) -> Tensor:
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
class MarginLoss(PairLoss):
    """Computes the margin loss with distance-weighted sampling of the negatives.

    Positives are pulled within boundary - margin of the anchor and negatives pushed beyond
    boundary + margin. In many dimensions nearly all negatives are about sqrt(2) away; drawing
    them with a probability of 1 / density of their distance shows the loss the close ones too.

    L_i = mean_P [D_ik - boundary + margin]+ + sum_N p(k | i) [boundary + margin - D_ik]+
    with D = sqrt(2 - 2S), p proportional to 1 / q(D) and
    q(D) = D^{d-2} (1 - D^2 / 4)^{(d-3)/2} in d dimensions.

    The paper draws one negative per positive; this loss takes the expectation over the draws,
    in which every negative counts with its probability (a constant for the gradient). It has the
    same mean gradient without the noise of drawing, and is repeatable.

    Reference: Wu, Manmatha, Smola, Krahenbuhl: Sampling Matters in Deep Embedding Learning,
    ICCV 2017, Sections 4.1 and 4.2.

    Relations: `ContrastiveLoss` on distances, with a gap between the two kinds and with negatives
    weighted by how rare their distance is; `TripletLoss` needs no boundary.

    Args:
        margin: half the width of the gap between positives and negatives (alpha in the paper), in
            units of distance (0 to 2), >= 0. Defaults to 0.2, the paper's.
        boundary: distance that parts positives from negatives (beta in the paper), > 0. Defaults
            to 1.2, where the paper starts. The paper can learn it per class; here it is fixed,
            since Keras does not train variables of a loss.
        cutoff: distance from which on negatives are not drawn, > 0, or None to draw from all.
            Defaults to 1.4: farther negatives have no loss at the default margin and boundary,
            and would only take probability from those that have.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - An anchor without positives still pushes its negatives; one without negatives, or
          without any closer than `cutoff`, still pulls its positives; one without pairs has the
          loss 0.
        - Negatives closer than 0.5 are drawn as those at 0.5 (the paper's clipping).
        - The distance of two equal embeddings has no derivative; it is taken to be 0, so that a
          negative that duplicates the anchor has a loss and no gradient.
        - In many dimensions p is steep: float32 gives it to about 1e-7 times the dimension.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.MarginLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.645565
    """

    def __init__(
        self,
        margin: float = 0.2,
        boundary: float = 1.2,
        cutoff: float | None = 1.4,
        *,
        name: str = "margin",
        **options: Any,
    ):
        self.margin = real_number("margin", margin, least=0)
        self.boundary = real_number("boundary", boundary, above=0)
        if cutoff is not None:
            cutoff = real_number("cutoff", cutoff, above=0, reason="or None to draw from all")
        self.cutoff = cutoff
        settings = {"margin": self.margin, "boundary": self.boundary, "cutoff": self.cutoff}
        super().__init__(
            pair_loss=partial(margin_loss, **settings),
            weighting=partial(margin_weights, **settings),
            uses_dimension=True,
            name=name,
            **checked_options(self, settings, options),
        )
