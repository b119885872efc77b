"""The nearest of many rows, exactly, looking at each row once and keeping few of them.

Similarities are cosines in float64, rounded to nine decimals; equal ones stand in the order of the
paths. So the answer is the same on every processor and for any order of the rows. A float32 product
only says which rows are worth the float64 one: it lies within a known bound of the similarity.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_ms.pairs.rounding import rounding_bound

_DECIMALS = 9
# below every cosine
_NONE = -2.0
# Similarities in float32 that are held at a time, 8 MB, and pairs in float64, 4 MB of 512 numbers.
_PRODUCTS, _PAIRS = 2**21, 1024
# Candidates that are sorted together; with more, queries are taken in halves.
_CANDIDATES = 2**16


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 (count,): the cosine of each row of `a` with that of `b`, rounded."""
    result = np.empty(len(a))
    for start in range(0, len(a), _PAIRS):
        x, y = (rows[start : start + _PAIRS].astype(np.float64) for rows in (a, b))
        lengths = np.sqrt(np.einsum("nd,nd->n", x, x) * np.einsum("nd,nd->n", y, y))
        result[start : start + _PAIRS] = np.einsum("nd,nd->n", x, y) / lengths
    # adding 0 makes -0 to 0
    return np.clip(np.round(result, _DECIMALS), -1, 1) + 0.0


def cosine_bound(dimension: int) -> float:
    """How far a float32 product of two rows of norm 1, so far as float32 has it, can be off."""
    # the rows' norms are off by 2^-24 or less each, and the rounding to decimals comes on top
    return rounding_bound(dimension) * (1 + 2.0**-20) + 2.0**-22 + 10.0**-_DECIMALS


class NearestRows:
    """The k nearest rows to each query, of those that were shown so far.

    Args:
        queries: float32 (num_queries, dimension), rows of norm 1.
        k: rows for each query.

    Example:

    ```python
    nearest = NearestRows(queries, 10)
    for paths, rows in table.scan():
        nearest.look_at(paths, rows)
    paths, similarities = nearest.found()
    ```
    """

    def __init__(self, queries: np.ndarray, k: int):
        self._queries = queries
        self._k = k
        self._paths = np.full((len(queries), k), "", object)
        self._similarities = np.full((len(queries), k), _NONE)
        self._bound = cosine_bound(queries.shape[1])
        self._seen = 0

    def look_at(self, paths: Any, rows: np.ndarray) -> None:
        """Shows some rows; each path once in all.

        Args:
            paths: of the rows, an array of pyarrow or a sequence of texts.
            rows: float32 (count, dimension), of norm 1.
        """
        if not len(rows):
            return
        self._seen += len(rows)
        step = max(1, _PRODUCTS // len(rows))
        for start in range(0, len(self._queries), step):
            self._compare(np.arange(start, min(start + step, len(self._queries))), paths, rows)

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Paths, objects, and similarities, float64, both (num_queries, k or what there is)."""
        count = min(self._k, self._seen)
        return self._paths[:, :count], self._similarities[:, :count]

    def _compare(self, queries, paths, rows):
        product = self._queries[queries] @ rows.T
        least = self._similarities[queries, -1] - self._bound
        candidates = product >= least[:, None]
        if np.count_nonzero(candidates) > 4 * self._k * len(queries) and len(rows) > self._k:
            # at least k of these rows alone are as near as that
            own = np.partition(product, -self._k, axis=1)[:, -self._k]
            least = np.maximum(least, own.astype(np.float64) - 2 * self._bound)
            candidates = product >= least[:, None]
        self._merge(queries, candidates, paths, rows)

    def _merge(self, queries, candidates, paths, rows):
        if np.count_nonzero(candidates) > _CANDIDATES and len(queries) > 1:
            half = len(queries) // 2
            self._merge(queries[:half], candidates[:half], paths, rows)
            self._merge(queries[half:], candidates[half:], paths, rows)
            return
        owners, columns = np.nonzero(candidates)
        if not len(owners):
            return
        similarities = cosines(self._queries[queries[owners]], rows[columns])
        before = np.arange(len(queries)).repeat(self._k)
        owners = np.concatenate([before, owners])
        similarities = np.concatenate([self._similarities[queries].ravel(), similarities])
        names = np.concatenate([self._paths[queries].ravel(), _texts(paths, columns)])
        order = np.lexsort((names.astype(str), -similarities, owners))
        # of each query the first k: its part starts where those of the queries before it end
        firsts = np.searchsorted(owners[order], np.arange(len(queries)))
        chosen = order[(firsts[:, None] + np.arange(self._k)).ravel()]
        shape = (len(queries), self._k)
        self._paths[queries] = names[chosen].reshape(shape)
        self._similarities[queries] = similarities[chosen].reshape(shape)


def _texts(paths: Any, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
    """Some of the paths, as objects."""
    if hasattr(paths, "take"):
        return np.array(paths.take(chosen).tolist(), object)
    return np.array([paths[n] for n in chosen], object)


def nearest_rows(
    batches: Iterable[tuple[Any, np.ndarray]], queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Paths and similarities of the k nearest rows of some batches, as `NearestRows.found`."""
    nearest = NearestRows(queries, k)
    for paths, rows in batches:
        nearest.look_at(paths, rows)
    return nearest.found()
