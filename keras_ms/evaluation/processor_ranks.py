"""Ranks on a processor, with NumPy: large products, counted in parts that fit its caches.

Compiled tiles (device_ranks.py) need one static shape, hence padding and masks in each. Here the
tiles end where classes end: those off the diagonal hold negatives only and are compared with the
thresholds as they are. Pairs that float32 leaves in doubt are computed again, part by part.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_ms.evaluation.exact_similarity import (
    NO_PAIR,
    Thresholds,
    best_positives,
    count_doubtful,
    count_exactly,
    is_product_cheaper,
)
from keras_ms.evaluation.inputs import RetrievalSet
from keras_ms.terminal.cores import num_cores

# A tile has so many times more columns than rows. 1024 x 2048 similarities are 8 MB, which a
# processor's last cache mostly holds until they are counted: on two idle cores 20,000 rows took
# 0.68 of the full product, and with 2048 x 8192 0.79. With smaller tiles the threads wait for each
# other too often.
_COLUMNS_PER_ROW = 2

# Counted at a time: 1 MB of similarities, which a core's cache holds for all comparisons. The
# counts of so few rows fit 8 bits, those of so few columns 16, and narrow sums are the fast ones.
_PART_ROWS, _PART_COLUMNS = 128, 2048

# Where a row is shorter than NumPy's buffers, it fills these with copies of the thresholds before
# it compares, which makes a comparison take three times as long.
_BUFFER_SIZE = _PART_COLUMNS


def sorted_ranks(
    queries: RetrievalSet, gallery: RetrievalSet, block_size: int, progress: Callable[[float], Any]
) -> np.ndarray:
    """Ranks of the best positives in the order of the sorted queries.

    Args:
        queries, gallery: `RetrievalSet`; the same object for a set against itself.
        block_size: most rows of a tile; it has up to twice as many columns.
        progress: function of the share done.

    Returns:
        int64 array (num_queries,): the rank, 0 without a positive.
    """
    num_threads = _num_threads()
    with ThreadPoolExecutor(
        num_threads, initializer=np.setbufsize, initargs=(_BUFFER_SIZE,)
    ) as pool:
        most_rows = max(len(queries.rows), len(gallery.rows))
        counter = _TileCounter(block_size, most_rows, pool, num_threads)
        best = best_positives(queries, gallery, counter.num_rows)
        thresholds = Thresholds.of_positives(best, queries.rows.shape[1])
        if queries is gallery:
            num_ahead = _num_ahead_within(queries, thresholds, counter, progress)
        else:
            num_ahead = _num_ahead_in_gallery(queries, gallery, thresholds, counter, progress)
    return np.where(best > NO_PAIR, 1 + num_ahead, 0)


def _num_threads():
    """Those that NumPy's products may take: the processor's cores, or what the user has set."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) > 0 else num_cores()


class _TileCounter:
    """Products of parts of two row sets, each written over the last one, and their counts."""

    def __init__(self, block_size, most_rows, pool, num_threads):
        self.num_rows = min(block_size, most_rows)
        self.num_columns = min(_COLUMNS_PER_ROW * block_size, most_rows)
        self._similarity = np.empty(self.num_rows * self.num_columns, np.float32)
        # flags for each thread: NumPy's comparisons and sums let other threads run
        self._pool = pool
        self._flags = [np.empty((2, _PART_ROWS * _PART_COLUMNS), bool) for _ in range(num_threads)]

    def row_parts(self, start, stop):
        return _parts(start, stop, self.num_rows)

    def column_parts(self, start, stop):
        return _parts(start, stop, self.num_columns)

    def count_ahead(self, a, b, row_thresholds, column_thresholds=None, classes=None):
        """How many columns are ahead of the best positive of each row, and the other way round.

        Args:
            a, b: unit rows, float32 (rows, dimension) and (columns, dimension), every row of `a` a
                negative of every one of `b` unless `classes` are given.
            row_thresholds, column_thresholds: their `Thresholds`; None: columns are not counted.
            classes: class of each row and of each column: only pairs of two classes count.

        Returns:
            int64 arrays (rows,) and (columns,).
        """
        similarity = self._similarity[: len(a) * len(b)].reshape(len(a), len(b))
        _product(a, b, similarity)
        in_rows = np.zeros(len(a), np.int64)

        def count(bands, flags):
            in_columns, uncounted = np.zeros(len(b), np.int64), []
            for rows, columns in itertools.product(bands, _parts(0, len(b), _PART_COLUMNS)):
                rows, columns = slice(*rows), slice(*columns)
                part = (
                    a[rows],
                    b[columns],
                    classes and classes[0][rows, None] != classes[1][columns],
                    row_thresholds.part(rows),
                    column_thresholds and column_thresholds.part(columns),
                )
                counts = _count_part(similarity[rows, columns], *part, flags)
                if counts is None:
                    uncounted.append((rows, columns, part))
                    continue
                in_rows[rows] += counts[0]
                in_columns[columns] += counts[1]
            return in_columns, uncounted

        # every thread its own rows, so that none writes where another does
        bands = _parts(0, len(a), _PART_ROWS)
        shares = [bands[first :: len(self._flags)] for first in range(len(self._flags))]
        counted, uncounted = zip(*self._pool.map(count, shares, self._flags))
        in_columns = np.sum(counted, axis=0)
        # products take all threads, and would wait for each other inside of them
        for rows, columns, part in itertools.chain(*uncounted):
            more_in_rows, more_in_columns = count_exactly(*part)
            in_rows[rows] += more_in_rows
            if column_thresholds is not None:
                in_columns[columns] += more_in_columns
        return in_rows, in_columns


