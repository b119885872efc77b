"""How much each pair counts: closed forms of dL/dS, one function a loss, no autodiff.

The General Pair Weighting framework reads a pair-based loss as a weighting of pairs: at any step
the loss and the sum of weight times similarity have the same gradient. Each function here takes
Pairs and returns the signed matrix of derivatives of an anchor's loss with respect to its
similarities: at most 0 on positives, at least 0 on negatives, 0 elsewhere.

Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
Learning, CVPR 2019, Section 3.
"""

from keras import ops

from keras_ms.pairs import log_one_plus_sum_exp


def multi_similarity_weights(pairs, alpha=2.0, beta=40.0, threshold=0.5):
    """Pair weights of the Multi-Similarity loss (Eqs 13 and 14), signed.

    On a negative of anchor i: 1 / (e^{beta (threshold - S_ij)} + sum_k e^{beta (S_ik - S_ij)});
    on a positive: -1 / (e^{-alpha (threshold - S_ij)} + sum_k e^{-alpha (S_ik - S_ij)}), the sums
    over the anchor's mined pairs of the same kind. Each is a share of e^{exponent} in
    "1 + sum of e^{exponent}", computed here as e^{exponent - log(1 + sum)}.

    Args:
        pairs: Pairs, after mining.
        alpha, beta, threshold: as in `keras_ms.MultiSimilarityLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities, every entry within (-1, 1).
    """
    above = pairs.similarity - threshold
    return _share(beta * above, pairs.negative) - _share(-alpha * above, pairs.positive)


def _share(exponents, mask):
    log_total = log_one_plus_sum_exp(exponents, mask)
    # exponent - log_total < 0 on mined pairs; others are set aside before exp can overflow
    return ops.where(
        mask,
        ops.exp(ops.where(mask, exponents - log_total, ops.zeros_like(exponents))),
        ops.zeros_like(exponents),
    )
