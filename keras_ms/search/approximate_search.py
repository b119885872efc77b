"""Search that may miss some neighbours, for speed, and how many it misses."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_ms.search.exact_search import NearestRows
from keras_ms.search.index_table import IndexTable

# Of 50,000 clustered rows in 223 parts, 10 of them had every neighbour of 50 queries.
PROBES = 20


class Neighbours(NamedTuple):
    """The nearest of some queries, the first the most similar.

    Attributes:
        paths: (queries, k) texts, as objects.
        similarities: float64 (queries, k), cosines.
    """

    paths: np.ndarray
    similarities: np.ndarray


class ApproximateQuality(NamedTuple):
    """An approximate search beside the exact one.

    Attributes:
        k: neighbours of each query.
        num_queries: that were searched for.
        recall: share of the exact neighbours that the approximate search finds too. One in the
            place of another of the same similarity counts.
        exact_ms, approximate_ms: median of a query's time, in milliseconds.
    """

    k: int
    num_queries: int
    recall: float
    exact_ms: float
    approximate_ms: float


def approximate_neighbours(
    table: IndexTable, queries: np.ndarray, k: int, probes: int
) -> Neighbours:
    """The k nearest of each query among those in the parts that are nearest to it.

    Args:
        table: of an index, with approximate search.
        queries: (queries, dimension) of norm 1.
        k: neighbours of each.
        probes: parts that are looked at; more, where these hold fewer than k.
    """
    # some of what is found may be further than what is missed
    count = min(k, len(table))
    paths = np.full((len(queries), count), "", object)
    similarities = np.full((len(queries), count), -1.0)
    for number, query in enumerate(queries):
        nearest, looked_at = NearestRows(query[None], k), probes
        found = table.nearest(query, k, looked_at)
        # few rows lie in the nearest parts: further ones have the rest
        while len(found[0]) < count and looked_at < len(table):
            looked_at *= 4
            found = table.nearest(query, k, looked_at)
        nearest.look_at(*found)
        names, values = nearest.found()
        paths[number, : names.shape[1]] = names[0]
        similarities[number, : names.shape[1]] = values[0]
    return Neighbours(paths, similarities)


def approximate_quality(
    queries: np.ndarray,
    k: int,
    *,
    exact: Callable[[np.ndarray], Neighbours],
    approximate: Callable[[np.ndarray], Neighbours],
) -> ApproximateQuality:
    """Compares two searches.

    Args:
        queries: (queries, dimension) of norm 1.
        k: neighbours that each search finds.
        exact, approximate: functions of (1, dimension) queries.
    """
    expected, exact_ms = _timed(exact, queries)
    found, approximate_ms = _timed(approximate, queries)
    least = expected.similarities[:, -1:]
    recall = float(np.mean(found.similarities >= least))
    return ApproximateQuality(k, len(queries), recall, exact_ms, approximate_ms)


def _timed(search, queries):
    """`Neighbours` of the queries one by one, and the median of their times in milliseconds."""
    search(queries[:1])  # what is read once only is read now
    found, times = [], []
    for number in range(len(queries)):
        started = time.perf_counter()
        found.append(search(queries[number : number + 1]))
        times.append(1e3 * (time.perf_counter() - started))
    paths, similarities = (np.concatenate(arrays) for arrays in zip(*found))
    return Neighbours(paths, similarities), float(np.median(times))
