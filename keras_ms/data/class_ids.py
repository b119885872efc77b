"""Labels that users give: one class id for each image, or an error that says what arrived."""

import numpy as np

from keras_ms.arguments import unmasked

_NUMBER_THEM = "numpy.unique(labels, return_inverse=True)[1]"


def class_ids(labels):
    """Labels as an array of integers (N,), in their own dtype.

    Args:
        labels: integers (N,) or (N, 1): an array, tensor, list, HDF5 data set or pandas column.

    Raises:
        ValueError: another dtype, shape or type; the message says what to do.
    """
    array = _label_array(labels)
    expected = "Expected labels as integers of shape (N,) or (N, 1), one class id per image. "
    received = f"Received: {array.dtype} of shape {array.shape}"
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
    if array.ndim != 1:
        raise ValueError(f"{expected}{received}")
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"Expected class ids that fit int64. Received: {array.max()}")
    return array


def shown_type(value):
    """What a value is, in words that name where it comes from."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _label_array(labels):
    unmasked(labels)
    detached = labels.detach().cpu() if hasattr(labels, "detach") else labels
    is_sequence = isinstance(detached, (list, tuple, range))
    if not is_sequence and not (hasattr(detached, "__array__") and hasattr(detached, "shape")):
        raise ValueError(
            "Expected labels as an array, a tensor, a list or a pandas column of integers. "
            f"Received {shown_type(labels)}"
        )
    try:
        return np.asarray(detached)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            "Expected labels as integers of shape (N,), one class id per image. Received "
            f"{shown_type(labels)}, which does not become an array ({error})"
        ) from None


def _is_one_hot(array):
    if array.dtype.kind not in "biuf" or not array.size:
        return False
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())
