"""What a row of pairs sums up to: numbers of one kind of pair, extremes, logarithms of sums.

Everything here has a static shape and is written in keras.ops, so it compiles under XLA and runs
on every Keras backend.
"""

import math
from collections.abc import Callable

from keras import ops

from keras_ms.arguments import Tensor

# Beyond every similarity by more than any margin or epsilon, so that a row without pairs of a kind
# finds every comparison false; finite, so that no inf - inf can arise.
BEYOND_ANY_SIMILARITY = 1e30

# The log of a sum over no pair is this: far below any exponent, so that e^LOG_OF_ZERO is exactly 0,
# and finite as well. Larger, and a float32 exponent would lose its digits beside it.
LOG_OF_ZERO = -1e9


def reduced_of_none(value: Tensor, reduction: str | None) -> Tensor:
    """The value of a loss; 0 for a batch of no item, whose values Keras leaves as they are."""
    is_left = value.shape == (0,) and reduction not in (None, "none")
    return ops.sum(value) if is_left else value


def num_pairs(mask: Tensor, dtype: str, axis: int = -1) -> Tensor:
    """How many entries of each row hold, (anchors, 1) of this dtype; of each column with axis 0."""
    return ops.sum(ops.cast(mask, dtype), axis=axis, keepdims=True)


def one_over(count: Tensor) -> Tensor:
    """1 / a number of pairs; 1 where there are none."""
    # for a row without pairs any number does: nothing is multiplied with it
    return 1 / ops.maximum(count, ops.ones_like(count))


def masked_max(values: Tensor, mask: Tensor, if_none: float, axis: int = -1) -> Tensor:
    """Row maximum over the entries where `mask` holds; `if_none` (finite) for rows without any."""
    values = ops.where(mask, values, ops.full_like(values, if_none))
    return ops.max(values, axis=axis, keepdims=True)


def masked_min(values: Tensor, mask: Tensor, if_none: float, axis: int = -1) -> Tensor:
    """Row minimum over the entries where `mask` holds; `if_none` (finite) for rows without any."""
    values = ops.where(mask, values, ops.full_like(values, if_none))
    return ops.min(values, axis=axis, keepdims=True)


def masked_sum(values: Tensor, mask: Tensor, axis: int = -1) -> Tensor:
    """Row sum over the entries where `mask` holds."""
    values = ops.where(mask, values, ops.zeros_like(values))
    return ops.sum(values, axis=axis, keepdims=True)


def column_numbers(matrix: Tensor) -> Tensor:
    """The column of each entry, (anchors, candidates) int32."""
    rows, columns = ops.shape(matrix)
    return ops.broadcast_to(ops.arange(columns, dtype="int32"), (rows, columns))


def log_one_plus_sum_exp(exponents: Tensor, mask: Tensor, bound: float = math.inf) -> Tensor:
    """log(1 + sum over the masked entries of e^exponent), row by row, without overflow.

    An empty row gives exactly 0; sums far below 1 keep their relative precision.

    Args:
        exponents: (anchors, candidates).
        mask: (anchors, candidates) bool.
        bound: a number that no exponent exceeds, masked or not, where one is known beforehand
            (cosine similarities are at most 1). A small one saves looking for the maximum of
            every row.

    Returns:
        (anchors, 1), same dtype as `exponents`.
    """
    return log_one_plus(sum_exp(exponents, mask, bound), bound)


def sum_exp(exponents: Tensor, mask: Tensor, bound: float = math.inf, axis: int = -1) -> Tensor:
    """The sum over the masked entries of e^exponent, row by row, as a number that does not overflow
    and that parts of a row can be joined by: itself where the bound is small, else log(1 + it).

    Args:
        exponents, mask, bound: as in `log_one_plus_sum_exp`.
        axis: 0 for columns in place of rows.

    Returns:
        (anchors, 1) or (1, candidates). `joined_by(bound)` joins two parts, `log_one_plus` takes
        the logarithm.
    """
    if _is_small(bound):
        # of all entries, so that rows and columns of one matrix share an exponential
        return masked_sum(ops.exp(exponents), mask, axis)
    # over masked entries and the 1 only: no other entry sets the scale
    largest = ops.stop_gradient(masked_max(exponents, mask, 0.0, axis))
    largest = ops.maximum(largest, ops.zeros_like(largest))
    # the inner where keeps entries that do not count from overflowing
    terms = ops.exp(ops.where(mask, exponents - largest, ops.zeros_like(exponents)))
    # log(e^-largest + total), which is log1p(total) where the 1 is the largest
    return largest + ops.log1p(ops.expm1(-largest) + masked_sum(terms, mask, axis))


def joined_by(bound: float) -> Callable[[Tensor, Tensor], Tensor]:
    """What makes one `sum_exp` of those of two parts of a row."""
    return ops.add if _is_small(bound) else _join_logs_of_one_plus


def log_one_plus(total: Tensor, bound: float) -> Tensor:
    """log(1 + a sum) from its `sum_exp`."""
    return ops.log1p(total) if _is_small(bound) else total


def share_scale(total: Tensor, bound: float) -> Tensor:
    """What `share` takes, from a `sum_exp`."""
    return 1 / (1 + total) if _is_small(bound) else total


def share(exponents: Tensor, scale: Tensor, bound: float) -> Tensor:
    """e^exponent / (1 + the sum of its row), (anchors, candidates)."""
    return ops.exp(exponents) * scale if _is_small(bound) else ops.exp(exponents - scale)


def _is_small(bound):
    # e^60 times any batch size is far from overflow in float32, whose limit is e^88
    return bound <= 60


def _join_logs_of_one_plus(one, other):
    """log(e^one + e^other - 1) of two numbers from 0 on."""
    larger, smaller = ops.maximum(one, other), ops.minimum(one, other)
    # e^(smaller - larger) - e^-larger, in a form that keeps its precision near 0
    added = ops.where(
        smaller < 1,
        ops.exp(-larger) * ops.expm1(smaller),
        ops.exp(smaller - larger) - ops.exp(-larger),
    )
    return larger + ops.log1p(added)


def log_or_zero(total: Tensor) -> Tensor:
    """log of a sum; 0 where it is 0, so that its scale of LOG_OF_ZERO stays."""
    return ops.log(ops.where(total > 0, total, ops.ones_like(total)))


def log_add(one: Tensor, other: Tensor) -> Tensor:
    """log(e^one + e^other), where LOG_OF_ZERO is the logarithm of no pair."""
    larger, smaller = ops.maximum(one, other), ops.minimum(one, other)
    joined = larger + ops.log1p(ops.exp(smaller - larger))
    return ops.where(smaller <= LOG_OF_ZERO, larger, joined)
