"""R-Precision and MAP@R: how many of the R items to be found stand in the first R places.

R is the number of items relevant to a query, the query itself excluded. Recall@K looks at the best
positive only; these two look at all of them, so they tell apart embeddings that all have a
Recall@1 near 1 (Musgrave et al., A Metric Learning Reality Check, ECCV 2020).

The rank of the j-th best positive is j plus the number of negatives ahead of it, and only ranks up
to R count. So R of a query's negatives are enough, the most similar ones. They are taken by float32
similarities, of a few queries at a time to the whole gallery, with those that might be among them;
the few whose order to a positive float32 leaves in doubt are computed again.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_ms.arguments import Tensor, whole_number
from keras_ms.evaluation.device_counts import full_float32_products
from keras_ms.evaluation.exact_similarity import (
    NO_PAIR,
    TIE,
    is_product_cheaper,
    pair_similarities,
    rounded_down,
    similarities,
)
from keras_ms.evaluation.inputs import retrieval_sets
from keras_ms.evaluation.ranks import on_accelerator
from keras_ms.pairs.rounding import rounding_bound
from keras_ms.terminal.progress import Progress

# Similarities held at a time, 64 MB: hundreds of queries against a large gallery, so that the
# product runs at full speed, and little beside the embeddings.
_MOST_SIMILARITIES = 2**24
_MOST_QUERIES = 512

# Of these so many are ranked at a time, with indices and float64 numbers beside them: 8 MB each.
_MOST_RANKED = 2**20


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
    embeddings: Tensor,
    labels: Tensor,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    query_positions: Tensor | None = None,
    block_size: int | None = None,
    progress: Progress | None = None,
) -> PrecisionAtR:
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
        progress: called with (queries done, queries in all) now and then.

    Returns:
        A `PrecisionAtR`. Means without the skipped queries: `np.nanmean(scores.r_precision)`.

    Raises:
        ValueError: as `keras_ms.recall_at_k`.

    Example:
        >>> scores = precision_at_r([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [7, 7, 8])
        >>> scores.r_precision
        array([ 1.,  1., nan])
    """
    if block_size is not None:
        block_size = whole_number("block_size", block_size)
    queries, gallery = retrieval_sets(
        embeddings, labels, gallery_embeddings, gallery_labels, query_positions
    )
    num_queries, num_items = len(queries.rows), len(gallery.rows)
    if block_size is None:
        block_size = min(_MOST_QUERIES, max(1, _MOST_SIMILARITIES // num_items))
    result = PrecisionAtR(
        np.full(num_queries, np.nan), np.full(num_queries, np.nan), np.zeros(num_queries, np.int64)
    )
    product = _product(queries.rows, gallery.rows, block_size)
    for start in range(0, num_queries, block_size):
        stop = min(start + block_size, num_queries)
        similarity = product(start, stop)
        step = max(1, _MOST_RANKED // num_items)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            ranked = similarity[first - start : last - start]
            scores = _scores(ranked, queries, gallery, first, last)
            for into, values in zip(result, scores):
                into[queries.original_positions[first:last]] = values
        if progress:
            progress(stop, num_queries)
    return result


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


def _scores(similarity, queries, gallery, start, stop):
    """The three arrays of `PrecisionAtR` for the queries start..stop; overwrites `similarity`."""
    bound = rounding_bound(gallery.rows.shape[1])
    thresholds = _thresholds(similarity, queries, gallery, start, stop)
    num_relevant = np.array([len(of_query) for of_query in thresholds])
    max_num_relevant = max(1, num_relevant.max())
    vectors = queries.rows[start:stop]
    may_be_ahead = _may_be_ahead(similarity, thresholds, max_num_relevant, bound)
    wanted = np.count_nonzero(may_be_ahead)
    if is_product_cheaper(wanted - max_num_relevant * len(vectors), may_be_ahead.size):
        # rounding decides: all of float32 is in doubt, as with collapsed embeddings
        exact = similarities(vectors, gallery.rows)
        exact[similarity == NO_PAIR] = NO_PAIR
        place = max(0, exact.shape[1] - max_num_relevant)
        exact.partition(place, axis=1)
        num_ahead = [_num_ahead(row[place:], of_query) for row, of_query in zip(exact, thresholds)]
    else:
        num_ahead = _by_float32(similarity, may_be_ahead, vectors, gallery.rows, thresholds, bound)
    scores = [_query_scores(of_query) for of_query in num_ahead]
    return *zip(*scores), num_relevant


def _thresholds(similarity, queries, gallery, start, stop):
    """For each query what puts a negative ahead of its positives, the best positive first.

    Marks the class of each query in `similarity`: neither itself nor a positive is a negative.
    """
    thresholds = []
    for first, last, relevant in _class_spans(queries, gallery, start, stop):
        similarity[first - start : last - start, relevant] = NO_PAIR
        positives = similarities(queries.rows[first:last], gallery.rows[relevant])
        own = queries.image_numbers[first:last, None] == gallery.image_numbers[relevant]
        positives[own] = NO_PAIR
        positives.sort(axis=1)
        # the query itself, where it was left out, has come to the front
        counts = np.count_nonzero(~own, axis=1)
        thresholds += [row[len(row) - n :][::-1] - TIE for row, n in zip(positives, counts)]
    return thresholds


def _class_spans(queries, gallery, start, stop):
    """(first query, last query, slice of their class in the gallery) for each class in a block."""
    classes = queries.classes[start:stop]
    bounds = [0, *(np.flatnonzero(np.diff(classes)) + 1).tolist(), stop - start]
    for first, last in zip(bounds, bounds[1:]):
        relevant = gallery.span_of(classes[first], classes[first])
        yield start + first, start + last, slice(*relevant)


def _may_be_ahead(similarity, thresholds, max_num_relevant, bound):
    """Flags the negatives that may be ahead of a positive and among a query's best
    `max_num_relevant`.

    With the float32 similarity t in that place, as many negatives reach t - bound exactly; one
    that does may have a float32 similarity of t - 2 bounds.
    """
    # of the worst positive
    lowest = np.array([of_query[-1] if len(of_query) else np.inf for of_query in thresholds])
    lowest = rounded_down(np.maximum(lowest - bound, NO_PAIR / 2))
    may_be_ahead = similarity >= lowest[:, None]
    # a sum of bytes: count_nonzero along an axis is several times slower
    counts = np.add.reduce(may_be_ahead.view(np.uint8), axis=1, dtype=np.uint32)
    many = np.flatnonzero(counts > max_num_relevant)
    if len(many):
        place = similarity.shape[1] - max_num_relevant
        best = similarity[many]
        best.partition(place, axis=1)
        best = best[:, place].astype(np.float64)
        lowest[many] = np.maximum(lowest[many], rounded_down(best - 2 * bound))
        np.greater_equal(similarity, lowest[:, None], out=may_be_ahead)
    return may_be_ahead


def _by_float32(similarity, may_be_ahead, vectors, gallery, thresholds, bound):
    """How many negatives are ahead of each positive, a list of arrays.

    float32 decides where it can. What it leaves in doubt, in a place up to R, is computed again.
    """
    flat = np.flatnonzero(may_be_ahead)
    rows, columns = np.divmod(flat, similarity.shape[1])
    values = similarity.reshape(-1)[flat].astype(np.float64)
    bounds = np.searchsorted(rows, np.arange(len(vectors) + 1)).tolist()
    num_ahead, in_doubt = [], []
    for number, of_query in enumerate(thresholds):
        span = slice(bounds[number], bounds[number + 1])
        certain, doubtful = _certainly_ahead(values[span], of_query, bound)
        num_ahead.append(certain)
        if doubtful is not None:
            in_doubt.append((number, span, span.start + doubtful))
    if in_doubt:
        again = np.concatenate([doubtful for _, _, doubtful in in_doubt])
        if is_product_cheaper(len(again), similarity.size):
            values = similarities(vectors, gallery).reshape(-1)[flat]
        else:
            values[again] = pair_similarities(vectors, gallery, rows[again], columns[again])
    for number, span, _ in in_doubt:
        num_ahead[number] = _num_ahead(values[span], thresholds[number])
    return num_ahead


def _certainly_ahead(values, thresholds, bound):
    """How many float32 values are certainly ahead of each positive, and which are in doubt.

    Where so many are certainly ahead that a positive is beyond place R, no more need be known.

    Returns:
        int64 array (R,); indices of values, or None where there is no doubt.
    """
    order = values.argsort()
    ranked = values[order]
    low = ranked.searchsorted(thresholds - bound)
    high = ranked.searchsorted(thresholds + bound)
    num_ahead = len(values) - high
    within = np.arange(1, len(thresholds) + 1) + num_ahead <= len(thresholds)
    within &= low < high
    if not within.any():
        return num_ahead, None
    steps = np.bincount(low[within], minlength=len(values) + 1)
    steps -= np.bincount(high[within], minlength=len(values) + 1)
    return num_ahead, order[np.cumsum(steps[:-1]) > 0]


def _num_ahead(values, thresholds):
    return len(values) - np.sort(values).searchsorted(thresholds)


def _query_scores(num_ahead):
    """R-Precision and average precision of one query: int (R,), negatives ahead of positives."""
    num_relevant = len(num_ahead)
    if not num_relevant:
        return np.nan, np.nan
    places = np.arange(1, num_relevant + 1)
    ranks = places + num_ahead
    within = ranks <= num_relevant
    # no order of summation of its own
    precisions = math.fsum((places / ranks)[within].tolist())
    return np.count_nonzero(within) / num_relevant, precisions / num_relevant
