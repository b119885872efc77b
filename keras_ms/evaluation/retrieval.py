"""Recall@K, exact, for any number of embeddings in bounded memory.

Recall@K asks whether one of the K items most similar to a query has the query's class. That holds
exactly when the query's best positive ranks K-th or better, and its rank is 1 + the number of
negatives at least as similar. So no top-k search is needed: one pass over the similarities, tile
by tile, counts the negatives ahead of each best positive and answers every K at once.
"""

import operator
from collections.abc import Mapping, Sequence

import numpy as np

from keras_ms.arguments import Tensor
from keras_ms.evaluation.ranks import BLOCK_SIZE, best_positive_ranks
from keras_ms.terminal.progress import Progress


class Recalls(dict):
    """Mapping from K to Recall@K as a float in 0..1.

    Attributes:
        num_queries: queries given, skipped ones included.
        num_skipped: queries left out because no other item has their class.
    """

    def __init__(self, values: Mapping[int, float], num_queries: int, num_skipped: int):
        super().__init__(values)
        self.num_queries = num_queries
        self.num_skipped = num_skipped


def recall_at_k(
    embeddings: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 2, 4, 8),
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    query_positions: Tensor | None = None,
    block_size: int = BLOCK_SIZE,
    progress: Progress | None = None,
) -> Recalls:
    """Share of queries with an item of their own class among the K most similar.

    Similarity is the cosine: rows are L2-normalised and rounded to float32 first (a zero row is
    equally similar, 0, to everything), and compared by their products in float64, so that the
    answer is the same on every processor. Without a gallery each query searches all other rows;
    itself it leaves out by index, so a duplicate of it still counts.

    Ties are pessimistic: a negative as similar as the best positive (to within 1e-6) is ranked
    before it. Collapsed embeddings therefore score 0, not 1. Queries without any item of their
    class are skipped and counted. A K that reaches the whole gallery gives 1 by definition.

    Relations: `evaluate_embeddings` has this and R-Precision, MAP@R, clustering and intervals;
    `keras_ms.RecallAtK` measures this during `fit`. Exact and in tiles, with no index: for searches
    in many pictures `keras_ms.search.Index`.

    Args:
        embeddings: float array or tensor of any backend, shape (num_queries, dimension).
        labels: class ids, any integer dtype, shape (num_queries,) or (num_queries, 1). Compared
            as int64, never as floats.
        ks: the values of K, integers of at least 1. Defaults to (1, 2, 4, 8), usual for CUB-200.
        gallery_embeddings: rows to search instead, shape (num_items, dimension). Nothing is
            excluded then but what `query_positions` says: queries and gallery are taken as
            different images. Defaults to None: the queries search each other.
        gallery_labels: their class ids, as `labels`; needed with `gallery_embeddings`. Defaults to
            None.
        query_positions: where each query's own image stands in the gallery, -1 if it is not in
            it, integers of shape (num_queries,). It is left out, by index. Defaults to None: no
            query is in the gallery.
        block_size: most rows of one tile of similarities. Peak memory is about one copy of the
            embeddings plus 4 · block_size² float32 numbers. Defaults to 1024.
        progress: called with (queries done, queries in all) now and then. Defaults to None.

    Returns:
        A `Recalls`: dict from K to Recall@K (float, 0..1), in the order of `ks`, with the
        attributes `num_queries` and `num_skipped`.

    Raises:
        ValueError: wrong shapes, lengths or dtypes, NaN or infinite embeddings, no rows, invalid
            `ks` or `block_size`, or no query with an item of its class.

    Example:
        >>> recalls = recall_at_k([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [7, 7, 8], ks=(1, 2))
        >>> recalls[1], recalls.num_skipped
        (1.0, 1)
    """
    ks = checked_ks(ks)
    ranks = best_positive_ranks(
        embeddings,
        labels,
        gallery_embeddings,
        gallery_labels,
        query_positions=query_positions,
        block_size=block_size,
        progress=progress,
    )
    scored = ranks[ranks > 0]
    if not len(scored):
        raise ValueError(
            f"Recall@K needs a query whose class has another item to find. Received {len(ranks)} "
            "queries, none with one (every class holds a single image, or the gallery holds none "
            "of the queries' classes). Check the labels or give more images of each class."
        )
    values = {k: float(np.mean(scored <= k)) for k in ks}
    return Recalls(values, num_queries=len(ranks), num_skipped=len(ranks) - len(scored))


def checked_ks(ks: Sequence[int]) -> list[int]:
    """The values of K as a list of integers, else a ValueError."""
    try:
        checked = [operator.index(k) for k in ks if not isinstance(k, (bool, np.bool_))]
        valid = len(checked) == len(ks) > 0 and min(checked) >= 1
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(
            f"Expected `ks` to hold integers of at least 1, such as (1, 2, 4, 8). Received: {ks!r}"
        )
    return checked
