"""All pairs of a batch: similarities, who is whose positive, and reductions over masked pairs.

Everything here has a static shape and is written in keras.ops, so it compiles under XLA and runs
on every Keras backend.
"""

import functools
import inspect
import math
from typing import NamedTuple

import keras
from keras import ops

# Beyond every similarity by more than any margin or epsilon, so that a row without pairs of a kind
# finds every comparison false; finite, so that no inf - inf can arise.
FAR = 1e30

# The largest number of float16, and the length below which a row is short, see `widened`.
_FLOAT16_MAX, _SHORT = 65504.0, 1 / 64

# The log of a sum over no pair is -NEVER: far below any exponent, so that e^-NEVER is exactly 0,
# and finite as well. Larger, and a float32 exponent would lose its digits beside it.
NEVER = 1e9


class Pairs(NamedTuple):
    """Every anchor-candidate pair of a batch.

    similarity: (anchors, candidates) float, cosine similarity, higher = closer.
    positive:   (anchors, candidates) bool, same label and not the anchor itself.
    negative:   (anchors, candidates) bool, other label.
    """

    similarity: object
    positive: object
    negative: object


class RowWise:
    """A function of Pairs whose entry (i, j) depends on pair (i, j) and some numbers of anchor i.

    Most miners and weightings of the field are such functions: the numbers (`statistics`) are what
    the anchor's other pairs contribute, e.g. its hardest negative or a sum of exponentials. Stated
    in two parts, the entry (j, i) can be computed beside (i, j) without transposing a matrix, and
    row block by row block.

    Call it like a function, `weights(pairs, **settings)`. Made by the decorator `row_wise`.

    Attributes:
        statistics: function `(pairs, **settings) -> tuple of (anchors, 1)`.
        num_statistics: length of that tuple.
        entry: function `(pairs, *statistics, **settings)` that works element by element: it
            broadcasts the statistics and reduces nothing.
    """

    def __init__(self, statistics, num_statistics, entry):
        self.statistics = statistics
        self.num_statistics = num_statistics
        self.entry = entry
        functools.update_wrapper(self, entry, updated=())

    def __call__(self, pairs, **settings):
        return self.entry(pairs, *self.statistics(pairs, **settings), **settings)


def row_wise(statistics):
    """Decorator that makes a RowWise of an `entry` function and its `statistics`.

    The entry takes the pairs, the statistics by position and the settings with their defaults,
    which hold for both; `statistics` takes the settings it needs by the same names.
    """
    needed = list(inspect.signature(statistics).parameters)[1:]

    def decorate(entry):
        parameters = inspect.signature(entry).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

        def with_defaults(pairs, **settings):
            settings = {**defaults, **settings}
            return statistics(pairs, **{name: settings[name] for name in needed})

        # all parameters but the pairs and the settings
        return RowWise(with_defaults, len(parameters) - 1 - len(defaults), entry)

    return decorate


def row_form(function):
    """`function`, a RowWise or a partial of one, as a RowWise with these settings; None for any
    other function."""
    if isinstance(function, RowWise):
        return function
    inner = getattr(function, "func", None)
    if not isinstance(inner, RowWise) or function.args:
        return None
    settings = function.keywords
    return RowWise(
        functools.partial(inner.statistics, **settings),
        inner.num_statistics,
        functools.partial(inner.entry, **settings),
    )


def widened(embeddings, dtype):
    """The embeddings in the dtype of a loss, with a gradient that float16 can hold.

    The gradient of a normalised row grows as 1 / its length. Of a short row, below 1/64, float16
    may not hold it, whatever the loss: such a row gets the longest gradient of the same direction
    that fits. A longer row's gradient overflows as any other does, which a loss scaler has to see.

    Args:
        embeddings: (batch, dimension), any float dtype.
        dtype: "float32" or "float64".

    Returns:
        Same shape, with the Keras mask of the embeddings if they have one.
    """
    mask = getattr(embeddings, "_keras_mask", None)
    if keras.backend.standardize_dtype(embeddings.dtype) == "float16":
        rows = _widened_float16(embeddings, dtype)
    else:
        rows = ops.cast(embeddings, dtype)
    if mask is not None and rows is not embeddings:
        rows._keras_mask = mask
    return rows


