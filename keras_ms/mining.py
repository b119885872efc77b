"""Which pairs: every miner takes Pairs and returns Pairs with smaller masks."""

from keras import ops

from keras_ms.pairs import Pairs, masked_max, masked_min, row_wise


def _no_statistics(pairs):
    return ()


@row_wise(_no_statistics)
def mine_all(pairs):
    """Keeps every pair."""
    return pairs


def _hardest_pairs(pairs):
    # Outside [-1, 1] by more than any epsilon, so that an anchor without positives (negatives)
    # finds every comparison false; finite, so that no inf - inf can arise.
    never = 1e9
    least_positive = masked_min(pairs.similarity, pairs.positive, never)
    most_negative = masked_max(pairs.similarity, pairs.negative, -never)
    return ops.stop_gradient(least_positive), ops.stop_gradient(most_negative)


@row_wise(_hardest_pairs)
def mine_multi_similarity(pairs, least_positive, most_negative, epsilon=0.1):
    """Keeps the pairs that are informative relative to the anchor's hardest opposite pair.

    A negative is kept iff it is more similar than the anchor's least similar positive minus
    epsilon; a positive iff it is less similar than the anchor's most similar negative plus
    epsilon. For an anchor with at least one positive and one negative the two kept sets are empty
    together or non-empty together, and the hardest positive and negative are always among them.

    Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning, CVPR 2019, Eqs 11 and 12.

    Args:
        pairs: Pairs.
        least_positive, most_negative: filled in, from the pairs.
        epsilon: margin in units of cosine similarity, >= 0.

    Returns:
        Pairs. Anchors without a positive or without a negative keep nothing: there is no
        opposite pair to compare with. No gradient flows through the thresholds.
    """
    return Pairs(
        pairs.similarity,
        ops.logical_and(pairs.positive, pairs.similarity < most_negative + epsilon),
        ops.logical_and(pairs.negative, pairs.similarity > least_positive - epsilon),
    )
