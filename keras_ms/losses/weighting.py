"""How much each pair counts: closed forms of dL/dS, one function a loss, no autodiff.

The General Pair Weighting framework reads a pair-based loss as a weighting of pairs: at any step
the loss and the sum of weight times similarity have the same gradient. Each function here takes
Pairs and returns the signed matrix of derivatives of an anchor's loss with respect to its
similarities: at most 0 on positives, at least 0 on negatives, 0 elsewhere (the supervised
contrastive loss pushes some positives, so it is the exception to the signs).

Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
Learning, CVPR 2019, Section 3.
"""

import keras
from keras import ops

from keras_ms.pairs.pairs import NEVER, log_one_plus_sum_exp, masked_max, row_wise


def _multi_similarity_totals(pairs, alpha, beta, threshold):
    positive, negative = multi_similarity_exponents(pairs, alpha, beta, threshold)
    return log_one_plus_sum_exp(*positive), log_one_plus_sum_exp(*negative)


@keras.saving.register_keras_serializable(package="keras_ms")
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


def _no_statistics(pairs):
    return ()


@keras.saving.register_keras_serializable(package="keras_ms")
@row_wise(_no_statistics)
def contrastive_weights(pairs, threshold=0.5):
    """Pair weights of the contrastive loss, signed: 1 on a negative above the threshold, -1 on
    every positive.

    Args:
        pairs: Pairs, after mining.
        threshold: as in `keras_ms.ContrastiveLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities.
    """
    above = ops.cast(pairs.similarity > threshold, pairs.similarity.dtype)
    return signed(pairs, ops.where(pairs.positive, ops.ones_like(above), above))


def binomial_deviance_shares(pairs):
    """1 / |P| and 1 / |N| of every anchor, each (anchors, 1)."""
    dtype = pairs.similarity.dtype
    return _one_over_count(pairs.positive, dtype), _one_over_count(pairs.negative, dtype)


@keras.saving.register_keras_serializable(package="keras_ms")
@row_wise(binomial_deviance_shares)
def binomial_deviance_weights(
    pairs, positive_share, negative_share, alpha=2.0, beta=50.0, threshold=0.5
):
    """Pair weights of the binomial deviance loss, signed.

    On a negative: beta / |N| sigmoid(beta (S - threshold)); on a positive:
    -alpha / |P| sigmoid(alpha (threshold - S)).

    Args:
        pairs: Pairs, after mining.
        positive_share, negative_share: filled in, 1 / |P| and 1 / |N| of the anchor.
        alpha, beta, threshold: as in `keras_ms.BinomialDevianceLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities.
    """
    exponents = binomial_deviance_exponents(pairs, alpha, beta, threshold)
    share = ops.where(pairs.positive, alpha * positive_share, beta * negative_share)
    return signed(pairs, share * ops.sigmoid(exponents))


def binomial_deviance_exponents(pairs, alpha, beta, threshold):
    """alpha (threshold - S) of positives and beta (S - threshold) of the others."""
    above = pairs.similarity - threshold
    return ops.where(pairs.positive, -alpha * above, beta * above)


def lifted_structure_totals(pairs, threshold):
    """log sum_P e^{threshold - S} and log sum_N e^S of every anchor, each (anchors, 1)."""
    return log_sums_exp(_lifted_structure_exponents(pairs, threshold), pairs)


def _lifted_structure_exponents(pairs, threshold):
    return ops.where(pairs.positive, threshold - pairs.similarity, pairs.similarity)


def _active_lifted_structure_totals(pairs, threshold):
    positive_total, negative_total = lifted_structure_totals(pairs, threshold)
    active = positive_total + negative_total > 0
    # a total beyond all bounds makes every share of it 0
    never = ops.full_like(positive_total, NEVER)
    return ops.where(active, positive_total, never), ops.where(active, negative_total, never)


@keras.saving.register_keras_serializable(package="keras_ms")
@row_wise(_active_lifted_structure_totals)
def lifted_structure_weights(pairs, positive_total, negative_total, threshold=1.0):
    """Pair weights of the lifted structure loss in its one-sided form, signed.

    On a negative of an anchor whose loss is above 0: 1 / sum_N e^{S_ik - S_ij}, a softmax over
    the negatives; on a positive: -1 / sum_P e^{S_ij - S_ik}.

    Args:
        pairs: Pairs, after mining.
        positive_total, negative_total: filled in, the logarithms of the anchor's two sums.
        threshold: as in `keras_ms.LiftedStructureLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; each kind sums to 1 or 0 in a row.
    """
    exponents = _lifted_structure_exponents(pairs, threshold)
    total = ops.where(pairs.positive, positive_total, negative_total)
    return signed(pairs, ops.exp(exponents - total))


def circle_totals(pairs, margin, gamma):
    """Logarithm of the sum of e^{exponent} over the positives and over the negatives of every
    anchor, each (anchors, 1), whose factors alpha are constants for the gradient."""
    return log_sums_exp(_circle_exponents(pairs, margin, gamma, ops.stop_gradient)[1], pairs)


def _circle_exponents(pairs, margin, gamma, alpha_as=lambda alpha: alpha):
    """The factors alpha and the exponents of a pair.

    With how far a pair is from where it should be, 1 - S of a positive (whose optimum is 1) and
    S of a negative (whose optimum is 0), both kinds read alike: alpha = [far + m]+ and the
    exponent is gamma alpha (far - m).
    """
    far = ops.where(pairs.positive, 1 - pairs.similarity, pairs.similarity)
    alpha = alpha_as(ops.relu(far + margin))
    return alpha, gamma * alpha * (far - margin)


