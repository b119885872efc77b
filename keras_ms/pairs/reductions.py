"""What a row of pairs sums up to: numbers of one kind of pair, extremes, logarithms of sums.

Everything here has a static shape and is written in keras.ops, so it compiles under XLA and runs
on every Keras backend.
"""

import math

from keras import ops

from keras_ms.arguments import Tensor

# Beyond every similarity by more than any margin or epsilon, so that a row without pairs of a kind
# finds every comparison false; finite, so that no inf - inf can arise.
BEYOND_ANY_SIMILARITY = 1e30

# The log of a sum over no pair is this: far below any exponent, so that e^LOG_OF_ZERO is exactly 0,
# and finite as well. Larger, and a float32 exponent would lose its digits beside it.
LOG_OF_ZERO = -1e9


def num_pairs(mask: Tensor, dtype: str) -> Tensor:
    """How many entries of each row hold, (anchors, 1) of this dtype."""
    return ops.sum(ops.cast(mask, dtype), axis=-1, keepdims=True)


def one_over_num_pairs(mask: Tensor, dtype: str) -> Tensor:
    """1 / the number of entries that hold, (anchors, 1); 1 for a row without any."""
    count = num_pairs(mask, dtype)
    # for a row without pairs any number does: nothing is multiplied with it
    return 1 / ops.maximum(count, ops.ones_like(count))


def masked_max(values: Tensor, mask: Tensor, if_none: float) -> Tensor:
    """Row maximum over the entries where `mask` holds; `if_none` (finite) for rows without any."""
    return ops.max(ops.where(mask, values, ops.full_like(values, if_none)), axis=-1, keepdims=True)


def masked_min(values: Tensor, mask: Tensor, if_none: float) -> Tensor:
    """Row minimum over the entries where `mask` holds; `if_none` (finite) for rows without any."""
    return ops.min(ops.where(mask, values, ops.full_like(values, if_none)), axis=-1, keepdims=True)


def column_numbers(matrix: Tensor) -> Tensor:
    """The column of each entry, (anchors, candidates) int32."""
    rows, columns = ops.shape(matrix)
    return ops.broadcast_to(ops.arange(columns, dtype="int32"), (rows, columns))


def log_one_plus_sum_exp(exponents: Tensor, mask: Tensor, bound: float = math.inf) -> Tensor:
    """log(1 + sum over the masked entries of e^exponent), row by row, without overflow.

    The "1 +" is a column of zeros inside the log-sum-exp, so an empty row gives exactly 0; sums
    far below 1 keep their relative precision.

    Args:
        exponents: (anchors, candidates).
        mask: (anchors, candidates) bool.
        bound: a number that no masked exponent exceeds, where one is known beforehand (cosine
            similarities are at most 1). A small one saves looking for the maximum of every row.

    Returns:
        (anchors, 1), same dtype as `exponents`.
    """
    _, total, largest = _scaled_terms(exponents, mask, bound)
    # log(e^-largest + total), which is log1p(total) where the 0 column is the largest
    return largest + ops.log1p(ops.expm1(-largest) + total)


def _scaled_terms(exponents, mask, bound):
    """e^(exponent - largest) of the masked entries, their row sums, and the row's largest
    exponent, the 0 column included."""
    # e^60 times any batch size is far from overflow in float32, whose limit is e^88
    if bound <= 60:
        largest = ops.zeros_like(exponents[:, :1])
    else:
        # over masked entries and the 0 column only: no other entry sets the scale
        largest = ops.stop_gradient(masked_max(exponents, mask, 0.0))
        largest = ops.maximum(largest, ops.zeros_like(largest))
    # the inner where keeps entries that do not count from overflowing
    shifted = ops.where(mask, exponents - largest, ops.zeros_like(exponents))
    terms = ops.where(mask, ops.exp(shifted), ops.zeros_like(shifted))
    return terms, ops.sum(terms, axis=-1, keepdims=True), largest
