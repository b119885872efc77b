"""The binomial deviance loss."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import Pairs, signed
from keras_ms.pairs.reductions import masked_sum, num_pairs, one_over
from keras_ms.pairs.row_wise import RowForm, RowLoss, RowParts, RowWise


@RowLoss
def binomial_deviance(alpha: float = 2.0, beta: float = 50.0, threshold: float = 0.5) -> RowParts:
    """The binomial deviance loss of every anchor. Call it with Pairs after mining.

    L_i = mean_P log(1 + e^{alpha (threshold - S_ik)}) + mean_N log(1 + e^{beta (S_ik - threshold)})

    Args:
        alpha, beta, threshold: as in `BinomialDevianceLoss`.

    Returns:
        (anchors,), same dtype as the similarities; the mean over no pair is 0.
    """

    def sums(pairs, axis):
        deviance = ops.softplus(binomial_deviance_exponents(pairs, alpha, beta, threshold))
        pull, push = (masked_sum(deviance, mask, axis) for mask in (pairs.positive, pairs.negative))
        return pull, push, *_num_pairs(pairs, axis)

    def means(positive_sum, negative_sum, num_positives, num_negatives):
        return positive_sum * one_over(num_positives) + negative_sum * one_over(num_negatives)

    return RowParts(sums, (ops.add,) * 4, means)


@keras.saving.register_keras_serializable(package="keras_ms")
@RowWise
def binomial_deviance_weights(
    alpha: float = 2.0, beta: float = 50.0, threshold: float = 0.5
) -> RowForm:
    """Pair weights of the binomial deviance loss, signed. Call it with Pairs after mining.

    On a negative: beta / |N| sigmoid(beta (S - threshold)); on a positive:
    -alpha / |P| sigmoid(alpha (threshold - S)).

    Reference: that of `keras_ms.BinomialDevianceLoss`.

    Args:
        pairs: Pairs, the one argument without a keyword.
        alpha, beta, threshold: as in `BinomialDevianceLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(binomial_deviance_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[-0.31, -0.45, 25.  ,  0.  ]], dtype=float32)
    """

    def weights(pairs, positive_share, negative_share):
        exponents = binomial_deviance_exponents(pairs, alpha, beta, threshold)
        share = ops.where(pairs.positive, alpha * positive_share, beta * negative_share)
        return signed(pairs, share * ops.sigmoid(exponents))

    return RowForm(_SHARES, weights)


def binomial_deviance_shares(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """1 / |P| and 1 / |N| of every anchor.

    Args:
        pairs: Pairs.

    Returns:
        Two (anchors, 1), same dtype as the similarities; 0 for an anchor without pairs of the kind.

    Example:

     >>> pairs = keras_ms.pairs.Pairs(
     ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
     ...     positive=np.array([[True, True, False, False]]),
     ...     negative=np.array([[False, False, True, True]]),
     ... )
    >>> [float(share[0, 0]) for share in binomial_deviance_shares(pairs)]
    [0.5, 0.5]
    """
    return _SHARES(pairs)


def _num_pairs(pairs, axis):
    dtype = pairs.similarity.dtype
    return num_pairs(pairs.positive, dtype, axis), num_pairs(pairs.negative, dtype, axis)


def _shares(num_positives, num_negatives):
    return one_over(num_positives), one_over(num_negatives)


_SHARES = RowParts(_num_pairs, (ops.add, ops.add), _shares)


def binomial_deviance_exponents(
    pairs: Pairs, alpha: float, beta: float, threshold: float
) -> Tensor:
    """alpha (threshold - S) of positives and beta (S - threshold) of the others.

    Args:
        pairs: Pairs.
        alpha, beta, threshold: as in `BinomialDevianceLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities.

    Example:

     >>> pairs = keras_ms.pairs.Pairs(
     ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
     ...     positive=np.array([[True, True, False, False]]),
     ...     negative=np.array([[False, False, True, True]]),
     ... )
    >>> np.array(binomial_deviance_exponents(pairs, 2.0, 50.0, 0.5)).round(2)
    array([[ -0.8,  -0.2,  10. , -20. ]], dtype=float32)
    """
    above = pairs.similarity - threshold
    return ops.where(pairs.positive, -alpha * above, beta * above)


@keras.saving.register_keras_serializable(package="keras_ms")
class BinomialDevianceLoss(PairLoss):
    """Computes the binomial deviance loss over all pairs of a batch.

    A contrastive loss with soft thresholds: the weight of a pair is a sigmoid of its own
    similarity. Positives and negatives are averaged apart, so that the many negatives do not
    drown the few positives.

    L_i = mean_P log(1 + e^{alpha (threshold - S_ik)}) + mean_N log(1 + e^{beta (S_ik - threshold)})

    Reference: Yi, Lei, Liao, Li: Deep Metric Learning for Person Re-Identification, ICPR 2014; in
    the notation of Wang et al., CVPR 2019, Section 3.

    Relations: `ContrastiveLoss` with soft thresholds and means; `MultiSimilarityLoss` takes the
    logarithm of a sum of the same exponentials, so that an anchor's pairs share a weight.

    Args:
        alpha: weight scale of positive pairs, > 0. Defaults to 2, the paper's.
        beta: weight scale of negative pairs, > 0. Defaults to 50: 25 times alpha, as the loss is
            commonly run.
        threshold: similarity (lambda in the paper) at which a pair has half its largest weight.
            Defaults to 0.5, the paper's.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - An anchor without positives still pushes its negatives, and one without negatives pulls
          its positives; one without pairs has the loss 0.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.BinomialDevianceLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    9.758986
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        threshold: float = 0.5,
        *,
        name: str = "binomial_deviance",
        **options: Any,
    ):
        self.alpha = real_number("alpha", alpha, above=0)
        self.beta = real_number("beta", beta, above=0)
        self.threshold = real_number("threshold", threshold)
        scales = {"alpha": self.alpha, "beta": self.beta, "threshold": self.threshold}
        super().__init__(
            pair_loss=partial(binomial_deviance, **scales),
            weighting=partial(binomial_deviance_weights, **scales),
            name=name,
            **checked_options(self, scales, options),
        )