def _parts(start, stop, size):
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def _product(a, b, out):
    np.matmul(a, b.T, out=out)


def _count_part(similarity, a, b, negatives, row_thresholds, column_thresholds, flags):
    """As `_TileCounter.count_ahead`, of float32 similarities that a core's cache holds.

    Args:
        similarity: (rows, columns), of `a` and `b`.
        negatives: bool (rows, columns), the pairs that count, or None: all of them.
        flags: bool (2, rows · columns or more), to be written over.

    Returns:
        The counts, or None where too many pairs are in doubt.
    """
    certain, possible = (buffer[: similarity.size].reshape(similarity.shape) for buffer in flags)
    counts = []
    for axis, thresholds, dtype in (
        (1, row_thresholds, np.uint16),
        (0, column_thresholds, np.uint8),
    ):
        counts.append(0)
        if thresholds is None:
            continue
        np.greater_equal(similarity, np.expand_dims(thresholds.low, axis), out=possible)
        if negatives is not None:
            possible &= negatives
        if not possible.any():
            continue
        np.greater_equal(similarity, np.expand_dims(thresholds.high, axis), out=certain)
        if negatives is not None:
            certain &= negatives
        num_possible, counts[-1] = _count(possible, axis, dtype), _count(certain, axis, dtype)
        # what is certain is possible, so the difference is in doubt
        lines = np.flatnonzero(num_possible != counts[-1])
        if not len(lines):
            continue
        num_doubtful = int(num_possible[lines].sum()) - int(counts[-1][lines].sum())
        if is_product_cheaper(num_doubtful, similarity.size):
            return None
        doubtful = possible.take(lines, 1 - axis) ^ certain.take(lines, 1 - axis)
        rows, columns = (a[lines], b) if axis else (a, b[lines])
        more = count_doubtful(rows, columns, doubtful, thresholds.part(lines), axis)
        counts[-1] = counts[-1].astype(np.int64)
        counts[-1][lines] += more
    return counts


def _count(flags, axis, dtype):
    # a sum of bytes: count_nonzero along an axis is several times slower
    return np.add.reduce(flags.view(np.uint8), axis=axis, dtype=dtype)


def _num_ahead_within(queries, thresholds, counter, progress):
    vectors, classes, total = queries.rows, queries.classes, len(queries.rows)
    num_ahead = np.zeros(total, np.int64)
    for start, stop in _blocks_of_classes(queries.spans(), counter.num_rows):
        if classes[start] != classes[stop - 1]:
            block = slice(start, stop)
            of_both = classes[block], classes[block]
            num_ahead[block] += counter.count_ahead(
                vectors[block], vectors[block], thresholds.part(block), classes=of_both
            )[0]
        for row_start, row_stop in counter.row_parts(start, stop):
            for column_start, column_stop in counter.column_parts(stop, total):
                row_slice = slice(row_start, row_stop)
                column_slice = slice(column_start, column_stop)
                in_rows, in_columns = counter.count_ahead(
                    vectors[row_slice],
                    vectors[column_slice],
                    thresholds.part(row_slice),
                    thresholds.part(column_slice),
                )
                num_ahead[row_slice] += in_rows
                num_ahead[column_slice] += in_columns
        progress(1 - (1 - stop / total) ** 2)
    return num_ahead


def _blocks_of_classes(spans, size):
    """Whole classes, as many as fit into `size` rows, or a single one that is larger."""
    blocks, begin = [], 0
    for (_, stop), (_, next_stop) in zip(spans, [*spans[1:], (0, np.inf)]):
        if next_stop - begin > size:
            blocks.append((begin, stop))
            begin = stop
    return blocks


def _num_ahead_in_gallery(queries, gallery, thresholds, counter, progress):
    total = len(queries.rows)
    num_ahead = np.zeros(total, np.int64)
    for row_start, row_stop in counter.row_parts(0, total):
        row_slice = slice(row_start, row_stop)
        classes = queries.classes[row_slice]
        first, last = gallery.span_of(classes[0], classes[-1])
        for part_of_gallery, has_positives in (
            ((0, first), False),
            ((first, last), True),
            ((last, len(gallery.rows)), False),
        ):
            for column_start, column_stop in counter.column_parts(*part_of_gallery):
                column_slice = slice(column_start, column_stop)
                num_ahead[row_slice] += counter.count_ahead(
                    queries.rows[row_slice],
                    gallery.rows[column_slice],
                    thresholds.part(row_slice),
                    classes=(classes, gallery.classes[column_slice]) if has_positives else None,
                )[0]
        progress(row_stop / total)
    return num_ahead
