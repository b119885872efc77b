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
