"""The one definition of who ranks before whom, and how float32 products come to obey it.

Rows are unit vectors rounded to float32; their similarity is their product summed in float64, where
each of its terms is exact. A negative is ahead of a positive iff its similarity is at least the
positive's less `TIE`. So the answer is the same on every processor and accelerator, for any number
of threads and any size of blocks, which all sum in orders of their own.

A float32 product is still what decides nearly all pairs: whatever the order of its sum, it lies
within `rounding_bound` of the similarity, and only where the threshold lies that near too is a pair
in doubt, and computed again.
"""

from typing import NamedTuple

import numpy as np

from keras_ms.evaluation.inputs import RetrievalSet
from keras_ms.pairs.rounding import rounding_bound

# Ties are pessimistic: equal rows have similarities that differ by 1e-16 in float64, and so must
# not be compared exactly, or collapsed embeddings would score 100 %. Ties made by the data, such as
# duplicates, lie at a gap of 0, far inside. Generic data hardly feels the width: of 20,000 random
# 512-d embeddings it moves 72 ranks by one, and Recall@K only where the rank was exactly K.
TIE = 1e-6

# Below every similarity of unit vectors: stands for "no such pair". Finite, so that no arithmetic
# on it can make NaN.
NO_PAIR = -3.0

# float64 copies of rows are made of so many numbers at a time, 8 MB: products of fewer rows are
# slow. Rows of single pairs and of small classes stay in a core's cache.
_NUMBERS_PER_STEP = 2**20
_NUMBERS_OF_PAIRS_PER_STEP = 2**16

# Images of a class up to which classes are compared with themselves many at a time.
_SMALL_CLASS = 64

# In pairs of a product of whole rows: one pair at a time costs as much as this many.
_COST_OF_SINGLE_PAIR = 32


class Thresholds(NamedTuple):
    """From which similarity on a negative is ahead, for each of some positives.

    Attributes:
        exact: float64 (count,), to be reached by a float64 similarity.
        low: float32 (count,): what a float32 similarity does not reach is not ahead.
        high: float32 (count,): what a float32 similarity reaches is ahead.
    """

    exact: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of_positives(cls, positives: np.ndarray, dimension: int) -> "Thresholds":
        """Those of float64 similarities of positives; NO_PAIR has a threshold nothing reaches."""
        exact = np.where(positives > NO_PAIR, positives - TIE, np.inf)
        bound = rounding_bound(dimension)
        return cls(exact, rounded_down(exact - bound), -rounded_down(-exact - bound))

    def part(self, rows: slice) -> "Thresholds":
        return Thresholds(self.exact[rows], self.low[rows], self.high[rows])


