"""Which pairs: every miner takes Pairs and returns Pairs with smaller masks."""

import keras
from keras import ops

from keras_ms.pairs.pairs import Pairs
from keras_ms.pairs.positives import visit_positives
from keras_ms.pairs.reductions import BEYOND_ANY_SIMILARITY, masked_max, masked_min
from keras_ms.pairs.row_wise import NO_STATISTICS, RowForm, RowParts, RowWise


@keras.saving.register_keras_serializable(package="keras_ms")
@RowWise
def mine_all() -> RowForm:
    """Keeps every pair. Call it with Pairs.

    Relations: the miner of losses that weigh all pairs, and the default of
    `keras_ms.WeightedPairLoss`. All others leave pairs out.

    Args:
        pairs: Pairs.

    Returns:
        The Pairs that it is called with.

    Example:

    >>> pairs = Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]]),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> mine_all(pairs) is pairs
    True
    """
    return RowForm(NO_STATISTICS, entry=lambda pairs: pairs)


@keras.saving.register_keras_serializable(package="keras_ms")
@RowWise
def mine_multi_similarity(epsilon: float = 0.1) -> RowForm:
    """Keeps the pairs that are informative relative to the anchor's hardest opposite pair.

    Call it with Pairs, `mine_multi_similarity(pairs, epsilon=0.1)`.

    A negative is kept iff it is more similar than the anchor's least similar positive minus
    epsilon; a positive iff it is less similar than the anchor's most similar negative plus
    epsilon. For an anchor with at least one positive and one negative the two kept sets are empty
    together or non-empty together, and the hardest positive and negative are always among them.

    Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning, CVPR 2019, Eqs 11 and 12.

    Relations: it keeps all pairs that are hard by a margin, of both kinds; `mine_hard` keeps one of
    each kind, `mine_semi_hard` triplets, `mine_all` everything. Take it first: it leaves nothing
    out that is near the border.

    Args:
        pairs: Pairs, the one argument without a keyword.
        epsilon: margin in units of cosine similarity, >= 0. Defaults to 0.1.

    Returns:
        Pairs. Anchors without a positive or without a negative keep nothing: there is no
        opposite pair to compare with. No gradient flows through the thresholds.

    Example:

    >>> pairs = Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]]),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> mined = mine_multi_similarity(pairs, epsilon=0.1)
    >>> np.array(mined.positive), np.array(mined.negative)
    (array([[False,  True, False, False]]), array([[False, False,  True, False]]))
    """

    def hardest(pairs, axis):
        similarity = ops.stop_gradient(pairs.similarity)
        least_positive = masked_min(similarity, pairs.positive, BEYOND_ANY_SIMILARITY, axis)
        most_negative = masked_max(similarity, pairs.negative, -BEYOND_ANY_SIMILARITY, axis)
        return least_positive, most_negative

    def informative(pairs, least_positive, most_negative):
        return Pairs(
            pairs.similarity,
            ops.logical_and(pairs.positive, pairs.similarity < most_negative + epsilon),
            ops.logical_and(pairs.negative, pairs.similarity > least_positive - epsilon),
        )

    return RowForm(RowParts(hardest, (ops.minimum, ops.maximum)), informative)


@keras.saving.register_keras_serializable(package="keras_ms")
def mine_hard(pairs: Pairs) -> Pairs:
    """Keeps the hardest positive and the hardest negative of every anchor.

    Reference: Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person
    Re-Identification, 2017.

    Relations: the hardest pairs alone, where `mine_multi_similarity` keeps all that are hard: take
    it for clean labels and late in a training; wrong labels are the hardest of all, and early on it
    can make embeddings collapse.

    Args:
        pairs: Pairs.

    Returns:
        Pairs with exactly one positive, the least similar, and one negative, the most similar,
        for every anchor that has both; of equal ones that of the lowest index. Other anchors
        keep nothing.

    Example:

    >>> pairs = Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]]),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> mined = mine_hard(pairs)
    >>> np.array(mined.positive), np.array(mined.negative)
    (array([[False,  True, False, False]]), array([[False, False,  True, False]]))
    """
    positives = ops.where(pairs.positive, -pairs.similarity, -_far(pairs))
    negatives = ops.where(pairs.negative, pairs.similarity, -_far(pairs))
    has_both = ops.logical_and(
        ops.any(pairs.positive, axis=-1, keepdims=True),
        ops.any(pairs.negative, axis=-1, keepdims=True),
    )
    return Pairs(
        pairs.similarity,
        ops.logical_and(has_both, _is_first_greatest(positives)),
        ops.logical_and(has_both, _is_first_greatest(negatives)),
    )


