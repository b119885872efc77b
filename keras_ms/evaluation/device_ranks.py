"""Ranks on an accelerator: the same tiles, compiled, all of one static shape.

Blocks are padded to one shape and tell their classes by masks. Positives meet only in the tiles on
the diagonal, but for classes that straddle two blocks.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_ms.evaluation import tiles


def sorted_ranks(queries, gallery, block_size, progress):
    """As `processor_ranks.sorted_ranks`; tiles have at most `block_size` rows and columns."""
    with tiles.full_float32_products():
        if queries is gallery:
            return _ranks_within(_blocks(queries, block_size, padding=-1), progress)
        return _ranks_against(
            _blocks(queries, block_size, padding=-1),
            # another number than the queries' padding and than that of queries not in the gallery
            _blocks(gallery, block_size, padding=-2),
            progress,
        )


class _Block(NamedTuple):
    """Consecutive rows of the class-sorted set, padded to the common tile size."""

    rows: Any  # (tile, dimension) float32 tensor of unit rows, then zeros
    labels: Any  # (tile,) int32 tensor of class indices, then -1
    items: Any  # (tile,) int32 tensor: equal where query and gallery row are the same image
    count: int  # rows without the padding
    first: int  # smallest class index
    last: int  # largest class index


def _blocks(rows, block_size, padding):
    """Cuts the sorted set into blocks of one static shape.

    Blocks end between two classes where that wastes at most 1/16 of the tile, so that positives
    rarely straddle two blocks; a class larger than that runs on into the next block.
    """
    num_rows, dimension = rows.rows.shape
    class_ends = np.array([stop for _, stop in rows.spans()])
    largest_class = int(np.max(np.diff(class_ends, prepend=0)))
    spare = min(largest_class, block_size // 16)
    num_blocks = math.ceil(num_rows / (block_size - spare))
    # evenly filled tiles waste least; a multiple of 64 keeps the product on its fast kernel
    tile = min(block_size, 64 * math.ceil((math.ceil(num_rows / num_blocks) + spare) / 64))
    blocks, start = [], 0
    while start < num_rows:
        stop = min(start + tile, num_rows)
        ended = np.searchsorted(class_ends, stop, side="right")
        class_end = int(class_ends[ended - 1]) if ended else 0
        if class_end >= stop - spare:
            stop = class_end
        count = stop - start
        padded = np.zeros((tile, dimension), np.float32)
        padded[:count] = rows.rows[start:stop]
        labels = np.full(tile, -1, np.int32)
        labels[:count] = rows.classes[start:stop]
        items = np.full(tile, padding, np.int32)
        items[:count] = rows.items[start:stop]
        tensors = (ops.convert_to_tensor(array) for array in (padded, labels, items))
        first, last = int(rows.classes[start]), int(rows.classes[stop - 1])
        blocks.append(_Block(*tensors, count, first, last))
        start = stop
    return blocks


def _ranks_within(blocks, progress):
    diagonal, best_positive, count = map(
        tiles.compiled, (tiles.diagonal_tile, tiles.best_positive_tile, tiles.count_tile)
    )
    best, ahead = map(list, zip(*(diagonal(block.rows, block.labels) for block in blocks)))

    # classes that straddle blocks have positives outside the diagonal tiles
    unfinished = set()
    for j, b in enumerate(blocks):
        for i, a in enumerate(blocks[:j]):
            if a.last == b.first:
                in_a, in_b = best_positive(a.rows, b.rows, a.labels, b.labels)
                best[i], best[j] = ops.maximum(best[i], in_a), ops.maximum(best[j], in_b)
                unfinished |= {i, j}
    for i in unfinished:
        a = blocks[i]
        ahead[i], _ = count(a.rows, a.rows, a.labels, a.labels, best[i], best[i])

    for j, b in enumerate(blocks):
        for i, a in enumerate(blocks[:j]):
            if a.first == b.last:
                continue  # one class only: no negatives
            in_a, in_b = count(a.rows, b.rows, a.labels, b.labels, best[i], best[j])
            ahead[i], ahead[j] = ahead[i] + in_a, ahead[j] + in_b
        progress(((j + 1) / len(blocks)) ** 2)
    return _joined(blocks, best, ahead)


def _ranks_against(queries, gallery, progress):
    best_positive = tiles.compiled(tiles.best_positive_rows)
    count = tiles.compiled(tiles.count_rows)
    all_best, all_ahead = [], []
    for number, a in enumerate(queries, 1):
        best = ops.full(a.labels.shape, tiles.NO_PAIR, dtype="float32")
        ahead = ops.zeros(a.labels.shape, dtype="int32")
        for b in gallery:
            if a.first <= b.last and b.first <= a.last:
                found = best_positive(a.rows, b.rows, a.labels, b.labels, a.items, b.items)
                best = ops.maximum(best, found)
        for b in gallery:
            ahead = ahead + count(a.rows, b.rows, a.labels, b.labels, best)
        all_best.append(best)
        all_ahead.append(ahead)
        progress(number / len(queries))
    return _joined(queries, all_best, all_ahead)


def _joined(blocks, best, ahead):
    ranks = []
    for block, block_best, block_ahead in zip(blocks, best, ahead):
        found = ops.convert_to_numpy(block_best)[: block.count] > tiles.NO_PAIR
        block_ranks = 1 + ops.convert_to_numpy(block_ahead)[: block.count].astype(np.int64)
        ranks.append(np.where(found, block_ranks, 0))
    return np.concatenate(ranks)
