"""The angular loss."""

import math
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import Pairs
from keras_ms.pairs.positives import visit_positives
from keras_ms.pairs.reductions import column_numbers, num_pairs


def angular(pairs: Pairs, squared_tangent: float = 1.0) -> Tensor:
    """Angular loss of every anchor.

    L_a = 1/|P_a| sum_P log(1 + sum_N e^{f_apn}),
    f_apn = 4 t^2 (S_an + S_pn) - 2 (1 + t^2) S_ap, t the tangent of the angle

    Args:
        pairs: Pairs of a batch with itself: a positive has the negatives of its anchor.
        squared_tangent: t^2, from 0 to 3.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without a positive or without
        a negative.
    """
    size = ops.shape(pairs.similarity)[1]

    def visit(column, partner, partner_factors, sum_of_triplets, total):
        terms = _pull(pairs, partner, squared_tangent) * sum_of_triplets
        return (total + ops.where(column < size, ops.log1p(terms), ops.zeros_like(terms)),)

    start = ops.zeros_like(num_pairs(pairs.positive, pairs.similarity.dtype))
    _, (total,) = _visit_triplet_sums(visit, pairs, squared_tangent, start)
    number = ops.sum(ops.cast(pairs.positive, total.dtype), axis=-1)
    return total[:, 0] / ops.maximum(number, ops.ones_like(number))


def angular_weights(pairs: Pairs, upstream: Tensor, squared_tangent: float = 1.0) -> Tensor:
    """Pair weights of the angular loss, signed.

    With r_ap = e^{-2(1+t^2) S_ap} / (1 + sum_n e^{f_apn}) and M = e^{4 t^2 S} on negatives, the
    weight of a triplet is M_an M_pn r_ap: 4 t^2 times it on (a, n) and on (p, n), -2 (1+t^2) times
    its sum over n on (a, p). Row i gathers, over its positives j, the triplets with the anchor i
    (divided by |P_i|) and those with the anchor j (divided by |P_j|).

    Reference: that of `keras_ms.AngularLoss`.

    Args:
        pairs: Pairs of a batch with itself: a positive has the negatives of its anchor.
        upstream: (anchors,), what each anchor's loss is multiplied by.
        squared_tangent: t^2, from 0 to 3. Defaults to 1.

    Returns:
        (anchors, anchors), same dtype as the similarities.

    Example:

    >>> embeddings = np.array([[1.0, 0.0], [0.866, 0.5], [0.5, 0.866]], "float32")
    >>> labels = np.array([0, 0, 1])
    >>> same = labels[:, None] == labels
    >>> positive = same & ~np.eye(3, dtype=bool)  # no item is its own
    >>> pairs = keras_ms.pairs.Pairs(embeddings @ embeddings.T, positive, ~same)
    >>> np.array(angular_weights(pairs, np.ones(3, "float32"))).round(2) + 0  # + 0: no -0
    array([[ 0.  , -3.52,  7.05],
           [-3.52,  0.  ,  7.05],
           [ 0.  ,  0.  ,  0.  ]], dtype=float32)
    """
    pairs = pairs._replace(similarity=ops.stop_gradient(pairs.similarity))
    number = ops.sum(ops.cast(pairs.positive, upstream.dtype), axis=-1)
    per_positive = upstream / ops.maximum(number, ops.ones_like(number))

    def visit(column, partner, partner_factors, sum_of_triplets, weights):
        ratio = _pull(pairs, partner, squared_tangent)
        share = ratio / (1 + ratio * sum_of_triplets)
        own = ops.expand_dims(per_positive, 1)
        others = ops.expand_dims(ops.take(per_positive, partner), 1)
        is_left = column < ops.shape(pairs.similarity)[1]
        both = ops.where(is_left, share * (own + others), ops.zeros_like(share))
        pull = -2 * (1 + squared_tangent) * own * share * sum_of_triplets
        # `partner_factors` is 0 on positives, so these are two separate parts of one matrix
        return (
            weights
            + both * partner_factors
            + ops.where(column_numbers(pairs.similarity) == column, pull, ops.zeros_like(pull)),
        )

    factors, (weights,) = _visit_triplet_sums(
        visit, pairs, squared_tangent, ops.zeros_like(pairs.similarity)
    )
    return ops.where(pairs.positive, weights, 4 * squared_tangent * factors * weights)


