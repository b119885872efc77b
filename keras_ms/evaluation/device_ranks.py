"""Ranks on an accelerator: tiles of similarities, compiled, all of one static shape.

Blocks are padded to one shape and tell their classes by masks. The accelerator counts what float32
products decide; the processor finds the best positives and decides what they leave in doubt.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_ms.evaluation import device_counts
from keras_ms.evaluation.exact_similarity import (
    NO_PAIR,
    Thresholds,
    best_positives,
    count_doubtful,
    count_exactly,
    is_product_cheaper,
)
from keras_ms.evaluation.inputs import RetrievalSet


def sorted_ranks(
    queries: RetrievalSet, gallery: RetrievalSet, block_size: int, progress: Callable[[float], Any]
) -> np.ndarray:
    """As `processor_ranks.sorted_ranks`; tiles have at most `block_size` rows and columns."""
    best = best_positives(queries, gallery, block_size)
    thresholds = Thresholds.of_positives(best, queries.rows.shape[1])
    num_ahead = np.zeros(len(best), np.int64)
    with device_counts.full_float32_products():
        blocks = _blocks(queries, block_size, thresholds)
        if queries is gallery:
            _count_within(blocks, num_ahead, progress)
        else:
            _count_against(blocks, _blocks(gallery, block_size), num_ahead, progress)
    return np.where(best > NO_PAIR, 1 + num_ahead, 0)


class _Block(NamedTuple):
    """Consecutive rows of the class-sorted set, padded to the common tile size."""

    rows: Any  # (tile, dimension) float32 tensor of unit rows, then zeros
    labels: Any  # (tile,) int32 tensor of class indices, then -1
    low: Any  # (tile,) float32 tensor, of the thresholds; None of a gallery
    high: Any  # the same
    thresholds: Any  # `Thresholds` of the rows without the padding; None of a gallery
    unit_rows: Any  # (count, dimension) the rows without the padding, on the processor
    classes: Any  # (count,) their class indices
    where: slice  # which rows of the sorted set they are


def _blocks(retrieval_set, block_size, thresholds=None):
    """Cuts the sorted set into blocks of one static shape.

    Blocks end between two classes where that wastes at most 1/16 of the tile, so that tiles of a
    single class, which need no product, are not cut; a class larger than that runs on into the
    next block.
    """
    num_rows, dimension = retrieval_set.rows.shape
    class_ends = np.array([stop for _, stop in retrieval_set.spans()])
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
        where = slice(start, stop)
        own = thresholds and thresholds.part(where)
        blocks.append(
            _Block(
                _padded(retrieval_set.rows[where], tile, 0),
                _padded(retrieval_set.classes[where].astype(np.int32), tile, -1),
                own and _padded(own.low, tile, np.inf),
                own and _padded(own.high, tile, np.inf),
                own,
                retrieval_set.rows[where],
                retrieval_set.classes[where],
                where,
            )
        )
        start = stop
    return blocks


def _padded(values, tile, filling):
    padded = np.full((tile, *values.shape[1:]), filling, values.dtype)
    padded[: len(values)] = values
    return ops.convert_to_tensor(padded)


def _count_within(blocks, num_ahead, progress):
    count_rows, count_tile = map(
        device_counts.compiled, (device_counts.count_rows, device_counts.count_tile)
    )
    for j, b in enumerate(blocks):
        for a in blocks[: j + 1]:
            if a.classes[0] == b.classes[-1]:
                continue  # one class only: no negatives
            if a is b:
                _add(num_ahead, a, a, count_rows(a.rows, a.rows, a.labels, a.labels, a.low, a.high))
                continue
            row_counts, column_counts = count_tile(
                a.rows, b.rows, a.labels, b.labels, a.low, a.high, b.low, b.high
            )
            _add(num_ahead, a, b, row_counts, column_counts)
        progress(((j + 1) / len(blocks)) ** 2)


def _count_against(queries, gallery, num_ahead, progress):
    count_rows = device_counts.compiled(device_counts.count_rows)
    for number, a in enumerate(queries, 1):
        for b in gallery:
            _add(num_ahead, a, b, count_rows(a.rows, b.rows, a.labels, b.labels, a.low, a.high))
        progress(number / len(queries))


def _add(num_ahead, a, b, row_counts, column_counts=None):
    """Adds what one tile has found, for the rows of `a` and, if counted, for those of `b`."""
    sides = [(a, 1, row_counts)]
    if column_counts is not None:
        sides.append((b, 0, column_counts))
    size = len(a.unit_rows) * len(b.unit_rows)
    if any(is_product_cheaper(int(num_doubtful), size) for _, _, (_, num_doubtful, _) in sides):
        negatives = a.classes[:, None] != b.classes
        column_thresholds = None if column_counts is None else b.thresholds
        counts = count_exactly(a.unit_rows, b.unit_rows, negatives, a.thresholds, column_thresholds)
        for (block, _, _), more in zip(sides, counts):
            num_ahead[block.where] += more
        return
    for block, axis, (certain, num_doubtful, doubtful) in sides:
        num_ahead[block.where] += ops.convert_to_numpy(certain)[: len(block.unit_rows)]
        # flags are fetched only where there are any
        if int(num_doubtful):
            flags = ops.convert_to_numpy(doubtful)[: len(a.unit_rows), : len(b.unit_rows)]
            num_ahead[block.where] += count_doubtful(
                a.unit_rows, b.unit_rows, flags, block.thresholds, axis
            )
