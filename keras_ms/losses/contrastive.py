"""The contrastive loss on cosine similarities."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import is_pair, signed
from keras_ms.pairs.reductions import masked_sum
from keras_ms.pairs.row_wise import NO_STATISTICS, RowForm, RowLoss, RowParts, RowWise


@RowLoss
def contrastive(threshold: float = 0.5) -> RowParts:
    """The contrastive loss of every anchor. Call it with Pairs after mining.

    L_i = sum_N [S_ik - threshold]+ + sum_P (1 - S_ik)

    Args:
        threshold: as in `ContrastiveLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without pairs.
    """

    def sums(pairs, axis):
        push = ops.relu(pairs.similarity - threshold)
        entries = ops.where(pairs.positive, 1 - pairs.similarity, push)
        return (masked_sum(entries, is_pair(pairs), axis),)

    return RowParts(sums, (ops.add,), whole=lambda total: total)


@keras.saving.register_keras_serializable(package="keras_ms")
@RowWise
def contrastive_weights(threshold: float = 0.5) -> RowForm:
    """Pair weights of the contrastive loss, signed: 1 on a negative above the threshold, -1 on
    every positive. Call it with Pairs after mining.

    Reference: that of `keras_ms.ContrastiveLoss`.

    Args:
        pairs: Pairs, the one argument without a keyword.
        threshold: as in `ContrastiveLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(contrastive_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[-1., -1.,  1.,  0.]], dtype=float32)
    """

    def weights(pairs):
        above = ops.cast(pairs.similarity > threshold, pairs.similarity.dtype)
        return signed(pairs, ops.where(pairs.positive, ops.ones_like(above), above))

    return RowForm(NO_STATISTICS, weights)


@keras.saving.register_keras_serializable(package="keras_ms")
class ContrastiveLoss(PairLoss):
    """Computes the contrastive loss over all pairs of a batch.

    The simplest pair loss and the baseline of the others: every positive pair is pulled with the
    same weight, every negative pair above a threshold is pushed with the same weight.

    L_i = sum_N [S_ik - threshold]+ + sum_P (1 - S_ik)

    Reference: Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping,
    CVPR 2006, in the form on similarities of Wang et al., CVPR 2019, Section 3. There the
    positives add -S; 1 - S has the same gradient and never falls below 0. Sums, not means: an
    anchor with more positives counts more.

    Relations: `BinomialDevianceLoss` has a soft threshold and means where this has a hard one and
    sums; `TripletLoss` compares a negative with a positive in place of a threshold.

    Args:
        threshold: similarity (lambda in the paper) above which a negative is pushed. Defaults to
            0.5, as in the other losses on similarities: random unit vectors are near 0, so only
            negatives that look alike are pushed.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - An anchor without positives still pushes its negatives, and one without negatives pulls
          its positives; one without pairs has the loss 0.
        - An exact duplicate of the anchor is an ordinary positive, at a loss of 0.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.ContrastiveLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.333333
    """

    def __init__(self, threshold: float = 0.5, *, name: str = "contrastive", **options: Any):
        self.threshold = real_number("threshold", threshold)
        super().__init__(
            pair_loss=partial(contrastive, threshold=self.threshold),
            weighting=partial(contrastive_weights, threshold=self.threshold),
            name=name,
            **checked_options(self, {"threshold": self.threshold}, options),
        )