def differentiable_angular_weights(
    pairs: Pairs, upstream: Tensor, squared_tangent: float = 1.0
) -> Tensor:
    """`angular_weights` in matrix products instead of a loop, to be differentiated.

    The sum over n of M_an M_pn for all a and p is M M^T: for batches of many images a class it
    takes fewer passes, for those of a few, which are the rule, more time.

    Args:
        pairs, upstream, squared_tangent: as in `angular_weights`.

    Returns:
        (anchors, anchors), as `angular_weights` to rounding.
    """
    zero = ops.zeros_like(pairs.similarity)
    number = ops.sum(ops.cast(pairs.positive, upstream.dtype), axis=-1)
    own = ops.expand_dims(upstream / ops.maximum(number, ops.ones_like(number)), 1)
    factors = ops.exp(4 * squared_tangent * ops.where(pairs.negative, pairs.similarity, zero))
    factors = ops.where(pairs.negative, factors, zero)
    sums = ops.matmul(factors, ops.transpose(factors))
    ratio = ops.exp(-2 * (1 + squared_tangent) * ops.where(pairs.positive, pairs.similarity, zero))
    share = ops.where(pairs.positive, ratio / (1 + ratio * sums), zero)
    pull = -2 * (1 + squared_tangent) * own * share * sums
    push = 4 * squared_tangent * factors * ops.matmul(share * (own + ops.transpose(own)), factors)
    return pull + push


def _pull(pairs, partner, squared_tangent):
    """e^{-2(1+t^2) S_ap} of the positives visited, (anchors, 1)."""
    similarity = ops.take_along_axis(pairs.similarity, ops.expand_dims(partner, 1), axis=1)
    return ops.exp(-2 * (1 + squared_tangent) * similarity)


def _visit_triplet_sums(visit, pairs, squared_tangent, state):
    """Visits the positives of all anchors with their sums over negatives n of M_an M_pn.

    Args:
        visit: function `(column, partner, partner_factors, sum_of_triplets, state) -> (state,)`:
            the positive's column (anchors, 1), the number of columns where an anchor has none
            left; the same as an index that always exists, (anchors,); row p of M for every
            anchor, (anchors, candidates); the sums, (anchors, 1).
        pairs: Pairs of a batch with itself.
        squared_tangent: t^2, from 0 to 3, for which nothing overflows: a product of two factors
            is at most e^{8 t^2} = e^24.
        state: what `visit` starts with.

    Returns:
        `(M, (state,))`.
    """
    factors = ops.where(
        pairs.negative,
        ops.exp(4 * squared_tangent * pairs.similarity),
        ops.zeros_like(pairs.similarity),
    )
    size = ops.shape(pairs.similarity)[1]
    columns = column_numbers(pairs.similarity)

    def visit_column(column, state):
        partner = ops.minimum(column[:, 0], size - 1)
        partner_factors = ops.take(factors, partner, axis=0)
        sums = ops.sum(factors * partner_factors, axis=-1, keepdims=True)
        return visit(column, partner, partner_factors, sums, state)

    numbers = ops.where(pairs.positive, columns, ops.full_like(columns, size))
    return factors, visit_positives(visit_column, numbers, size, state)


@keras.saving.register_keras_serializable(package="keras_ms")
class AngularLoss(PairLoss):
    """Computes the angular loss.

    Use it where one margin does not fit classes of different spread: it bounds the angle at the
    negative of the triangle anchor, positive, negative, which does not change with the scale. It
    looks at the similarity of the negative to the anchor and to the positive.

    Reference: Wang, Zhou, Wen, Liu, Lin: Deep Metric Learning with Angular Loss, ICCV 2017, Eqs 7
    and 8, with every positive of the batch in turn.

    Relations: `NPairLoss` compares S_an with S_ap in a softmax; here S_pn joins it, so that a
    negative is also kept from the positive.

    Args:
        angle: upper bound of the angle at the negative, in degrees, above 0 and at most 60: the
            negative is to be the corner of the smallest angle, which in a triangle is at most
            60. Defaults to 45, within the range of 36 to 55 that the paper tries; its tangent is 1.
        name, **options: `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.AngularLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    1.417952

    `model.compile(optimizer, loss=keras_ms.AngularLoss())`
    """

    def __init__(self, angle: float = 45.0, *, name: str = "angular", **options: Any):
        why = "degrees, at most what the smallest angle of a triangle can be"
        self.angle = real_number("angle", angle, above=0, most=60, reason=why)
        squared_tangent = math.tan(math.radians(self.angle)) ** 2
        super().__init__(
            pair_loss=partial(angular, squared_tangent=squared_tangent),
            weighting=partial(angular_weights, squared_tangent=squared_tangent),
            weighting_again=partial(
                differentiable_angular_weights, squared_tangent=squared_tangent
            ),
            whole_batch=True,
            name=name,
            **checked_options(self, {"angle": self.angle}, options),
        )
