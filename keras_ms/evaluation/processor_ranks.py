"""Ranks on a processor, with NumPy: large products, counted in parts that fit its caches.

Compiled tiles (device_ranks.py) need one static shape, hence padding and masks in each. Here the
tiles end where classes end: those off the diagonal hold negatives only and are compared with the
thresholds as they are.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_ms.evaluation.tiles import NO_PAIR, TIE

# A tile has so many times more columns than rows. 1024 x 2048 similarities are 8 MB, which a
# processor's last cache mostly holds until they are counted: on two idle cores 20,000 rows took
# 0.68 of the full product, and with 2048 x 8192 0.79. With smaller tiles the threads wait for each
# other too often.
_COLUMNS_PER_ROW = 2

# Counted at a time: 1 MB of similarities, which a core's cache holds for both comparisons. The
# counts of so few rows fit 8 bits, those of so few columns 16, and narrow sums are the fast ones.
_PART_ROWS, _PART_COLUMNS = 128, 2048


def sorted_ranks(queries, gallery, block_size, progress):
    """Ranks of the best positives in the order of the sorted queries.

    Args:
        queries, gallery: `RetrievalSet`; the same object for a set against itself.
        block_size: most rows of a tile; it has up to twice as many columns.
        progress: function of the share done.

    Returns:
        int64 array (num_queries,): the rank, 0 without a positive.
    """
    num_threads = _num_threads()
    with ThreadPoolExecutor(num_threads) as pool:
        most_rows = max(len(queries.rows), len(gallery.rows))
        tiles = _Tiles(block_size, most_rows, pool, num_threads)
        best = _best_positives(queries, gallery, tiles)
        # one float32 subtraction for all comparisons: the same threshold in each of them
        thresholds = best - np.float32(TIE)
        if queries is gallery:
            ahead = _ahead_within(queries, thresholds, tiles, progress)
        else:
            ahead = _ahead_in_gallery(queries, gallery, thresholds, tiles, progress)
    return np.where(best > NO_PAIR, 1 + ahead, 0)


def _num_threads():
    """Those that NumPy's products may take: the processor's cores, or what the user has set."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(told) if told.isdigit() and int(told) > 0 else cores or 1


class _Tiles:
    """Products of parts of two row sets, each written over the last one, and their counts."""

    def __init__(self, block_size, most_rows, pool, num_threads):
        self.num_rows = min(block_size, most_rows)
        self.num_columns = min(_COLUMNS_PER_ROW * block_size, most_rows)
        self._similarity = np.empty(self.num_rows * self.num_columns, np.float32)
        # a buffer for each thread: NumPy's comparisons and sums let other threads run
        self._pool = pool
        self._flags = [np.empty(_PART_ROWS * _PART_COLUMNS, bool) for _ in range(num_threads)]

    def row_parts(self, start, stop):
        return _parts(start, stop, self.num_rows)

    def column_parts(self, start, stop):
        return _parts(start, stop, self.num_columns)

    def similarity(self, a, b):
        tile = self._similarity[: len(a) * len(b)].reshape(len(a), len(b))
        return np.matmul(a, b.T, out=tile)

    def count_ahead(self, similarity, of_rows, of_columns=None, classes=None):
        """How many similarities reach the threshold of their row, and that of their column.

        Args:
            similarity: (rows, columns), all of negatives unless `classes` are given.
            of_rows, of_columns: thresholds (rows,) and (columns,); None: columns are not counted.
            classes: class of each row and of each column: only pairs of two classes count.

        Returns:
            int64 arrays (rows,) and (columns,).
        """
        num_rows, num_columns = similarity.shape
        in_rows = np.zeros(num_rows, np.int64)

        def count(bands, buffer):
            in_columns = np.zeros(num_columns, np.int64)
            for a, b in bands:
                for c, d in _parts(0, num_columns, _PART_COLUMNS):
                    part = similarity[a:b, c:d]
                    flags = buffer[: part.size].reshape(part.shape)
                    np.greater_equal(part, of_rows[a:b, None], out=flags)
                    if classes is not None:
                        flags &= classes[0][a:b, None] != classes[1][c:d]
                    in_rows[a:b] += _count(flags, 1, np.uint16)
                    if of_columns is not None:
                        np.greater_equal(part, of_columns[c:d], out=flags)
                        in_columns[c:d] += _count(flags, 0, np.uint8)
            return in_columns

        # every thread its own rows, so that none writes where another does
        bands = _parts(0, num_rows, _PART_ROWS)
        shares = [bands[first :: len(self._flags)] for first in range(len(self._flags))]
        return in_rows, sum(self._pool.map(count, shares, self._flags))


def _parts(start, stop, size):
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def _count(flags, axis, dtype):
    # a sum of bytes: count_nonzero along an axis is several times slower
    return np.add.reduce(flags.view(np.uint8), axis=axis, dtype=dtype)


def _best_positives(queries, gallery, tiles):
    best = np.full(len(queries.rows), NO_PAIR, np.float32)
    for start, stop in queries.spans():
        label = queries.classes[start]
        first, last = gallery.span_of(label, label)
        for a, b in tiles.row_parts(start, stop):
            for c, d in tiles.column_parts(first, last):
                similarity = tiles.similarity(queries.rows[a:b], gallery.rows[c:d])
                own = queries.items[a:b, None] == gallery.items[c:d]
                similarity[own] = NO_PAIR
                np.maximum(best[a:b], similarity.max(axis=1), out=best[a:b])
    return best


def _ahead_within(rows, thresholds, tiles, progress):
    vectors, classes, total = rows.rows, rows.classes, len(rows.rows)
    ahead = np.zeros(total, np.int64)
    for start, stop in _blocks_of_classes(rows.spans(), tiles.num_rows):
        if classes[start] != classes[stop - 1]:
            block = slice(start, stop)
            similarity = tiles.similarity(vectors[block], vectors[block])
            of_both = classes[block], classes[block]
            ahead[block] += tiles.count_ahead(similarity, thresholds[block], classes=of_both)[0]
        for a, b in tiles.row_parts(start, stop):
            for c, d in tiles.column_parts(stop, total):
                similarity = tiles.similarity(vectors[a:b], vectors[c:d])
                in_rows, in_columns = tiles.count_ahead(
                    similarity, thresholds[a:b], thresholds[c:d]
                )
                ahead[a:b] += in_rows
                ahead[c:d] += in_columns
        progress(1 - (1 - stop / total) ** 2)
    return ahead


def _blocks_of_classes(spans, size):
    """Whole classes, as many as fit into `size` rows, or a single one that is larger."""
    blocks, begin = [], 0
    for (_, stop), (_, next_stop) in zip(spans, [*spans[1:], (0, np.inf)]):
        if next_stop - begin > size:
            blocks.append((begin, stop))
            begin = stop
    return blocks


def _ahead_in_gallery(queries, gallery, thresholds, tiles, progress):
    total = len(queries.rows)
    ahead = np.zeros(total, np.int64)
    for a, b in tiles.row_parts(0, total):
        classes = queries.classes[a:b]
        first, last = gallery.span_of(classes[0], classes[-1])
        for part_of_gallery, has_positives in (
            ((0, first), False),
            ((first, last), True),
            ((last, len(gallery.rows)), False),
        ):
            for c, d in tiles.column_parts(*part_of_gallery):
                similarity = tiles.similarity(queries.rows[a:b], gallery.rows[c:d])
                of_both = (classes, gallery.classes[c:d]) if has_positives else None
                ahead[a:b] += tiles.count_ahead(similarity, thresholds[a:b], classes=of_both)[0]
        progress(b / total)
    return ahead
