"""Checks of what users give."""

import numpy as np


def unmasked(values, what="labels"):
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


def whole_number(name, value, least=1, most=None):
    """A count as int: 200.0 is one; 200.5, NaN, True and "200" are none.

    Args:
        name: of the argument, for the error.
        value: what was given.
        least: the smallest that is allowed. Defaults to 1.
        most: the largest that is allowed. Defaults to None: any.

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
    is_whole = number is not None and number == value and not isinstance(value, bool)
    if not is_whole or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"Expected `{name}` {bounds}, a whole number. Received: {value!r}")
    return number