def rounded_down(values: np.ndarray) -> np.ndarray:
    """float32 numbers next to float64 ones and no larger."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def similarities(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 (len(a), len(b)): all similarities of two sets of float32 rows."""
    result = np.empty((len(a), len(b)))
    step = max(16, _NUMBERS_PER_STEP // a.shape[1])
    for c in range(0, len(b), step):
        columns = b[c : c + step].astype(np.float64).T
        for r in range(0, len(a), step):
            rows = a[r : r + step].astype(np.float64)
            np.matmul(rows, columns, out=result[r : r + step, c : c + step])
    return result


def pair_similarities(
    a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """float64 (count,): the similarities of the pairs (a[rows[i]], b[columns[i]])."""
    result = np.empty(len(rows))
    step = max(16, _NUMBERS_OF_PAIRS_PER_STEP // a.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        of_a, of_b = a[rows[part]].astype(np.float64), b[columns[part]].astype(np.float64)
        np.einsum("nd,nd->n", of_a, of_b, out=result[part])
    return result


def count_doubtful(
    a: np.ndarray, b: np.ndarray, doubtful: np.ndarray, thresholds: Thresholds, axis: int
) -> np.ndarray:
    """How many of the pairs in doubt are ahead.

    Args:
        a, b: float32 rows, (rows, dimension) and (columns, dimension).
        doubtful: bool (rows, columns), few pairs of them.
        thresholds: `Thresholds` of the rows if `axis` is 1, of the columns if it is 0.

    Returns:
        int64 array (rows,) or (columns,).
    """
    pairs = np.divmod(np.flatnonzero(doubtful), len(b))
    owners = pairs[1 - axis]
    is_ahead = pair_similarities(a, b, *pairs) >= thresholds.exact[owners]
    return np.bincount(owners[is_ahead], minlength=len(thresholds.exact))


def count_exactly(
    a: np.ndarray,
    b: np.ndarray,
    negatives: np.ndarray | None,
    row_thresholds: Thresholds,
    column_thresholds: Thresholds | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """How many pairs are ahead, with no help of float32: for parts where most are in doubt.

    Args:
        a, b: as in `count_doubtful`.
        negatives: bool (rows, columns), the pairs that count, or None: all of them.
        row_thresholds, column_thresholds: `Thresholds`; None: columns are not counted.

    Returns:
        int64 arrays (rows,) and (columns,), or None in place of the latter.
    """
    similarity = similarities(a, b)
    if negatives is not None:
        similarity[~negatives] = NO_PAIR
    in_rows = np.count_nonzero(similarity >= row_thresholds.exact[:, None], axis=1)
    if column_thresholds is None:
        return in_rows, None
    return in_rows, np.count_nonzero(similarity >= column_thresholds.exact, axis=0)


def is_product_cheaper(num_pairs: int, size: int) -> bool:
    """Whether so many of `size` pairs are wanted that a product of all of them costs less."""
    return num_pairs * _COST_OF_SINGLE_PAIR > size


def best_positives(queries: RetrievalSet, gallery: RetrievalSet, block_size: int) -> np.ndarray:
    """float64 (num_queries,): the highest similarity to another item of the class, or NO_PAIR.

    Args:
        queries, gallery: `RetrievalSet`; the same object for a set against itself.
        block_size: most rows of a block of similarities, which has as many columns.
    """
    best = np.full(len(queries.rows), NO_PAIR)
    spans = np.array(queries.spans())
    labels = queries.classes[spans[:, 0]]
    of_gallery = np.stack(
        [np.searchsorted(gallery.classes, labels, side) for side in ("left", "right")], axis=1
    )
    sizes = np.stack([np.diff(spans)[:, 0], np.diff(of_gallery)[:, 0]], axis=1)
    # many small classes: those of the same sizes together, as a product of each costs more to call
    # than to compute
    is_small = (sizes.max(axis=1) <= _SMALL_CLASS) & (sizes[:, 1] > 0)
    for size in np.unique(sizes[is_small], axis=0):
        alike = np.flatnonzero(is_small & (sizes == size).all(axis=1))
        step = max(1, _NUMBERS_OF_PAIRS_PER_STEP // (int(size.sum()) * queries.rows.shape[1]))
        for start in range(0, len(alike), step):
            some = alike[start : start + step]
            rows = spans[some, :1] + np.arange(size[0])
            columns = of_gallery[some, :1] + np.arange(size[1])
            of_rows = queries.rows[rows].astype(np.float64)
            of_columns = of_rows if gallery is queries else gallery.rows[columns].astype(np.float64)
            similarity = np.matmul(of_rows, of_columns.transpose(0, 2, 1))
            own = queries.image_numbers[rows][..., None] == gallery.image_numbers[columns][:, None]
            similarity[own] = NO_PAIR
            best[rows] = similarity.max(axis=2)
    for (start, stop), (first, last) in zip(spans[~is_small], of_gallery[~is_small]):
        for row_start in range(start, stop, block_size):
            rows = slice(row_start, min(row_start + block_size, stop))
            for column_start in range(first, last, block_size):
                columns = slice(column_start, min(column_start + block_size, last))
                similarity = similarities(queries.rows[rows], gallery.rows[columns])
                own = queries.image_numbers[rows, None] == gallery.image_numbers[columns]
                similarity[own] = NO_PAIR
                np.maximum(best[rows], similarity.max(axis=1), out=best[rows])
    return best
