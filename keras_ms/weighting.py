"""How much each pair counts: closed forms of dL/dS, one function a loss, no autodiff.

The General Pair Weighting framework reads a pair-based loss as a weighting of pairs: at any step
the loss and the sum of weight times similarity have the same gradient. Each function here takes
Pairs and returns the signed matrix of derivatives of an anchor's loss with respect to its
similarities: at most 0 on positives, at least 0 on negatives, 0 elsewhere.

Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
Learning, CVPR 2019, Section 3.
"""

from keras import ops

from keras_ms.pairs import log_one_plus_sum_exp, row_wise


def _multi_similarity_totals(pairs, alpha, beta, threshold):
    positive, negative = multi_similarity_exponents(pairs, alpha, beta, threshold)
    return log_one_plus_sum_exp(*positive), log_one_plus_sum_exp(*negative)


@row_wise(_multi_similarity_totals)
def multi_similarity_weights(
    pairs, positive_total, negative_total, alpha=2.0, beta=40.0, threshold=0.5
):
    """Pair weights of the Multi-Similarity loss (Eqs 13 and 14), signed.

    On a negative of anchor i: 1 / (e^{beta (threshold - S_ij)} + sum_k e^{beta (S_ik - S_ij)});
    on a positive: -1 / (e^{-alpha (threshold - S_ij)} + sum_k e^{-alpha (S_ik - S_ij)}), the sums
    over the anchor's mined pairs of the same kind. Multiplied out, each is the share of
    e^{exponent} in "1 + sum of e^{exponent}".

    Args:
        pairs: Pairs, after mining.
        positive_total, negative_total: filled in, log(1 + sum of e^{exponent}) of the anchor.
        alpha, beta, threshold: as in `keras_ms.MultiSimilarityLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities, every entry within (-1, 1).
    """
    above = pairs.similarity - threshold
    # a pair is of one kind, so one exponential serves both
    share = ops.exp(
        ops.where(pairs.positive, -alpha * above - positive_total, beta * above - negative_total)
    )
    return signed(pairs, share)


def signed(pairs, size):
    """`size` on negatives, minus `size` on positives, 0 elsewhere."""
    zero = ops.zeros_like(size)
    return ops.where(pairs.positive, -size, ops.where(pairs.negative, size, zero))


def multi_similarity_exponents(pairs, alpha, beta, threshold):
    """The exponents of Eq. 15, which the loss and its weights share.

    Returns:
        For the positive and for the negative pairs `(exponents, mask, bound)`, the arguments of
        `log_one_plus_sum_exp`; the bounds hold because a similarity is within [-1, 1].
    """
    above = pairs.similarity - threshold
    return (
        (-alpha * above, pairs.positive, alpha * (1 + threshold)),
        (beta * above, pairs.negative, beta * (1 - threshold)),
    )
