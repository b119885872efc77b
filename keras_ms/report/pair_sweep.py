"""One sweep over all pairs of images, block by block: neighbours, margins and histograms."""

from typing import Any, NamedTuple

import numpy as np

from keras_ms.evaluation.inputs import unit_rows
from keras_ms.terminal.progress import Progress

# Similarities held at a time, whatever the number of images: 16 MB of float32, and with the order
# of each row and the masks about 100 MB.
_BLOCK_PAIRS = 2**22
# Counting every pair of a large set would take longer than the search for the neighbours; this
# many pairs place each of the bins to within a thousandth of the whole.
_HISTOGRAM_PAIRS = 2**25
NUM_BINS = 100


class PairSweep(NamedTuple):
    """What one sweep over the similarities of N images keeps."""

    neighbours: np.ndarray  # (N, k) rows of the most similar other images, most similar first
    neighbour_similarity: np.ndarray  # (N, k) float32
    best_positive: np.ndarray  # (N,) largest similarity to an image of the class; NaN if alone
    best_negative: np.ndarray  # (N,) to an image of another class; NaN if there is none
    edges: np.ndarray  # (bins + 1,) of the histograms' bins, at most 100, over what occurs
    # (bins,) pairs of one class, an image and another one of the gallery: two images of the
    # gallery, which without `is_gallery` all are, make two pairs
    positive_counts: np.ndarray
    negative_counts: np.ndarray  # (bins,) pairs of two classes, likewise
    positive_mean: float  # NaN where there is no such pair
    negative_mean: float
    num_sampled: int  # queries whose pairs the histograms count


def sweep_pairs(
    embeddings: Any,
    labels: Any,
    *,
    num_neighbours: int = 6,
    is_gallery: np.ndarray | None = None,
    block_pairs: int = _BLOCK_PAIRS,
    progress: Progress | None = None,
) -> PairSweep:
    """Compares every image with every other one of the gallery, and keeps what a report shows.

    Args:
        embeddings: float (N, dimension), N at least 2; compared by their cosine, in float32.
        labels: integer class ids, (N,).
        num_neighbours: neighbours to keep of each image. Defaults to 6, one row of a page; at
            most all of the gallery but one.
        is_gallery: bool (N,), the images to find. Defaults to None: all.
        block_pairs: most similarities held at a time.
        progress: called with (items done, items in all) now and then.

    Returns:
        A `PairSweep`. Its histograms count the pairs of all images, or of about 2**25 pairs'
        worth of evenly chosen ones.

    Raises:
        ValueError: fewer than 2 images to find.

    Example:

    >>> sweep = sweep_pairs([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [7, 7, 8])
    >>> sweep.neighbours[:, 0]
    array([1, 0, 1])
    """
    unit = unit_rows(np.asarray(embeddings))
    labels = np.asarray(labels).reshape(-1)
    count = len(unit)
    gallery = np.arange(count) if is_gallery is None else np.flatnonzero(is_gallery)
    if len(gallery) < 2:
        raise ValueError(f"Expected at least 2 images in the gallery. Received: {len(gallery)}")
    kept = min(num_neighbours, len(gallery) - 1)
    items, item_labels = unit[gallery].T, labels[gallery]
    neighbours = np.empty((count, kept), np.int64)
    neighbour_similarity = np.empty((count, kept), np.float32)
    best_positive, best_negative = np.empty((2, count), np.float32)
    sampled = np.zeros(count, bool)
    sampled[:: max(1, -(-count * len(gallery) // _HISTOGRAM_PAIRS))] = True
    counts, sums = np.zeros((2, 2 * NUM_BINS), np.int64), np.zeros(2)
    rows_at_once = max(1, block_pairs // len(gallery))
    for start in range(0, count, rows_at_once):
        rows = np.arange(start, min(start + rows_at_once, count))
        similarity = unit[rows] @ items
        # an image is not its own neighbour
        similarity[rows[:, None] == gallery[None, :]] = -np.inf
        nearest = _largest(similarity, kept)
        neighbours[rows] = gallery[nearest]
        neighbour_similarity[rows] = np.take_along_axis(similarity, nearest, axis=1)
        same = labels[rows, None] == item_labels[None, :]
        best_positive[rows] = np.where(same, similarity, -np.inf).max(axis=1)
        best_negative[rows] = np.where(same, -np.inf, similarity).max(axis=1)
        chosen = sampled[rows]
        values, same = similarity[chosen], same[chosen]
        same_pairs = values[same]
        # the image itself, which stands among its class
        same_pairs = same_pairs[np.isfinite(same_pairs)]
        for kind, pairs in enumerate((same_pairs, values[~same])):
            bins = np.clip((pairs + 1) * NUM_BINS, 0, 2 * NUM_BINS - 1).astype(np.int64)
            counts[kind] += np.bincount(bins, minlength=2 * NUM_BINS)
            sums[kind] += pairs.sum(dtype=np.float64)
        if progress is not None:
            progress(int(rows[-1]) + 1, count)
    for best in (best_positive, best_negative):
        best[np.isinf(best)] = np.nan
    edges, counts = _occurring_range(counts)
    means = [s / c.sum() if c.sum() else float("nan") for s, c in zip(sums, counts)]
    return PairSweep(
        neighbours=neighbours,
        neighbour_similarity=neighbour_similarity,
        best_positive=best_positive,
        best_negative=best_negative,
        edges=edges,
        positive_counts=counts[0],
        negative_counts=counts[1],
        positive_mean=means[0],
        negative_mean=means[1],
        num_sampled=int(sampled.sum()),
    )


def _largest(similarity, count):
    """Columns of the `count` largest of each row, largest first; of equal ones the first."""
    if count < similarity.shape[1]:
        columns = np.sort(np.argpartition(-similarity, count - 1, axis=1)[:, :count], axis=1)
        # of those that equal the last one it took any: the first are wanted
        least = np.take_along_axis(similarity, columns, axis=1).min(axis=1, keepdims=True)
        for row in np.flatnonzero((similarity >= least).sum(axis=1) > count):
            above = np.flatnonzero(similarity[row] > least[row])
            equal = np.flatnonzero(similarity[row] == least[row])
            columns[row] = np.sort(np.concatenate([above, equal[: count - len(above)]]))
    else:
        columns = np.broadcast_to(np.arange(count), similarity.shape)
    order = np.argsort(-np.take_along_axis(similarity, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _occurring_range(counts):
    """Cuts 2 · NUM_BINS bins of [-1, 1] to those in use, two merged where those are too many."""
    edges = np.linspace(-1, 1, counts.shape[1] + 1)
    used = np.flatnonzero(counts.any(axis=0))
    if used[-1] + 1 - used[0] > NUM_BINS:
        edges, counts = edges[::2], counts.reshape(2, -1, 2).sum(axis=2)
        used = np.flatnonzero(counts.any(axis=0))
    first, last = used[0], used[-1] + 1
    return edges[first : last + 1], counts[:, first:last]
