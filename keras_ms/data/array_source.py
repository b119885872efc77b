"""Rows of arrays of any kind: NumPy's, tensors, HDF5 data sets, tables; what else comes is refused.

Nothing is guessed: what the axes mean is said by name.
"""

from typing import Any

import numpy as np

from keras_ms.arguments import type_in_words
from keras_ms.data.file_names import all_file_bytes

_TAKEN = (
    "a NumPy array (a memory map too), a tensor of TensorFlow, JAX or PyTorch, an HDF5 data set of "
    "h5py, a pandas DataFrame of numbers, or a list of equal rows"
)


class ArraySource:
    """The items of an array: N rows of any shape, or views of each of N items.

    Args:
        array: NumPy array or memory map, tensor, h5py data set (read from disk a batch at a time),
            DataFrame or list, of numbers or of text; (N, …), with `views` (views, N, …).
        num_items: N.
        views: whether the first axis counts views, of which each item takes one at random.

    Raises:
        ValueError: another type, an array without numbers, or one whose shape does not fit.
    """

    def __init__(self, array: Any, num_items: int, *, views: bool = False) -> None:
        self.views = views
        self._on_disk = _is_hdf5(array)
        self._array = array if self._on_disk else _as_array(array)
        self._check(num_items)

    def _check(self, num_items):
        shape, axis = tuple(self._array.shape), int(self.views)
        dtype = np.dtype(self._array.dtype)
        if dtype.kind in "OmM" or dtype.names or dtype.char in "gG":
            raise ValueError(
                f"Expected numbers in the array of (array, labels). Received dtype {dtype}. "
                "Convert it, for example by array.astype('float32'); of a table choose columns of "
                "numbers"
            )
        if len(shape) > axis and shape[axis] == num_items and shape[0]:
            return
        expected = "(views, N, …)" if self.views else "(N, …)"
        hint = ""
        if not self.views and len(shape) > 2 and shape[1] == num_items:
            hint = ". Where the first axis counts views of the items, say so: views=True"
        elif self.views and shape[:1] == (num_items,):
            hint = ". Without views, leave out views=True"
        raise ValueError(
            f"Expected the array of (array, labels) as {expected} with N={num_items}, one item for "
            f"each label. Received: shape {shape}{hint}"
        )

    @property
    def num_views(self) -> int:
        return self._array.shape[0] if self.views else 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self._array.shape[1 + self.views :])

    @property
    def dtype(self) -> np.dtype:
        """NumPy's; `object` for text, whose rows are bytes, TensorFlow's strings."""
        dtype = np.dtype(self._array.dtype)
        return np.dtype(object) if dtype.kind in "US" else dtype

    def rows(self, indices: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """The items at `indices`, an array of them.

        Args:
            indices: int64 (batch,).
            uniform: (batch,) in [0, 1): which view of each.
        """
        # uniform < 1, but float32 times a large count may round up to the count
        last = self.num_views - 1
        views = np.minimum(uniform * self.num_views, last).astype(np.int64)
        if self._on_disk:
            rows = self._read(indices, views)
        else:
            rows = self._array[views, indices] if self.views else self._array[indices]
        return all_file_bytes(rows.ravel()).reshape(rows.shape) if self.dtype == object else rows

    def _read(self, indices, views):
        """From disk: h5py takes rising indices without repetitions, of one view at a time."""
        _is_hdf5(self._array)  # whose file may have been closed
        rows = np.empty((len(indices), *self.row_shape), self._array.dtype)
        for view in np.unique(views):
            chosen = views == view
            wanted, places = np.unique(indices[chosen], return_inverse=True)
            where = (view, wanted) if self.views else wanted
            rows[chosen] = self._array[where][places]
        return rows


def _is_hdf5(array):
    if type(array).__module__.split(".")[0] != "h5py" or type(array).__name__ != "Dataset":
        return False
    if not array:
        raise ValueError(
            "Expected an HDF5 data set of an open file. Received one whose file is closed: keep "
            "the file open while batches are drawn"
        )
    return True


def _as_array(array):
    """A NumPy array, without a copy where the memory can be shared."""
    try:
        rows = numpy_array(array)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"Expected an array of numbers in (array, labels). Received "
            f"{type_in_words(array)}, which does not become one ({error})"
        ) from None
    if rows is None:
        raise ValueError(
            f"Expected the array of (array, labels) as {_TAKEN}. Received {type_in_words(array)}: "
            "convert it with numpy.asarray, or read it into an array first"
        )
    return rows


def numpy_array(values: Any) -> np.ndarray | None:
    """Values as a NumPy array; None where they are of a kind that is no array.

    Raises:
        ValueError: rows of different lengths, missing values.
        TypeError, RuntimeError: as raised by what holds them.
    """
    module = type(values).__module__.split(".")[0]
    if isinstance(values, (list, tuple, np.ndarray, np.generic)):
        if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
            raise ValueError("some of its values are masked: fill them, array.filled(0)")
        return np.asarray(values)
    if module == "torch" and hasattr(values, "detach"):
        return values.detach().cpu().numpy()
    if module == "pandas" and hasattr(values, "to_numpy"):
        # columns of several types become objects
        return values.to_numpy()
    is_array = hasattr(values, "__array__") and hasattr(values, "shape")
    if module == "scipy" or not is_array or hasattr(values, "row_splits"):
        return None
    return np.asarray(values)
