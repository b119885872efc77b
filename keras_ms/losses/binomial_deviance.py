"""The binomial deviance loss."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.weighting import (
    binomial_deviance_exponents,
    binomial_deviance_shares,
    binomial_deviance_weights,
)


def binomial_deviance(pairs, alpha=2.0, beta=50.0, threshold=0.5):
    """The binomial deviance loss of every anchor.

    L_i = mean_P log(1 + e^{alpha (threshold - S_ik)}) + mean_N log(1 + e^{beta (S_ik - threshold)})

    Args:
        pairs: Pairs, after mining.
        alpha, beta, threshold: as in `BinomialDevianceLoss`.

    Returns:
        (anchors,), same dtype as the similarities; the mean over no pair is 0.
    """
    positive_share, negative_share = binomial_deviance_shares(pairs)
    deviance = ops.softplus(binomial_deviance_exponents(pairs, alpha, beta, threshold))
    zero = ops.zeros_like(deviance)
    push = ops.where(pairs.negative, negative_share * deviance, zero)
    return ops.sum(ops.where(pairs.positive, positive_share * deviance, push), axis=-1)


@keras.saving.register_keras_serializable(package="keras_ms")
class BinomialDevianceLoss(PairLoss):
    """Computes the binomial deviance loss over all pairs of a batch.

    A contrastive loss with soft thresholds: the weight of a pair is a sigmoid of its own
    similarity. Positives and negatives are averaged apart, so that the many negatives do not
    drown the few positives.

    L_i = mean_P log(1 + e^{alpha (threshold - S_ik)}) + mean_N log(1 + e^{beta (S_ik - threshold)})

    Reference: Yi, Lei, Liao, Li: Deep Metric Learning for Person Re-Identification, ICPR 2014; in
    the notation of Wang et al., CVPR 2019, Section 3.

    Args:
        alpha: weight scale of positive pairs, > 0. Defaults to 2, the paper's.
        beta: weight scale of negative pairs, > 0. Defaults to 50: 25 times alpha, as the loss is
            commonly run.
        threshold: similarity (lambda in the paper) at which a pair has half its largest weight.
            Defaults to 0.5, the paper's.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - An anchor without positives still pushes its negatives, and one without negatives pulls
          its positives; one without pairs has the loss 0.
        - An exact duplicate of the anchor is an ordinary positive.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.BinomialDevianceLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    9.758986
    """

    def __init__(self, alpha=2.0, beta=50.0, threshold=0.5, name="binomial_deviance", **options):
        for argument, value in (("alpha", alpha), ("beta", beta)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Expected `{argument}` > 0. Received: {argument}={value}")
        if not math.isfinite(threshold):
            raise ValueError(f"Expected a finite `threshold`. Received: threshold={threshold}")
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.threshold = float(threshold)
        scales = {"alpha": self.alpha, "beta": self.beta, "threshold": self.threshold}
        super().__init__(
            pair_loss=partial(binomial_deviance, **scales),
            weighting=partial(binomial_deviance_weights, **scales),
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "threshold": self.threshold,
        }
