"""Rank of every query's best positive, from one pass over the similarities, tile by tile.

Rows are sorted by class first. Then positives meet only in the tiles on the diagonal, and because
similarity is symmetric, each tile above the diagonal counts for its rows and for its columns: half
of the products are never computed, and no more than one tile is held at a time.
"""

import math
import operator
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_ms.evaluation import tiles

# Rows of one tile: products of 2048 x 2048 run at full speed on a CPU (1024 was slower), one
# takes 16 MB; 4096 was no faster and wastes more on padding.
BLOCK_SIZE = 2048


def best_positive_ranks(
    embeddings, labels, gallery_embeddings=None, gallery_labels=None, *, block_size=BLOCK_SIZE
):
    """Rank of each query's most similar item of its own class: what Recall@K is counted from.

    Args:
        embeddings: float array or tensor of any backend, shape (num_queries, dimension);
            L2-normalised inside, in float32.
        labels: class ids, any integer dtype, shape (num_queries,) or (num_queries, 1).
        gallery_embeddings: rows to search, shape (num_items, dimension). Defaults to None: each
            query searches all other queries.
        gallery_labels: their class ids.
        block_size: most rows of one tile of similarities.

    Returns:
        int64 array, shape (num_queries,): 1 + the number of items of other classes at least as
        similar as the best positive (to within 1e-6); 0 where no item has the query's class.

    Raises:
        ValueError: as `keras_ms.recall_at_k`.

    Example:
        >>> best_positive_ranks([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [7, 7, 8])
        array([1, 1, 0])
    """
    if operator.index(block_size) < 1:
        raise ValueError(f"Expected a `block_size` of at least 1. Received: {block_size}")
    if (gallery_embeddings is None) != (gallery_labels is None):
        given = "gallery_labels" if gallery_embeddings is None else "gallery_embeddings"
        raise ValueError(
            "`gallery_embeddings` and `gallery_labels` belong together: give both or neither. "
            f"Received only `{given}`"
        )
    queries = _checked_embeddings(embeddings, "embeddings")
    query_ids = _checked_ids(labels, len(queries), "labels", "embeddings")
    if gallery_embeddings is None:
        classes = np.unique(query_ids, return_inverse=True)[1]
        with tiles.full_float32_products():
            return _ranks_within(_class_sorted_blocks(queries, classes, block_size))
    gallery = _checked_embeddings(gallery_embeddings, "gallery_embeddings")
    gallery_ids = _checked_ids(gallery_labels, len(gallery), "gallery_labels", "gallery_embeddings")
    if gallery.shape[1] != queries.shape[1]:
        raise ValueError(
            "Queries and gallery must have the same dimension. Received: "
            f"embeddings {queries.shape}, gallery_embeddings {gallery.shape}"
        )
    classes = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)[1]
    with tiles.full_float32_products():
        return _ranks_against(
            _class_sorted_blocks(queries, classes[: len(queries)], block_size),
            _class_sorted_blocks(gallery, classes[len(queries) :], block_size),
        )


class _Block(NamedTuple):
    """Consecutive rows of the class-sorted set, padded to the common tile size."""

    rows: Any  # (tile, dimension) float32 tensor of unit rows, then zeros
    labels: Any  # (tile,) int32 tensor of class indices, then -1
    index: np.ndarray  # (count,) where the rows stand in the caller's arrays
    first: int  # smallest class index
    last: int  # largest class index


