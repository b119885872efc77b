"""Groups of rows that are nearly the same, without the matrix of all pairs."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from keras_ms.search.exact_search import cosine_bound, cosines

# (paths, rows) of everything, from the start, in the same order each time
Scan = Callable[[], Iterator[tuple[Any, np.ndarray]]]

# Pairs near the threshold that are computed again at a time.
_DOUBTFUL = 2**18
# Rows of a part that are compared at a time with 8,192 others: all may be the same picture.
_BAND = 128


class DuplicateGroup(NamedTuple):
    """Rows that are linked by similarities of at least the threshold.

    Of a chain of three, the first and the last may be less similar than that.

    Attributes:
        paths: sorted.
        similarities: of each with the nearest other one of the group.
    """

    paths: tuple[str, ...]
    similarities: tuple[float, ...]


@contextmanager
def read_again(
    parts: Iterable[tuple[Any, np.ndarray]], dimension: int, size: int
) -> Iterator[Scan]:
    """What can be read once, copied to the disk so that it can be read again, in the same order.

    Args:
        parts: (paths, float32 rows) of everything.
        dimension: columns of the rows.
        size: rows of a part that is read again.

    Yields:
        A `Scan`, for as long as the block lasts.
    """
    names: list[str] = []
    with tempfile.TemporaryFile() as file:
        for paths, rows in parts:
            names += paths.to_pylist() if hasattr(paths, "to_pylist") else list(paths)
            file.write(np.ascontiguousarray(rows, np.float32).data)
        file.flush()

        def scan():
            for start in range(0, len(names), size):
                part = names[start : start + size]
                file.seek(start * dimension * 4)
                rows = np.fromfile(file, np.float32, len(part) * dimension)
                yield part, rows.reshape(-1, dimension)

        yield scan


def duplicate_groups(
    scan: Scan, threshold: float, progress: Callable[[int, int], Any] | None = None
) -> list[DuplicateGroup]:
    """Finds the groups; memory grows with the rows' number, not with their pairs.

    Args:
        scan: function that begins to read everything once more.
        threshold: least cosine of two rows that are linked.
        progress: told parts done and all parts. Defaults to None.

    Returns:
        list of `DuplicateGroup`, the largest first, then by path.
    """
    sizes = [len(rows) for _, rows in scan()]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    groups = _Groups(int(starts[-1]))
    done, total = 0, len(sizes) * (len(sizes) + 1) // 2
    for number, (_, rows) in enumerate(scan()):
        for other, (_, others) in enumerate(scan()):
            if other < number:
                continue
            for first in range(0, len(rows), _BAND):
                # of the same rows each pair once, and none of a row with itself
                skipped = first if number == other else 0
                band = rows[first : first + _BAND]
                a, b, similarity = _pairs(band, others[skipped:], threshold)
                a, b = a + starts[number] + first, b + starts[other] + skipped
                later = b > a
                groups.link(a[later], b[later], similarity[later])
            done += 1
            if progress is not None:
                progress(done, total)
    return groups.named(scan)


def _pairs(rows, others, threshold):
    """Rows, columns and similarities of the pairs that reach the threshold."""
    bound = cosine_bound(rows.shape[1])
    product = rows @ others.T
    found = np.flatnonzero(product.ravel() >= np.float32(threshold - 2 * bound))
    a, b = np.divmod(found, product.shape[1])
    parts = []
    for start in range(0, len(a), _DOUBTFUL):
        part = slice(start, start + _DOUBTFUL)
        parts.append(cosines(rows[a[part]], others[b[part]]))
    similarity = np.concatenate(parts) if parts else np.zeros(0)
    reached = similarity >= threshold
    return a[reached], b[reached], similarity[reached]


class _Groups:
    """Connected rows: each row's label is the least number of a row of its group."""

    def __init__(self, count):
        self._label = np.arange(count)
        self._nearest = np.full(count, -2.0)

    def link(self, a, b, similarity):
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        if not len(a):
            return
        for rows in (a, b):
            np.maximum.at(self._nearest, rows, similarity)
        ends = np.concatenate([self._label[a], self._label[b]])
        labels, place = np.unique(ends, return_inverse=True)
        shape = (len(labels), len(labels))
        edges = coo_matrix((np.ones(len(a), bool), (place[: len(a)], place[len(a) :])), shape)
        _, part = connected_components(edges, directed=False)
        least = np.full(part.max() + 1, len(self._label))
        np.minimum.at(least, part, labels)
        new = np.arange(len(self._label))
        new[labels] = least[part]
        self._label = new[self._label]

    def named(self, scan):
        is_linked = self._nearest > -2
        numbers = np.flatnonzero(is_linked)
        paths, start = {}, 0
        for names, _ in scan():
            here = numbers[(numbers >= start) & (numbers < start + len(names))]
            paths |= {int(n): str(names[int(n) - start]) for n in here}
            start += len(names)
        members: dict[int, list[int]] = {}
        for number in numbers:
            members.setdefault(int(self._label[number]), []).append(int(number))
        groups = []
        for numbers_here in members.values():
            named = sorted((paths[n], float(self._nearest[n])) for n in numbers_here)
            groups.append(DuplicateGroup(*map(tuple, zip(*named))))
        return sorted(groups, key=lambda group: (-len(group.paths), group.paths))
