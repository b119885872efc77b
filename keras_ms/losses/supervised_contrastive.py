"""The supervised contrastive loss, of which NT-Xent is a special case."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import Pairs, is_pair, log_sums_exp
from keras_ms.pairs.reductions import LOG_OF_ZERO, log_add, masked_sum, num_pairs, one_over
from keras_ms.pairs.row_wise import RowForm, RowLoss, RowParts, RowWise


@RowLoss
def supervised_contrastive(temperature: float = 0.1) -> RowParts:
    """The supervised contrastive loss of every anchor. Call it with Pairs after mining.

    L_i = -1 / |P| sum_P log(e^{S_ik / temperature} / sum over all pairs of e^{S_ia / temperature})

    Args:
        temperature: as in `SupervisedContrastiveLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without positives.
    """
    totals = _totals(temperature)

    def sums(pairs, axis):
        scaled = pairs.similarity / temperature
        return *totals.of(pairs, axis), masked_sum(scaled, pairs.positive, axis)

    def value(positive_total, negative_total, num_positives, positive_sum):
        mean = positive_sum * one_over(num_positives)
        # log of the whole sum less the mean, split so that a loss far below 1 keeps its precision
        loss = (positive_total - mean) + ops.softplus(negative_total - positive_total)
        return ops.where(num_positives > 0, loss, ops.zeros_like(loss))

    return RowParts(sums, (*totals.join, ops.add), value)


@keras.saving.register_keras_serializable(package="keras_ms")
@RowWise
def supervised_contrastive_weights(temperature: float = 0.1) -> RowForm:
    """Pair weights of the supervised contrastive loss, signed, and of either sign on positives.
    Call it with Pairs after mining.

    With q the softmax of S / temperature over all pairs of the anchor: q / temperature on a
    negative and (q - 1 / |P|) / temperature on a positive. A positive with more than its part of
    the softmax, q > 1 / |P|, is pushed away.

    Reference: that of `keras_ms.SupervisedContrastiveLoss`.

    Args:
        pairs: Pairs, the one argument without a keyword.
        temperature: as in `SupervisedContrastiveLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; every row sums to 0.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(supervised_contrastive_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[ 3.44, -4.58,  1.14,  0.  ]], dtype=float32)
    """

    totals = _totals(temperature)

    def shares(*numbers):
        positive_total, negative_total, share = totals.whole(*numbers)
        gap = negative_total - positive_total
        # A total beyond all bounds makes every share of it 0: an anchor without positives has no
        # loss.
        total = ops.where(
            positive_total > LOG_OF_ZERO,
            positive_total + ops.softplus(gap),
            ops.full_like(positive_total, -LOG_OF_ZERO),
        )
        return positive_total, total, share, ops.sigmoid(gap)

    def weights(pairs, positive_total, total, positive_share, negative_part):
        scaled = pairs.similarity / temperature
        share = ops.exp(scaled - ops.where(pairs.positive, positive_total, total))
        # q - 1/|P| with q = share (1 - negative_part), in a form that keeps its precision where
        # the negatives have next to no part
        of_positive = (share - positive_share) - share * negative_part
        size = ops.where(pairs.positive, of_positive, share) / temperature
        return ops.where(is_pair(pairs), size, ops.zeros_like(size))

    return RowForm(RowParts(totals.of, totals.join, shares), weights)


def supervised_contrastive_totals(
    pairs: Pairs, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """log sum_P e^{S / temperature}, log sum_N e^{S / temperature} and 1 / |P| of every anchor.

    Args:
        pairs: Pairs.
        temperature: as in `SupervisedContrastiveLoss`.

    Returns:
        Three (anchors, 1), same dtype as the similarities; of an anchor without pairs of the kind
        -1e9, and 0 for 1 / |P|.

    Example:

     >>> pairs = keras_ms.pairs.Pairs(
     ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
     ...     positive=np.array([[True, True, False, False]]),
     ...     negative=np.array([[False, False, True, True]]),
     ... )
    >>> [round(float(total[0, 0]), 4) for total in supervised_contrastive_totals(pairs, 0.1)]
    [9.0486, 7.0025, 0.5]
    """
    return _totals(temperature)(pairs)


def _totals(temperature):
    def of(pairs, axis):
        totals = log_sums_exp(pairs.similarity / temperature, pairs, axis)
        return *totals, num_pairs(pairs.positive, pairs.similarity.dtype, axis)

    def whole(positive_total, negative_total, num_positives):
        return positive_total, negative_total, one_over(num_positives)

    return RowParts(of, (log_add, log_add, ops.add), whole)


@keras.saving.register_keras_serializable(package="keras_ms")
class SupervisedContrastiveLoss(PairLoss):
    """Computes the supervised contrastive (SupCon) loss over all pairs of a batch.

    A softmax over all other items of the batch says which of them belongs to the anchor; the
    loss is the mean cross entropy over the anchor's positives.

    L_i = -1 / |P| sum_P log(e^{S_ik / temperature} / sum over all a != i of e^{S_ia / temperature})

    With one positive per anchor it is NT-Xent (InfoNCE) of SimCLR: pass two views of every image
    in one batch and give the two the same id.

    Reference: Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020, Eq. 2 (the sum
    outside the logarithm). NT-Xent: Chen et al.: A Simple Framework for Contrastive Learning of
    Visual Representations, ICML 2020.

    Relations: `NPairLoss` has a softmax of its own for every positive, and dot products; here one
    softmax holds all positives, so they compete, and a positive may be pushed.

    Args:
        temperature: divides the similarities, > 0: the lower, the more the hardest pairs count.
            Defaults to 0.1, the paper's.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - An anchor without positives has the loss 0. One without negatives has the formula's
          value, which is least when its positives are equally similar.
        - The weights of positives can have either sign: one that takes more than 1 / |P| of the
          softmax is pushed away. So a positive pair can be weighted like a negative one.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.SupervisedContrastiveLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.239516
    """

    def __init__(
        self, temperature: float = 0.1, *, name: str = "supervised_contrastive", **options: Any
    ):
        self.temperature = real_number("temperature", temperature, above=0)
        super().__init__(
            pair_loss=partial(supervised_contrastive, temperature=self.temperature),
            weighting=partial(supervised_contrastive_weights, temperature=self.temperature),
            name=name,
            **checked_options(self, {"temperature": self.temperature}, options),
        )
