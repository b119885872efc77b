"""What the retrieval metrics are given, checked: unit rows in the order of their classes."""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_ms.arguments import Tensor, class_ids, unmasked

# Numbers that are normalised at a time: their copies, not the whole set's, are held.
_NUMBERS_PER_STEP = 2**19


class RetrievalSet(NamedTuple):
    """Unit rows sorted by class: the rows of one class stand together.

    Attributes:
        rows: float32 (count, dimension), of norm 1 (0 for zero rows).
        classes: int64 (count,), ascending; queries and gallery number their classes alike.
        original_positions: (count,) where each row stands in the caller's arrays.
        image_numbers: (count,) int64. Two rows of the same number are the same image; of a gallery,
            its position in the caller's array, of a query its position in the gallery or -1.
    """

    rows: np.ndarray
    classes: np.ndarray
    original_positions: np.ndarray
    image_numbers: np.ndarray

    def spans(self) -> list[tuple[int, int]]:
        """(start, stop) of every class that has rows, in order."""
        bounds = np.flatnonzero(np.diff(self.classes)) + 1
        return list(zip([0, *bounds.tolist()], [*bounds.tolist(), len(self.classes)]))

    def span_of(self, first: int, last: int) -> tuple[int, int]:
        """(start, stop) of the rows whose class is in first..last, which may be none."""
        start = np.searchsorted(self.classes, first, side="left")
        return int(start), int(np.searchsorted(self.classes, last, side="right"))


def retrieval_sets(
    embeddings: Tensor,
    labels: Tensor,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    query_positions: Tensor | None = None,
) -> tuple[RetrievalSet, RetrievalSet]:
    """Checks queries and gallery and sorts both by class.

    Args: as `keras_ms.evaluation.best_positive_ranks`.

    Returns:
        Two `RetrievalSet`, queries and gallery; twice the same object without a gallery.

    Raises:
        ValueError: wrong shapes, lengths or dtypes, NaN or infinity, half a gallery.
    """
    if (gallery_embeddings is None) != (gallery_labels is None):
        given = "gallery_labels" if gallery_embeddings is None else "gallery_embeddings"
        raise ValueError(
            "`gallery_embeddings` and `gallery_labels` belong together: give both or neither. "
            f"Received only `{given}`"
        )
    queries = checked_embeddings(embeddings, "embeddings")
    query_ids = class_ids(labels, rows=len(queries))
    if gallery_embeddings is None:
        if query_positions is not None:
            raise ValueError(
                "`query_positions` says where queries stand in a gallery, and no gallery was "
                "given: without one each query leaves itself out already."
            )
        classes = np.unique(query_ids, return_inverse=True)[1]
        same = _sorted_by_class(queries, classes, np.arange(len(queries)))
        return same, same
    gallery = checked_embeddings(gallery_embeddings, "gallery_embeddings")
    gallery_ids = class_ids(
        gallery_labels, "gallery_labels", rows=len(gallery), rows_of="gallery_embeddings"
    )
    if gallery.shape[1] != queries.shape[1]:
        raise ValueError(
            "Queries and gallery must have the same dimension. Received: "
            f"embeddings {queries.shape}, gallery_embeddings {gallery.shape}"
        )
    classes = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)[1]
    positions = _checked_positions(query_positions, len(queries), len(gallery))
    return (
        _sorted_by_class(queries, classes[: len(queries)], positions),
        _sorted_by_class(gallery, classes[len(queries) :], np.arange(len(gallery))),
    )


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their norms, in float32; a zero row stays zero.

    The same numbers on every processor: norms are taken in float64, in one order of summation.
    """
    rows = rows.astype(np.float64 if rows.dtype.itemsize > 4 else np.float32)
    # squares of tiny or huge numbers would leave the range of float32
    largest = np.max(np.abs(rows), axis=1, keepdims=True)
    moderate = (largest == 0) | ((largest > 1e-9) & (largest < 1e9))
    if not moderate.all():
        rows = rows / np.where(moderate, 1, largest)
    rows = rows.astype(np.float32, copy=False)
    norms = np.sqrt(_row_sums(np.square(rows, dtype=np.float64)))[:, None]
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


def _row_sums(numbers):
    """Sums along the rows, by halves: a sum of NumPy's takes the order that suits the processor."""
    while numbers.shape[1] > 1:
        half = numbers.shape[1] // 2
        folded = numbers[:, :half] + numbers[:, half : 2 * half]
        if numbers.shape[1] % 2:
            folded[:, 0] += numbers[:, -1]
        numbers = folded
    return numbers[:, 0]


def _sorted_by_class(embeddings, classes, image_numbers):
    order = np.argsort(classes, kind="stable")
    rows = np.empty(embeddings.shape, np.float32)
    step = max(1, _NUMBERS_PER_STEP // embeddings.shape[1])
    for start in range(0, len(order), step):
        part = slice(start, start + step)
        rows[part] = unit_rows(embeddings[order[part]])
    return RetrievalSet(rows, classes[order], order, image_numbers[order])


def as_numpy(array: Tensor) -> np.ndarray:
    """The array as NumPy's, from a tensor of any backend too."""
    if ops.is_tensor(array):
        return ops.convert_to_numpy(array)
    return np.asarray(unmasked(array, "embeddings and labels"))


def checked_embeddings(embeddings: Tensor, name: str) -> np.ndarray:
    """NumPy array (images, dimension) of finite numbers, else a ValueError that says what is."""
    embeddings = as_numpy(embeddings)
    # V: bfloat16 and its like, or, of a file, numbers that NumPy does not know
    if embeddings.dtype.kind not in "biufV":
        raise ValueError(
            f"Expected real numbers in `{name}`. Received dtype: {embeddings.dtype}"
            + " (put the imaginary parts beside the real ones)" * (embeddings.dtype.kind == "c")
        )
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"Expected `{name}` of shape (images, dimension), neither of them 0. "
            f"Received shape: {embeddings.shape}"
        )
    try:
        # in parts: the flags of one part, not of the whole set, are held at a time
        finite = np.concatenate(
            [np.isfinite(part).all(axis=1) for part in np.array_split(embeddings, 16)]
        )
    except TypeError as error:
        raise ValueError(
            f"Expected numbers in `{name}`. Received dtype: {embeddings.dtype}; of bfloat16 save "
            "float32"
        ) from error
    if not finite.all():
        raise ValueError(
            f"`{name}` must be finite: {np.count_nonzero(~finite)} of {len(finite)} rows hold NaN "
            f"or infinity, the first is row {np.argmin(finite)}. Training diverged (lower the "
            "learning rate) or the model's output is not normalised safely."
        )
    return embeddings


def _checked_positions(positions, num_queries, num_items):
    if positions is None:
        return np.full(num_queries, -1)
    positions = as_numpy(positions)
    if (
        positions.shape != (num_queries,)
        or positions.dtype.kind not in "iu"
        or positions.min() < -1
        or positions.max() >= num_items
    ):
        raise ValueError(
            f"Expected `query_positions` as integers of shape ({num_queries},), each a row of the "
            f"gallery, 0 to {num_items - 1}, or -1 for a query that is not in it. "
            f"Received: {positions!r}"
        )
    return positions.astype(np.int64)