def _widened_float16(embeddings, dtype):
    @ops.custom_gradient
    def wide(embeddings):
        rows = ops.cast(embeddings, dtype)
        fixed = ops.stop_gradient(rows)
        is_short = ops.sum(fixed * fixed, axis=-1, keepdims=True) < _SHORT**2

        # TensorFlow and JAX call grad(upstream), torch grad(embeddings, upstream=...)
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            largest = ops.stop_gradient(ops.max(ops.abs(upstream), axis=-1, keepdims=True))
            fits = _FLOAT16_MAX / ops.maximum(largest, _FLOAT16_MAX)
            upstream = upstream * ops.where(is_short, fits, ops.ones_like(fits))
            return ops.cast(upstream, "float16")

        return rows, grad

    return wide(ops.convert_to_tensor(embeddings))


def unit_length(embeddings):
    """L2-normalises rows; finite, with a finite gradient, for every finite row.

    Args:
        embeddings: (batch, dimension) float32 or float64.

    Returns:
        Same shape and dtype. A row of zeros stays zeros (and gets the plain gradient, as if its
        norm were 1); a row with a NaN or infinity becomes NaN.
    """
    # Dividing by the largest entry first keeps the sum of squares from overflowing or vanishing.
    # The direction does not depend on this scale, so no gradient has to flow through it.
    largest = ops.stop_gradient(ops.max(ops.abs(embeddings), axis=-1, keepdims=True))
    scaled = embeddings / ops.where(largest == 0, ops.ones_like(largest), largest)
    squared_norm = ops.sum(scaled * scaled, axis=-1, keepdims=True)
    # inner where: rsqrt(0) never enters, so neither does its infinite derivative
    return scaled * ops.rsqrt(
        ops.where(squared_norm == 0, ops.ones_like(squared_norm), squared_norm)
    )


def pair_masks(label_keys, valid=None, candidate_keys=None, candidate_valid=None, offset=0):
    """Who is whose positive and negative.

    Args:
        label_keys: labels of the anchors, (anchors,), or exact label codes (anchors, parts); two
            items have the same label iff all parts are equal.
        valid: optional (anchors,) bool; items that are not valid (padding) take part in no pair.
        candidate_keys, candidate_valid: the same of the candidates, where these are not the
            anchors themselves but hold them as a run of neighbours.
        offset: index of the first anchor among the candidates.

    Returns:
        `(positive, negative)`, each (anchors, candidates) bool. An item is left out of its own
        positives **by index**: an exact duplicate of it stays a positive.
    """
    if candidate_keys is None:
        candidate_keys, candidate_valid = label_keys, valid
    if len(label_keys.shape) == 1:
        label_keys = ops.expand_dims(label_keys, -1)
        candidate_keys = ops.expand_dims(candidate_keys, -1)
    same = None
    for part in range(label_keys.shape[-1]):
        equal = ops.equal(
            ops.expand_dims(label_keys[:, part], 1), ops.expand_dims(candidate_keys[:, part], 0)
        )
        same = equal if same is None else ops.logical_and(same, equal)
    own_index = ops.arange(ops.shape(label_keys)[0]) + offset
    index = ops.arange(ops.shape(candidate_keys)[0])
    other_index = ops.not_equal(ops.expand_dims(own_index, 1), ops.expand_dims(index, 0))
    positive = ops.logical_and(same, other_index)
    negative = ops.logical_not(same)
    if valid is not None:
        both_valid = ops.logical_and(ops.expand_dims(valid, 1), ops.expand_dims(candidate_valid, 0))
        positive = ops.logical_and(positive, both_valid)
        negative = ops.logical_and(negative, both_valid)
    return positive, negative


def masked_max(values, mask, empty):
    """Row maximum over the entries where `mask` holds; `empty` (finite) for rows without any."""
    return ops.max(ops.where(mask, values, ops.full_like(values, empty)), axis=-1, keepdims=True)


def masked_min(values, mask, empty):
    """Row minimum over the entries where `mask` holds; `empty` (finite) for rows without any."""
    return ops.min(ops.where(mask, values, ops.full_like(values, empty)), axis=-1, keepdims=True)


def log_one_plus_sum_exp(exponents, mask, bound=math.inf):
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
