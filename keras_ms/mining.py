"""Which pairs: every miner takes Pairs and returns Pairs with smaller masks."""

from keras import ops

from keras_ms.pairs import Pairs, masked_max, masked_min


def mine_all(pairs):
    """Keeps every pair."""
    return pairs


def mine_multi_similarity(pairs, epsilon=0.1):
    """Keeps the pairs that are informative relative to the anchor's hardest opposite pair.

    A negative is kept iff it is more similar than the anchor's least similar positive minus
    epsilon; a positive iff it is less similar than the anchor's most similar negative plus
    epsilon. For an anchor with at least one positive and one negative the two kept sets are empty
    together or non-empty together, and the hardest positive and negative are always among them.

    Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning, CVPR 2019, Eqs 11 and 12.

    Args:
        pairs: Pairs.
        epsilon: margin in units of cosine similarity, >= 0.

    Returns:
        Pairs. Anchors without a positive or without a negative keep nothing: there is no
        opposite pair to compare with. No gradient flows through the thresholds.
    """
    # Outside [-1, 1] by more than any epsilon, so that an anchor without positives (negatives)
    # finds every comparison false; finite, so that no inf - inf can arise.
    never = 1e9
    least_positive = ops.stop_gradient(masked_min(pairs.similarity, pairs.positive, never))
    most_negative = ops.stop_gradient(masked_max(pairs.similarity, pairs.negative, -never))
    return Pairs(
        pairs.similarity,
        ops.logical_and(pairs.positive, pairs.similarity < most_negative + epsilon),
        ops.logical_and(pairs.negative, pairs.similarity > least_positive - epsilon),
    )
