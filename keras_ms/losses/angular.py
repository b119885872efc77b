"""The angular loss."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.whole_batch_weighting import (
    angular_pull,
    angular_weights,
    angular_weights_again,
    visit_triplet_sums,
)


def angular(pairs, squared_tangent=1.0):
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
        terms = angular_pull(pairs, partner, squared_tangent) * sum_of_triplets
        return (total + ops.where(column < size, ops.log1p(terms), ops.zeros_like(terms)),)

    start = ops.zeros_like(pairs.similarity[:, :1])
    _, (total,) = visit_triplet_sums(visit, pairs, squared_tangent, start)
    number = ops.sum(ops.cast(pairs.positive, total.dtype), axis=-1)
    return total[:, 0] / ops.maximum(number, ops.ones_like(number))


@keras.saving.register_keras_serializable(package="keras_ms")
class AngularLoss(PairLoss):
    """Computes the angular loss.

    Use it where one margin does not fit classes of different spread: it bounds the angle at the
    negative of the triangle anchor, positive, negative, which does not change with the scale. It
    looks at the similarity of the negative to the anchor and to the positive.

    Reference: Wang, Zhou, Wen, Liu, Lin: Deep Metric Learning with Angular Loss, ICCV 2017, Eqs 7
    and 8, with every positive of the batch in turn.

    Args:
        angle: upper bound of the angle at the negative, in degrees, above 0 and at most 60: the
            negative is to be the corner of the smallest angle, which in a triangle is at most
            60. Defaults to 45, within the range of 36 to 55 that the paper tries; its tangent is 1.
        name, **options: `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - An anchor without a positive or without a negative has the loss 0. The mean is over all
          anchors of the batch nevertheless.
        - The anchor itself is left out by index: an exact duplicate is an ordinary positive.
        - Items masked with a Keras mask are neither anchors nor candidates.
        - An embedding with a NaN or infinity makes the loss NaN.
        - It takes the batch as a whole: no `block_size`, no cross-batch memory.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.AngularLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    1.417952

    `model.compile(optimizer, loss=keras_ms.AngularLoss())`
    """

    def __init__(self, angle=45.0, name="angular", **options):
        if not 0 < angle <= 60:
            raise ValueError(
                "Expected `angle` in degrees, above 0 and at most 60, the largest that the "
                f"smallest angle of a triangle can be. Received: angle={angle}"
            )
        self.angle = float(angle)
        squared_tangent = math.tan(math.radians(self.angle)) ** 2
        super().__init__(
            pair_loss=partial(angular, squared_tangent=squared_tangent),
            weighting=partial(angular_weights, squared_tangent=squared_tangent),
            weighting_again=partial(angular_weights_again, squared_tangent=squared_tangent),
            whole_batch=True,
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {**super().get_config(), "angle": self.angle}
