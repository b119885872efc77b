"""The circle loss."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import Pairs, log_sums_exp, signed
from keras_ms.pairs.reductions import log_add
from keras_ms.pairs.row_wise import RowForm, RowLoss, RowParts, RowWise


@RowLoss
def circle(margin: float = 0.25, gamma: float = 256.0) -> RowParts:
    """The circle loss of every anchor. Call it with Pairs after mining.

    L_i = log(1 + sum_N e^{gamma alpha_n (S_ik - m)} sum_P e^{-gamma alpha_p (S_ik - 1 + m)}) with
    alpha_n = [S_ik + m]+ and alpha_p = [1 + m - S_ik]+

    Args:
        margin, gamma: as in `CircleLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without positives or without
        negatives.
    """

    def totals(pairs, axis):
        return tuple(circle_totals(pairs, margin, gamma, axis))

    def value(positive_total, negative_total):
        return ops.softplus(positive_total + negative_total)

    return RowParts(totals, (log_add, log_add), value)


@keras.saving.register_keras_serializable(package="keras_ms")
@RowWise
def circle_weights(margin: float = 0.25, gamma: float = 256.0) -> RowForm:
    """Pair weights of the circle loss, signed. Call it with Pairs after mining.

    With Z the sum of the two totals and alpha the pair's own factor, which is a constant for the
    gradient: sigmoid(Z) gamma alpha times the pair's share of its kind's sum of exponentials.

    Reference: that of `keras_ms.CircleLoss`.

    Args:
        pairs: Pairs, the one argument without a keyword.
        margin, gamma: as in `CircleLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; an anchor without a positive or
        without a negative has sigmoid(Z) = 0.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(circle_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[   0. , -166.4,  243.2,    0. ]], dtype=float32)
    """

    def totals(pairs, axis):
        # not `circle_totals`: the derivative of these weights takes in that of alpha
        _, exponents = _alpha_and_exponents(pairs, margin, gamma)
        return tuple(log_sums_exp(exponents, pairs, axis))

    def over_slope(positive_total, negative_total):
        # sigmoid(Z) = e^{-softplus(-Z)} is taken into the exponents: one exponential a pair
        minus_log_slope = ops.softplus(-(positive_total + negative_total))
        return positive_total + minus_log_slope, negative_total + minus_log_slope

    def weights(pairs, positive_total, negative_total):
        alpha, exponents = _alpha_and_exponents(pairs, margin, gamma)
        total = ops.where(pairs.positive, positive_total, negative_total)
        return signed(pairs, gamma * alpha * ops.exp(exponents - total))

    return RowForm(RowParts(totals, (log_add, log_add), over_slope), weights)


def circle_totals(pairs: Pairs, margin: float, gamma: float, axis: int = -1) -> list[Tensor]:
    """Logarithm of the sum of e^{exponent} over the positives and over the negatives of every
    anchor. The factors alpha are constants for the gradient.

    Args:
        pairs: Pairs.
        margin, gamma: as in `CircleLoss`.
        axis: 0 for the columns in place of the rows. Defaults to -1.

    Returns:
        Two (anchors, 1), or (1, candidates), same dtype as the similarities; -1e9 for an anchor
        without pairs of the kind.

    Example:

     >>> pairs = keras_ms.pairs.Pairs(
     ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
     ...     positive=np.array([[True, True, False, False]]),
     ...     negative=np.array([[False, False, True, True]]),
     ... )
    >>> [round(float(total[0, 0]), 2) for total in circle_totals(pairs, 0.25, 256.0)]
    [24.96, 109.44]
    """
    _, exponents = _alpha_and_exponents(pairs, margin, gamma, constant_alpha=True)
    return log_sums_exp(exponents, pairs, axis)


def _alpha_and_exponents(pairs, margin, gamma, constant_alpha=False):
    """The factors alpha and the exponents of a pair.

    With how far a pair is from where it should be, 1 - S of a positive (whose optimum is 1) and
    S of a negative (whose optimum is 0), both kinds read alike: alpha = [far + m]+ and the
    exponent is gamma alpha (far - m).
    """
    far = ops.where(pairs.positive, 1 - pairs.similarity, pairs.similarity)
    alpha = ops.relu(far + margin)
    alpha = ops.stop_gradient(alpha) if constant_alpha else alpha
    return alpha, gamma * alpha * (far - margin)


@keras.saving.register_keras_serializable(package="keras_ms")
class CircleLoss(PairLoss):
    """Computes the circle loss over all pairs of a batch.

    Every pair is weighted by how far it is from its own optimum, 1 for positives and 0 for
    negatives, and by its part in a softmax over its kind: the hardest pairs dominate.

    L_i = log(1 + sum_N e^{gamma alpha_n (S_ik - m)} sum_P e^{-gamma alpha_p (S_ik - 1 + m)}) with
    alpha_n = [S_ik + m]+ and alpha_p = [1 + m - S_ik]+, which are constants for the gradient.

    Reference: Sun et al.: Circle Loss: A Unified Perspective of Pair Similarity Optimization,
    CVPR 2020, Eqs 6 to 8.

    Relations: `LiftedStructureLoss` has the same two logarithms of sums with factors of 1 and a
    hinge; here a pair's factor grows with its distance from its optimum.

    Args:
        margin: m, relaxes both optima, in cosine similarity, >= 0. Defaults to 0.25, the paper's
            for faces.
        gamma: scale, > 0. Defaults to 256, the paper's for faces. (The paper takes margin 0.4 and
            gamma 80 for fine-grained retrieval, as other libraries do by default.)
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - The gradient is not the slope of the value, because alpha_n and alpha_p are constants
          for it. This is the definition.
        - float32 rounds a similarity to about 1e-7, which the exponent multiplies by up to
          2 gamma: at gamma 256 gradients are good to about 1e-4 of their size.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.CircleLoss(margin=0.4, gamma=80)
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 4)
    11.9505
    """

    def __init__(
        self, margin: float = 0.25, gamma: float = 256.0, *, name: str = "circle", **options: Any
    ):
        self.margin = real_number("margin", margin, least=0)
        self.gamma = real_number("gamma", gamma, above=0)
        settings = {"margin": self.margin, "gamma": self.gamma}
        super().__init__(
            pair_loss=partial(circle, **settings),
            weighting=partial(circle_weights, **settings),
            name=name,
            **checked_options(self, settings, options),
        )
