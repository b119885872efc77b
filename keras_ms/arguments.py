"""What users give, and checks of it."""

import math
import numbers
from typing import Any

import numpy as np

# a tensor of whichever backend Keras runs on, or what becomes one
Tensor = Any

_NUMBER_THEM = "numpy.unique(labels, return_inverse=True)[1]"


def unmasked(values: Any, what: str = "labels") -> Any:
    """`values` as they are; a ValueError where some are masked, and mean nothing.

    Args:
        values: anything; of NumPy's masked arrays the mask is looked at.
        what: what they are, for the error.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        count = int(np.ma.count_masked(values))
        raise ValueError(
            f"Expected {what} without a mask. Received {count} masked of {values.size}: leave "
            "these items out, for example by values[~values.mask]"
        )
    return values


def whole_number(
    name: str, value: Any, *, least: int = 1, most: int | None = None, reason: str = ""
) -> int:
    """A count as int: 200.0 is one; 200.5, NaN, True and "200" are none.

    Args:
        name: of the argument, for the error.
        value: what was given.
        least: the smallest that is allowed. Defaults to 1.
        most: the largest that is allowed. Defaults to None: any.
        reason: why, for the error. Defaults to none.

    Returns:
        int.

    Raises:
        ValueError: no whole number, or one out of range.

    Example:

    >>> whole_number("steps_per_stage", 600 / 3)
    200
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    is_whole = number == value and not isinstance(value, (bool, np.bool_))
    if number is None or not is_whole or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        because = f": {reason}" if reason else ""
        raise ValueError(
            f"Expected `{name}` {bounds}, a whole number{because}. Received: {value!r}"
        )
    return number


def real_number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    reason: str = "",
) -> float:
    """A finite number as float; True, "0.5", None, NaN, infinity, tensors and variables are none.

    A tensor or a `keras.Variable` would count with its value of now for ever, whatever is assigned
    to it later.

    Args:
        name: of the argument, for the error.
        value: what was given; a number of Python or NumPy, an array of shape () too.
        least: the smallest that is allowed. Defaults to None: any.
        above: what it has to be greater than. Defaults to None: nothing.
        most: the largest that is allowed. Defaults to None: any.
        below: what it has to be less than. Defaults to None: nothing.
        reason: why, or what else is taken, for the error. Defaults to none.

    Returns:
        float.

    Raises:
        ValueError: no finite number, or one out of range.

    Example:

    >>> real_number("angle", np.float32(45), above=0, most=60)
    45.0
    """
    is_array = isinstance(value, np.ndarray) and value.ndim == 0
    given = value[()] if is_array else value
    is_number = isinstance(given, numbers.Real) and not isinstance(given, (bool, np.bool_))
    try:
        number = float(given) if is_number else math.nan
    except OverflowError:  # a Python integer beyond all floats
        number = math.inf
    in_range = (
        math.isfinite(number)
        and (least is None or number >= least)
        and (above is None or number > above)
        and (most is None or number <= most)
        and (below is None or number < below)
    )
    if not in_range:
        bounds = _bounds_in_words(least, above, most, below)
        because = f": {reason}" if reason else ""
        raise ValueError(
            f"Expected `{name}`{bounds} a finite number{because}. Received: {name}={value!r}"
        )
    return number


def _bounds_in_words(least, above, most, below):
    lower = [f">= {least:g}"] if least is not None else []
    lower += [f"> {above:g}"] if above is not None else []
    upper = [f"<= {most:g}"] if most is not None else []
    upper += [f"< {below:g}"] if below is not None else []
    return f" {' and '.join([*lower, *upper])}," if lower or upper else " as"


def reads_once(dataset: Any) -> bool:
    """Whether a dataset, as a generator, is gone after one pass."""
    return hasattr(dataset, "__next__")


def is_endless(dataset: Any) -> bool:
    """Whether a dataset says that it has no end, as a `tf.data.Dataset` and a PyDataset can."""
    if callable(getattr(dataset, "cardinality", None)):
        return int(dataset.cardinality()) == -1  # tf.data.INFINITE_CARDINALITY
    return getattr(dataset, "num_batches", 0) is None


def knows_its_length(dataset: Any) -> bool:
    """Whether it is known how many batches a dataset gives, before it has given them."""
    if callable(getattr(dataset, "cardinality", None)):
        return int(dataset.cardinality()) != -2  # tf.data.UNKNOWN_CARDINALITY
    return hasattr(dataset, "__len__")


def class_ids(
    labels: Any, name: str = "labels", *, rows: int | None = None, rows_of: str = "embeddings"
) -> np.ndarray:
    """Labels as int64 (N,), one class id for each item.

    Args:
        labels: integers (N,) or (N, 1): an array, a tensor of any backend, a list, an HDF5 data
            set or a pandas column.
        name: of the argument, for the error.
        rows: N, where it is known. Defaults to None: any number from 1 on.
        rows_of: of what argument these are the rows, for the error.

    Returns:
        int64 (N,).

    Raises:
        ValueError: another dtype, shape, length or type, masked labels, or ids beyond int64; the
            message says what to do.

    Example:

    >>> class_ids([[7], [9]])
    array([7, 9])
    """
    array = _label_array(labels, name)
    each = "item" if rows is None else f"row of `{rows_of}`"
    count = "N" if rows is None else rows
    expected = (
        f"Expected integer class ids in `{name}`, one for each {each}: integers of shape "
        f"({count},) or ({count}, 1). "
    )
    received = f"Received: {array.dtype} of shape {array.shape}"
    if not array.size:
        raise ValueError(f"{expected}{received}; at least one is needed")
    if array.ndim == 2 and array.shape[1] > 1 and _is_one_hot(array):
        raise ValueError(f"{expected}{received}, one-hot rows: pass numpy.argmax(labels, axis=1)")
    if array.dtype.kind in "USO":
        raise ValueError(f"{expected}{received}, no numbers: number the names by {_NUMBER_THEM}")
    if array.dtype.kind == "f":
        missing = np.count_nonzero(np.isnan(array))
        if missing:
            raise ValueError(
                f"{expected}{received}, {missing:,} of them NaN: leave these items out, then "
                "convert the labels by labels.astype('int64')"
            )
        raise ValueError(
            f"{expected}{received}: floats merge large ids. Convert whole numbers by "
            f"labels.astype('int64'), others by {_NUMBER_THEM}"
        )
    if array.dtype.kind not in "iu":
        raise ValueError(f"{expected}{received}. Number the classes by {_NUMBER_THEM}")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or rows not in (None, len(array)):
        raise ValueError(f"{expected}{received}")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"Expected class ids in `{name}` that fit int64. Received: {array.max()}")
    return array.astype(np.int64)


def type_in_words(value: Any) -> str:
    """The type of a value, with the package that it comes from."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _label_array(labels: Any, name: str) -> np.ndarray:
    unmasked(labels, f"`{name}`")
    detached = labels.detach().cpu() if hasattr(labels, "detach") else labels
    is_sequence = isinstance(detached, (list, tuple, range))
    if not is_sequence and not (hasattr(detached, "__array__") and hasattr(detached, "shape")):
        raise ValueError(
            f"Expected `{name}` as an array, a tensor, a list or a pandas column of integers. "
            f"Received {type_in_words(labels)}"
        )
    try:
        return np.asarray(detached)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"Expected `{name}` as integers of shape (N,), one class id for each item. Received "
            f"{type_in_words(labels)}, which does not become an array ({error})"
        ) from None


def _is_one_hot(array: np.ndarray) -> bool:
    if array.dtype.kind not in "biuf" or not array.size:
        return False
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())