def _circle_totals_over_slope(pairs, margin, gamma):
    # not `circle_totals`: the derivative of these weights takes in that of alpha
    positive_total, negative_total = log_sums_exp(_circle_exponents(pairs, margin, gamma)[1], pairs)
    # sigmoid(Z) = e^{-softplus(-Z)} is taken into the exponents: one exponential a pair
    minus_log_slope = ops.softplus(-(positive_total + negative_total))
    return positive_total + minus_log_slope, negative_total + minus_log_slope


@keras.saving.register_keras_serializable(package="keras_ms")
@row_wise(_circle_totals_over_slope)
def circle_weights(pairs, positive_total, negative_total, margin=0.25, gamma=256.0):
    """Pair weights of the circle loss, signed.

    With Z the sum of the two totals and alpha the pair's own factor, which is a constant for the
    gradient: sigmoid(Z) gamma alpha times the pair's share of its kind's sum of exponentials.

    Args:
        pairs: Pairs, after mining.
        positive_total, negative_total: filled in, the logarithms of the anchor's two sums, each
            less log sigmoid(Z).
        margin, gamma: as in `keras_ms.CircleLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; an anchor without a positive or
        without a negative has sigmoid(Z) = 0.
    """
    alpha, exponents = _circle_exponents(pairs, margin, gamma)
    total = ops.where(pairs.positive, positive_total, negative_total)
    return signed(pairs, gamma * alpha * ops.exp(exponents - total))


def supervised_contrastive_totals(pairs, temperature):
    """log sum_P e^{S / temperature}, log sum_N e^{S / temperature} and 1 / |P| of every anchor,
    each (anchors, 1)."""
    positive_total, negative_total = log_sums_exp(pairs.similarity / temperature, pairs)
    share = _one_over_count(pairs.positive, pairs.similarity.dtype)
    return positive_total, negative_total, share


def _supervised_contrastive_shares(pairs, temperature):
    positive_total, negative_total, share = supervised_contrastive_totals(pairs, temperature)
    gap = negative_total - positive_total
    # A total beyond all bounds makes every share of it 0: an anchor without positives has no loss.
    total = ops.where(
        positive_total > -NEVER,
        positive_total + ops.softplus(gap),
        ops.full_like(positive_total, NEVER),
    )
    return positive_total, total, share, ops.sigmoid(gap)


@keras.saving.register_keras_serializable(package="keras_ms")
@row_wise(_supervised_contrastive_shares)
def supervised_contrastive_weights(
    pairs, positive_total, total, positive_share, negative_part, temperature=0.1
):
    """Pair weights of the supervised contrastive loss, signed, and of either sign on positives.

    With q the softmax of S / temperature over all pairs of the anchor: q / temperature on a
    negative and (q - 1 / |P|) / temperature on a positive. A positive with more than its part of
    the softmax, q > 1 / |P|, is pushed away.

    Args:
        pairs: Pairs, after mining.
        positive_total, total: filled in, the logarithm of the anchor's sum of exponentials over
            its positives and over all its pairs.
        positive_share: filled in, 1 / |P|.
        negative_part: filled in, the sum of q over the negatives.
        temperature: as in `keras_ms.SupervisedContrastiveLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; every row sums to 0.
    """
    scaled = pairs.similarity / temperature
    share = ops.exp(scaled - ops.where(pairs.positive, positive_total, total))
    # q - 1/|P| with q = share (1 - negative_part), in a form that keeps its precision where
    # the negatives have next to no part
    of_positive = (share - positive_share) - share * negative_part
    either = ops.logical_or(pairs.positive, pairs.negative)
    size = ops.where(pairs.positive, of_positive, share) / temperature
    return ops.where(either, size, ops.zeros_like(size))


def log_sums_exp(exponents, pairs):
    """log of the sum of e^exponent over the positives and over the negatives, row by row.

    Args:
        exponents: (anchors, candidates); those of pairs of neither kind are not read.
        pairs: Pairs.

    Returns:
        Two (anchors, 1), same dtype as `exponents`: -1e9 for a row without pairs of the kind, the
        exponent itself for a row with one.
    """
    masks = pairs.positive, pairs.negative
    # over masked entries only: no other entry sets the scale
    largest = [masked_max(exponents, mask, -NEVER) for mask in masks]
    # a pair is of one kind, so one exponential serves both; entries of neither kind would overflow
    shifted = exponents - ops.where(pairs.positive, *largest)
    is_pair = ops.logical_or(*masks)
    terms = ops.exp(ops.where(is_pair, shifted, ops.zeros_like(shifted)))
    totals = []
    for mask, scale in zip(masks, largest):
        total = ops.sum(ops.where(mask, terms, ops.zeros_like(terms)), axis=-1, keepdims=True)
        # a row without pairs: log 1 leaves the scale of -1e9
        totals.append(scale + ops.log(ops.where(total > 0, total, ops.ones_like(total))))
    return totals


def _one_over_count(mask, dtype):
    count = ops.sum(ops.cast(mask, dtype), axis=-1, keepdims=True)
    # for a row without pairs any number does: nothing is multiplied with it
    return 1 / ops.maximum(count, ops.ones_like(count))
