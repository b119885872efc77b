"""R-Precision and MAP@R: how many of the R items to be found stand in the first R places.

R is the number of items relevant to a query, the query itself excluded. Recall@K looks at the best
positive only; these two look at all of them, so they tell apart embeddings that all have a
Recall@1 near 1 (Musgrave et al., A Metric Learning Reality Check, ECCV 2020).

The rank of the j-th best positive is j plus the number of negatives ahead of it, and only ranks up
to R count. So R of a query's negatives are enough, the most similar ones, and they are taken from
all similarities of a few queries at a time.
"""

import operator
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_ms.evaluation.inputs import retrieval_sets
from keras_ms.evaluation.ranks import on_accelerator
from keras_ms.evaluation.tiles import NO_PAIR, TIE, full_float32_products

# Similarities held at a time, 64 MB: hundreds of queries against a large gallery, so that the
# product runs at full speed, and little beside the embeddings.
_MOST_SIMILARITIES = 2**24
_MOST_QUERIES = 512


class PrecisionAtR(NamedTuple):
    """Scores of each query, NaN for queries without a relevant item.

    Attributes:
        r_precision: float64 (num_queries,), share of relevant items among the first R.
        average_precision: float64 (num_queries,); its mean over queries is MAP@R.
        num_relevant: int64 (num_queries,), the R of each query.
    """

    r_precision: np.ndarray
    average_precision: np.ndarray
    num_relevant: np.ndarray


def precision_at_r(
    embeddings,
    labels,
    gallery_embeddings=None,
    gallery_labels=None,
    *,
    query_positions=None,
    block_size=None,
    progress=None,
):
    """R-Precision of each query, and its average precision in the first R places.

        R-Precision = (1/R) Σ_{i≤R} rel(i)        MAP@R = mean of (1/R) Σ_{i≤R} P(i) · rel(i)

    where rel(i) is 1 if the item in place i has the query's class and P(i) is the share of such
    items in the first i places. Ties are pessimistic: a negative as similar as a positive (to
    within 1e-6) is ranked before it.

    Args:
        embeddings, labels, gallery_embeddings, gallery_labels, query_positions: as in
            `keras_ms.recall_at_k`.
        block_size: queries compared with the whole gallery at a time. Defaults to None: as many as
            make 64 MB of similarities, at most 512. Peak memory is about one copy of the
            embeddings plus twice that, however large the classes are.
        progress: called with the share of the work done, 0 to 1, now and then.

    Returns:
        A `PrecisionAtR`. Means without the skipped queries: `np.nanmean(scores.r_precision)`.

    Raises:
        ValueError: as `keras_ms.recall_at_k`.

    Example:
        >>> scores = precision_at_r([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [7, 7, 8])
        >>> scores.r_precision
        array([ 1.,  1., nan])
    """
    if block_size is not None and operator.index(block_size) < 1:
        raise ValueError(f"Expected a `block_size` of at least 1. Received: {block_size}")
    queries, gallery = retrieval_sets(
        embeddings, labels, gallery_embeddings, gallery_labels, query_positions
    )
    num_queries, num_items = len(queries.rows), len(gallery.rows)
    if block_size is None:
        block_size = min(_MOST_QUERIES, max(1, _MOST_SIMILARITIES // num_items))
    found = PrecisionAtR(
        np.full(num_queries, np.nan), np.full(num_queries, np.nan), np.zeros(num_queries, np.int64)
    )
    product = _product(queries.rows, gallery.rows, block_size)
    for start in range(0, num_queries, block_size):
        stop = min(start + block_size, num_queries)
        scores = _block_scores(product(start, stop), queries, gallery, start, stop)
        for into, values in zip(found, scores):
            into[queries.order[start:stop]] = values
        if progress:
            progress(stop / num_queries)
    return found


def _product(queries, gallery, block_size):
    """Function (start, stop) -> similarities of those queries, in an array that may be changed."""
    if not on_accelerator():
        buffer = np.empty((block_size, len(gallery)), np.float32)
        return lambda start, stop: np.matmul(
            queries[start:stop], gallery.T, out=buffer[: stop - start]
        )
    columns = ops.transpose(ops.convert_to_tensor(gallery))

    def on_device(start, stop):
        with full_float32_products():
            product = ops.matmul(ops.convert_to_tensor(queries[start:stop]), columns)
        return np.array(ops.convert_to_numpy(product))

    return on_device


def _block_scores(similarity, queries, gallery, start, stop):
    """The three arrays of `PrecisionAtR` for the queries start..stop; overwrites `similarity`."""
    positives = []
    for first, last, relevant in _class_spans(queries, gallery, start, stop):
        span = similarity[first - start : last - start, relevant]
        own = queries.items[first:last, None] == gallery.items[relevant]
        in_class = np.where(own, np.float32(NO_PAIR), span)
        # neither the query itself nor a positive may count as a negative
        span[:] = NO_PAIR
        in_class.sort(axis=1)
        # its first entries are the query itself where it was left out
        positives += zip(in_class, np.count_nonzero(~own, axis=1))

    num_relevant = np.array([count for _, count in positives])
    depth = max(1, num_relevant.max())
    num_items = similarity.shape[1]
    if depth < num_items:
        similarity.partition(num_items - depth, axis=1)
    negatives = similarity[:, num_items - min(depth, num_items) :]
    negatives.sort(axis=1)
    scores = [
        _query_scores(in_class[len(in_class) - count :], row)
        for (in_class, count), row in zip(positives, negatives)
    ]
    r_precision, average_precision = zip(*scores)
    return r_precision, average_precision, num_relevant


def _class_spans(queries, gallery, start, stop):
    """(first query, last query, slice of their class in the gallery) for each class in a block."""
    classes = queries.classes[start:stop]
    bounds = [0, *(np.flatnonzero(np.diff(classes)) + 1).tolist(), stop - start]
    for first, last in zip(bounds, bounds[1:]):
        relevant = gallery.span_of(classes[first], classes[first])
        yield start + first, start + last, slice(*relevant)


def _query_scores(positives, negatives):
    """R-Precision and average precision of one query.

    Args:
        positives: (R,) similarities of the relevant items, ascending.
        negatives: the R or more highest similarities of the others, ascending.
    """
    num_relevant = len(positives)
    if not num_relevant:
        return np.nan, np.nan
    thresholds = positives[::-1] - np.float32(TIE)
    ahead = len(negatives) - np.searchsorted(negatives, thresholds, side="left")
    places = np.arange(1, num_relevant + 1)
    ranks = places + ahead
    within = ranks <= num_relevant
    return np.mean(within), np.sum((places / ranks)[within]) / num_relevant
