"""Ranks on a processor, with NumPy: tiles small enough that counting finds them in its caches.

Compiled tiles (device_ranks.py) need one static shape, hence padding and masks in each. Here the
tiles end where classes end: those off the diagonal hold negatives only and are compared with the
thresholds as they are.
"""

import numpy as np

from keras_ms.evaluation.tiles import NO_PAIR, TIE

# most rows or columns: counts within a tile are held in 16 bits, which is twice as fast as 32
_MOST = 2**16 - 1


def sorted_ranks(queries, gallery, block_size, progress):
    """Ranks of the best positives in the order of the sorted queries.

    Args:
        queries, gallery: `RetrievalSet`; the same object for a set against itself.
        block_size: most columns of a tile; it has a quarter as many rows.
        progress: function of the share done.

    Returns:
        int64 array (num_queries,): the rank, 0 without a positive.
    """
    num_columns = min(block_size, _MOST)
    tiles = _Tiles(max(1, num_columns // 4), num_columns)
    best = _best_positives(queries, gallery, tiles)
    # one float32 subtraction for all comparisons: the same threshold in each of them
    thresholds = best - np.float32(TIE)
    if queries is gallery:
        ahead = _ahead_within(queries, thresholds, tiles, progress)
    else:
        ahead = _ahead_in_gallery(queries, gallery, thresholds, tiles, progress)
    return np.where(best > NO_PAIR, 1 + ahead, 0)


class _Tiles:
    """Products of parts of two row sets, each written over the last one."""

    def __init__(self, num_rows, num_columns):
        self.num_rows = num_rows
        self.num_columns = num_columns
        self._similarity = np.empty(num_rows * num_columns, np.float32)
        self._ahead = np.empty(num_rows * num_columns, bool)

    def similarity(self, a, b):
        tile = self._similarity[: len(a) * len(b)].reshape(len(a), len(b))
        return np.matmul(a, b.T, out=tile)

    def at_least(self, similarity, thresholds):
        tile = self._ahead[: similarity.size].reshape(similarity.shape)
        return np.greater_equal(similarity, thresholds, out=tile)

    def row_parts(self, start, stop):
        return _parts(start, stop, self.num_rows)

    def column_parts(self, start, stop):
        return _parts(start, stop, self.num_columns)


def _parts(start, stop, size):
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def _count(flags, axis):
    # a sum of bytes: count_nonzero along an axis is several times slower
    return np.add.reduce(flags.view(np.uint8), axis=axis, dtype=np.uint16)


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
    vectors, total = rows.rows, len(rows.rows)
    ahead = np.zeros(total, np.int64)
    for start, stop in _blocks_of_classes(rows.spans(), tiles.num_rows):
        if rows.classes[start] != rows.classes[stop - 1]:
            similarity = tiles.similarity(vectors[start:stop], vectors[start:stop])
            flags = tiles.at_least(similarity, thresholds[start:stop, None])
            flags &= rows.classes[start:stop, None] != rows.classes[start:stop]
            ahead[start:stop] += _count(flags, axis=1)
        for a, b in tiles.row_parts(start, stop):
            for c, d in tiles.column_parts(stop, total):
                similarity = tiles.similarity(vectors[a:b], vectors[c:d])
                ahead[a:b] += _count(tiles.at_least(similarity, thresholds[a:b, None]), axis=1)
                ahead[c:d] += _count(tiles.at_least(similarity, thresholds[c:d]), axis=0)
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
                flags = tiles.at_least(similarity, thresholds[a:b, None])
                if has_positives:
                    flags &= classes[:, None] != gallery.classes[c:d]
                ahead[a:b] += _count(flags, axis=1)
        progress(b / total)
    return ahead
