"""The circle loss."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.weighting import circle_totals, circle_weights


def circle(pairs, margin=0.25, gamma=256.0):
    """The circle loss of every anchor.

    L_i = log(1 + sum_N e^{gamma alpha_n (S_ik - m)} sum_P e^{-gamma alpha_p (S_ik - 1 + m)}) with
    alpha_n = [S_ik + m]+ and alpha_p = [1 + m - S_ik]+

    Args:
        pairs: Pairs, after mining.
        margin, gamma: as in `CircleLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without positives or without
        negatives.
    """
    positive_total, negative_total = circle_totals(pairs, margin, gamma)
    return ops.softplus(positive_total + negative_total)[:, 0]


@keras.saving.register_keras_serializable(package="keras_ms")
class CircleLoss(PairLoss):
    """Computes the circle loss over all pairs of a batch.

    Every pair is weighted by how far it is from its own optimum, 1 for positives and 0 for
    negatives, and by its part in a softmax over its kind: the hardest pairs dominate.

    L_i = log(1 + sum_N e^{gamma alpha_n (S_ik - m)} sum_P e^{-gamma alpha_p (S_ik - 1 + m)}) with
    alpha_n = [S_ik + m]+ and alpha_p = [1 + m - S_ik]+, which are constants for the gradient.

    Reference: Sun et al.: Circle Loss: A Unified Perspective of Pair Similarity Optimization,
    CVPR 2020, Eqs 6 to 8.

    Args:
        margin: m, relaxes both optima, in cosine similarity, >= 0. Defaults to 0.25, the paper's
            for faces.
        gamma: scale, > 0. Defaults to 256, the paper's for faces. (The paper takes margin 0.4 and
            gamma 80 for fine-grained retrieval, as other libraries do by default.)
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - An anchor without a positive or without a negative has the loss 0.
        - The gradient is not the slope of the value, because alpha_n and alpha_p are constants
          for it. This is the definition.
        - float32 rounds a similarity to about 1e-7, which the exponent multiplies by up to
          2 gamma: at gamma 256 gradients are good to about 1e-4 of their size.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.CircleLoss(margin=0.4, gamma=80)
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 4)
    11.9505
    """

    def __init__(self, margin=0.25, gamma=256.0, name="circle", **options):
        if not (math.isfinite(margin) and margin >= 0):
            raise ValueError(f"Expected `margin` >= 0. Received: margin={margin}")
        if not (math.isfinite(gamma) and gamma > 0):
            raise ValueError(f"Expected `gamma` > 0. Received: gamma={gamma}")
        self.margin = float(margin)
        self.gamma = float(gamma)
        super().__init__(
            pair_loss=partial(circle, margin=self.margin, gamma=self.gamma),
            weighting=partial(circle_weights, margin=self.margin, gamma=self.gamma),
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {**super().get_config(), "margin": self.margin, "gamma": self.gamma}