def _class_sorted_blocks(embeddings, classes, block_size):
    """Cuts the set, sorted by class, into blocks of one static shape.

    Blocks end between two classes where that wastes at most 1/16 of the tile, so that positives
    rarely straddle two blocks; a class larger than that runs on into the next block.
    """
    order = np.argsort(classes, kind="stable")
    classes = classes[order]
    num_rows = len(order)
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(classes)) + 1, [num_rows]])
    largest_class = int(np.max(np.diff(bounds)))
    spare = min(largest_class, block_size // 16)
    num_blocks = math.ceil(num_rows / (block_size - spare))
    # evenly filled tiles waste least; a multiple of 64 keeps the product on its fast kernel
    tile = min(block_size, 64 * math.ceil((math.ceil(num_rows / num_blocks) + spare) / 64))
    blocks, start = [], 0
    while start < num_rows:
        stop = min(start + tile, num_rows)
        class_end = int(bounds[np.searchsorted(bounds, stop, side="right") - 1])
        if class_end >= stop - spare:
            stop = class_end
        index = order[start:stop]
        rows = np.zeros((tile, embeddings.shape[1]), np.float32)
        rows[: len(index)] = _unit_rows(embeddings[index])
        labels = np.full(tile, -1, np.int32)
        labels[: len(index)] = classes[start:stop]
        blocks.append(
            _Block(
                ops.convert_to_tensor(rows),
                ops.convert_to_tensor(labels),
                index,
                int(classes[start]),
                int(classes[stop - 1]),
            )
        )
        start = stop
    return blocks


def _ranks_within(blocks):
    diagonal, best_positive, count = map(
        tiles.compiled, (tiles.diagonal_tile, tiles.best_positive_tile, tiles.count_tile)
    )
    best, ahead = map(list, zip(*(diagonal(block.rows, block.labels) for block in blocks)))
    pairs = [(i, j) for j in range(len(blocks)) for i in range(j)]

    # classes that straddle blocks have positives outside the diagonal tiles
    unfinished = set()
    for i, j in pairs:
        a, b = blocks[i], blocks[j]
        if a.last == b.first:
            in_a, in_b = best_positive(a.rows, b.rows, a.labels, b.labels)
            best[i], best[j] = ops.maximum(best[i], in_a), ops.maximum(best[j], in_b)
            unfinished |= {i, j}
    for i in unfinished:
        a = blocks[i]
        ahead[i], _ = count(a.rows, a.rows, a.labels, a.labels, best[i], best[i])

    for i, j in pairs:
        a, b = blocks[i], blocks[j]
        if a.first == b.last:
            continue  # one class only: no negatives
        in_a, in_b = count(a.rows, b.rows, a.labels, b.labels, best[i], best[j])
        ahead[i], ahead[j] = ahead[i] + in_a, ahead[j] + in_b
    return _ranks_in_callers_order(blocks, best, ahead)


def _ranks_against(queries, gallery):
    best_positive = tiles.compiled(tiles.best_positive_rows)
    count = tiles.compiled(tiles.count_rows)
    all_best, all_ahead = [], []
    for a in queries:
        best = ops.full(a.labels.shape, tiles.NO_PAIR, dtype="float32")
        ahead = ops.zeros(a.labels.shape, dtype="int32")
        for b in gallery:
            if a.first <= b.last and b.first <= a.last:
                best = ops.maximum(best, best_positive(a.rows, b.rows, a.labels, b.labels))
        for b in gallery:
            ahead = ahead + count(a.rows, b.rows, a.labels, b.labels, best)
        all_best.append(best)
        all_ahead.append(ahead)
    return _ranks_in_callers_order(queries, all_best, all_ahead)


def _ranks_in_callers_order(blocks, best, ahead):
    ranks = np.zeros(sum(len(block.index) for block in blocks), np.int64)
    for block, block_best, block_ahead in zip(blocks, best, ahead):
        count = len(block.index)
        found = ops.convert_to_numpy(block_best)[:count] > tiles.NO_PAIR
        block_ranks = 1 + ops.convert_to_numpy(block_ahead)[:count].astype(np.int64)
        ranks[block.index] = np.where(found, block_ranks, 0)
    return ranks


def _unit_rows(rows):
    rows = rows.astype(np.float64 if rows.dtype.itemsize > 4 else np.float32)
    # squares of tiny or huge numbers would leave the range of float32
    largest = np.max(np.abs(rows), axis=1, keepdims=True)
    moderate = (largest == 0) | ((largest > 1e-9) & (largest < 1e9))
    rows = (rows / np.where(moderate, 1, largest)).astype(np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return rows / np.where(norms > 0, norms, 1)


def _as_numpy(array):
    return ops.convert_to_numpy(array) if ops.is_tensor(array) else np.asarray(array)


def _checked_embeddings(embeddings, name):
    embeddings = _as_numpy(embeddings)
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
            f"Expected numbers in `{name}`. Received dtype: {embeddings.dtype}"
        ) from error
    if not finite.all():
        raise ValueError(
            f"`{name}` must be finite: {np.count_nonzero(~finite)} of {len(finite)} rows hold NaN "
            f"or infinity, the first is row {np.argmin(finite)}. Training diverged (lower the "
            "learning rate) or the model's output is not normalised safely."
        )
    return embeddings


def _checked_ids(labels, num_rows, name, rows_name):
    labels = _as_numpy(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integer class ids in `{name}` (floats merge ids above 2**24; number the "
            f"classes first if they are names). Received dtype: {labels.dtype}"
        )
    if labels.shape not in ((num_rows,), (num_rows, 1)):
        raise ValueError(
            f"Expected `{name}` of shape ({num_rows},) or ({num_rows}, 1): one class id for each "
            f"row of `{rows_name}`. Received shape: {labels.shape}"
        )
    if labels.dtype == np.uint64 and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"Class ids must fit int64. Received in `{name}`: {labels.max()}")
    return labels.reshape(-1).astype(np.int64)
