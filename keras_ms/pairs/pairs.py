"""All pairs of a batch: similarities, and who is whose positive and negative."""

from typing import NamedTuple

from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.pairs.labels import LabelCodes, label_codes, same_label
from keras_ms.pairs.reductions import LOG_OF_ZERO, log_or_zero, masked_max, masked_sum


class Pairs(NamedTuple):
    """Every anchor-candidate pair of a batch.

    similarity: (anchors, candidates) float, cosine similarity, higher = closer.
    positive:   (anchors, candidates) bool, same label and not the anchor itself.
    negative:   (anchors, candidates) bool, other label.
    """

    similarity: Tensor
    positive: Tensor
    negative: Tensor


def batch_pairs(
    similarity: Tensor, keys: Tensor, candidate_keys: Tensor | None = None, offset: int | Tensor = 0
) -> Pairs:
    """All pairs of the anchors with the candidates, which by default are the anchors.

    Args:
        similarity: (anchors, candidates).
        keys, candidate_keys, offset: as in `pair_masks`.

    Returns:
        Pairs.
    """
    return Pairs(similarity, *pair_masks(keys, candidate_keys, offset))


def pair_masks(
    keys: Tensor, candidate_keys: Tensor | None = None, offset: int | Tensor = 0
) -> tuple[Tensor, Tensor]:
    """Who is whose positive and negative.

    Args:
        keys: label keys of the anchors, of `keras_ms.pairs.labels.label_keys`.
        candidate_keys: those of the candidates, where these are not the anchors themselves but
            hold them as a run of neighbours.
        offset: index of the first anchor among the candidates.

    Returns:
        `(positive, negative)`, each (anchors, candidates) bool. An item is left out of its own
        positives **by index**: an exact duplicate of it stays a positive. Items whose key is not
        valid take part in no pair.
    """
    codes = label_codes(keys)
    return masks_of_codes(
        codes, codes if candidate_keys is None else label_codes(candidate_keys), offset
    )


def masks_of_codes(
    codes: LabelCodes, candidate_codes: LabelCodes, offset: int | Tensor = 0
) -> tuple[Tensor, Tensor]:
    """`pair_masks` of items whose keys are codes already."""
    same = same_label(codes, candidate_codes)
    own_index = ops.arange(ops.shape(codes.low)[0]) + offset
    index = ops.arange(ops.shape(candidate_codes.low)[0])
    other_index = ops.not_equal(ops.expand_dims(own_index, 1), ops.expand_dims(index, 0))
    both_valid = ops.logical_and(
        ops.expand_dims(codes.valid, 1), ops.expand_dims(candidate_codes.valid, 0)
    )
    positive = ops.logical_and(ops.logical_and(same, other_index), both_valid)
    return positive, ops.logical_and(ops.logical_not(same), both_valid)


def is_pair(pairs: Pairs) -> Tensor:
    """Which entries are a pair of either kind, (anchors, candidates) bool."""
    return ops.logical_or(pairs.positive, pairs.negative)


def has_pair(pairs: Pairs) -> Tensor:
    """Which anchors have a pair of either kind, (anchors,) bool."""
    return ops.any(is_pair(pairs), axis=-1)


def signed(pairs: Pairs, magnitude: Tensor) -> Tensor:
    """`magnitude` on negatives, minus `magnitude` on positives, 0 elsewhere.

    Args:
        pairs: Pairs.
        magnitude: (anchors, candidates), how much each pair counts, at least 0.

    Returns:
        (anchors, candidates), same dtype as `magnitude`: a weighting, for `WeightedPairLoss`.

    Example:

     >>> pairs = keras_ms.pairs.Pairs(
     ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
     ...     positive=np.array([[True, True, False, False]]),
     ...     negative=np.array([[False, False, True, True]]),
     ... )
    >>> np.array(signed(pairs, np.ones((1, 4), "float32")))
    array([[-1., -1.,  1.,  1.]], dtype=float32)
    """
    zero = ops.zeros_like(magnitude)
    return ops.where(pairs.positive, -magnitude, ops.where(pairs.negative, magnitude, zero))


def log_sums_exp(exponents: Tensor, pairs: Pairs, axis: int = -1) -> list[Tensor]:
    """log of the sum of e^exponent over the positives and over the negatives, row by row.

    Args:
        exponents: (anchors, candidates); those of pairs of neither kind are not read.
        pairs: Pairs.
        axis: 0 for the columns in place of the rows. Defaults to -1.

    Returns:
        Two (anchors, 1), or (1, candidates), same dtype as `exponents`: -1e9 for a row without
        pairs of the kind, the exponent itself for a row with one.

    Example:

     >>> pairs = keras_ms.pairs.Pairs(
     ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
     ...     positive=np.array([[True, True, False, False]]),
     ...     negative=np.array([[False, False, True, True]]),
     ... )
    >>> positive, negative = log_sums_exp(pairs.similarity, pairs)
    >>> round(float(positive[0, 0]), 4), round(float(negative[0, 0]), 4)
    (1.4544, 1.1375)
    """
    masks = pairs.positive, pairs.negative
    # over masked entries only: no other entry sets the scale
    largest = [masked_max(exponents, mask, LOG_OF_ZERO, axis) for mask in masks]
    # a pair is of one kind, so one exponential serves both; entries of neither kind would overflow
    shifted = exponents - ops.where(pairs.positive, *largest)
    terms = ops.exp(ops.where(is_pair(pairs), shifted, ops.zeros_like(shifted)))
    totals = []
    for mask, scale in zip(masks, largest):
        # a row without pairs: log 1 leaves the scale of -1e9
        totals.append(scale + log_or_zero(masked_sum(terms, mask, axis)))
    return totals