@keras.saving.register_keras_serializable(package="keras_ms")
def mine_semi_hard(pairs: Pairs, margin: float = 0.1) -> Pairs:
    """Keeps the pairs of the triplets that TensorFlow's semi-hard rule makes.

    For each positive p of an anchor the rule picks one negative: the most similar of those less
    similar than p, or if there is none the least similar of all. A positive is kept iff that
    negative comes closer than the margin, S_an > S_ap - margin; a negative is kept iff a positive
    that is kept picked it. Which positive picked which negative is not kept: a weighting after
    this miner sees the two sets.

    Reference: Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face Recognition
    and Clustering, CVPR 2015, Section 3.2; the fallback is that of TensorFlow Addons.

    Relations: it avoids the hardest negatives, which `mine_hard` takes, and needs no more than one
    negative a positive, where `mine_multi_similarity` keeps all that are near.

    Args:
        pairs: Pairs.
        margin: in units of cosine similarity, >= 0. Defaults to 0.1, as in
            `keras_ms.TripletLoss`.

    Returns:
        Pairs. Of negatives of equal similarity that of the lowest index is picked. Anchors
        without a positive or without a negative keep nothing.

    Example:

    >>> pairs = Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]]),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> mined = mine_semi_hard(pairs, margin=0.3)
    >>> np.array(mined.positive), np.array(mined.negative)
    (array([[ True, False, False, False]]), array([[False, False,  True, False]]))
    """
    similarity = ops.stop_gradient(pairs.similarity)
    far = _far(pairs)
    positives = ops.where(pairs.positive, similarity, far)
    easiest = ops.where(pairs.negative, -similarity, -far)

    def visit(current, positive, negative):
        below = ops.logical_and(pairs.negative, similarity < current)
        ranked = ops.where(
            ops.any(below, axis=-1, keepdims=True), ops.where(below, similarity, -far), easiest
        )
        picked = ops.logical_and(pairs.negative, _is_first_greatest(ranked))
        closer = ops.logical_and(picked, similarity - current + margin > 0)
        is_current = ops.logical_and(pairs.positive, positives == current)
        is_kept = ops.logical_and(ops.any(closer, axis=-1, keepdims=True), is_current)
        return ops.logical_or(positive, is_kept), ops.logical_or(negative, closer)

    nothing = ops.zeros_like(pairs.positive)
    positive, negative = visit_positives(visit, positives, BEYOND_ANY_SIMILARITY, nothing, nothing)
    return Pairs(pairs.similarity, positive, negative)


@keras.saving.register_keras_serializable(package="keras_ms")
def mine_one_pair_per_class(pairs: Pairs) -> Pairs:
    """Keeps one anchor and one positive of every class: its first two items.

    The first item of a class is its anchor, the second its positive and the negative of the other
    classes' anchors. All other items take part in no pair.

    Reference: Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective,
    NeurIPS 2016, Section 3.2.

    Relations: the pairs of `keras_ms.NPairLoss` as published, a pair a class whatever the
    similarities are; the other miners choose by similarity. Take it with batches of two images a
    class.

    Args:
        pairs: Pairs of a batch with itself.

    Returns:
        Pairs. Of a class with one item its item is left out; with a single class of two items or
        more the anchor has a positive and no negative.

    Raises:
        ValueError: anchors and candidates that are not the same items: of a part of a batch, of a
            memory, of several replicas.

    Example:

    >>> labels = np.array([0, 0, 0, 1, 1])
    >>> same = labels[:, None] == labels
    >>> pairs = Pairs(np.zeros((5, 5)), same & ~np.eye(5, dtype=bool), ~same)
    >>> mined = mine_one_pair_per_class(pairs)
    >>> np.argwhere(np.array(mined.positive)).tolist()  # anchor, positive
    [[0, 1], [3, 4]]
    >>> np.argwhere(np.array(mined.negative)).tolist()
    [[0, 4], [3, 1]]
    """
    anchors, candidates = pairs.positive.shape
    if None not in (anchors, candidates) and anchors != candidates:
        raise ValueError(
            "Expected pairs of a batch with itself. Received: "
            f"{anchors} anchors and {candidates} candidates. Take `block_size=None`, one device "
            "and no memory, or NPairLoss(one_pair_per_class=True)"
        )
    index = ops.arange(ops.shape(pairs.positive)[0], dtype="int32")
    before = ops.expand_dims(index, 0) < ops.expand_dims(index, 1)
    earlier = ops.sum(ops.cast(ops.logical_and(pairs.positive, before), "int32"), axis=-1)
    is_anchor = ops.logical_and(earlier == 0, ops.any(pairs.positive, axis=-1))
    kept = ops.logical_and(ops.expand_dims(is_anchor, 1), ops.expand_dims(earlier == 1, 0))
    return Pairs(
        pairs.similarity,
        ops.logical_and(pairs.positive, kept),
        ops.logical_and(pairs.negative, kept),
    )


def _far(pairs):
    return ops.full_like(pairs.similarity, BEYOND_ANY_SIMILARITY)


def _is_first_greatest(values):
    """Where a row has its maximum, for the first time; (anchors, candidates) bool."""
    size = ops.shape(values)[1]
    index = ops.arange(size, dtype="int32")
    # not argmax, which in Keras takes -0 for less than 0
    greatest = values == ops.max(values, axis=-1, keepdims=True)
    return index == ops.min(ops.where(greatest, index, size), axis=-1, keepdims=True)
