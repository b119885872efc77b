"""How far a figure would move with other test classes: the bootstrap over classes."""

import numpy as np

from keras_ms.arguments import Tensor, real_number, whole_number
from keras_ms.terminal.progress import Progress

# The ends of a 95 % interval then rest on 25 resamples each, and move by about a tenth of the
# interval's half width from seed to seed: enough for the digits that are reported.
NUM_RESAMPLES = 1000


def class_bootstrap(
    scores: Tensor,
    labels: Tensor,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Percentile interval of the mean score when test classes are drawn anew.

    Images of one class are alike, so they do not count as independent: whole classes are drawn
    with replacement, as many as there are, and the mean is taken over the images of those drawn.

    Args:
        scores: float (num_queries,), one score for each query, such as `ranks <= K`; or
            (num_queries, num_metrics). Leave skipped queries out.
        labels: class ids, (num_queries,).
        num_resamples: times that classes are drawn. Defaults to 1000.
        confidence: share of the resamples inside the interval. Defaults to 0.95.
        seed: of the drawing; the same seed gives the same interval.
        progress: called with (draws done, draws in all) now and then.

    Returns:
        float64 array (2,), lower and upper end, or (2, num_metrics).

    Raises:
        ValueError: lengths that differ, NaN, fewer than 2 classes, options out of range.

    Example:
        >>> low, high = class_bootstrap([1, 1, 0, 1, 0, 0], [0, 0, 1, 1, 2, 2])
        >>> print(low <= 0.5 <= high)
        True
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels).reshape(-1)
    if scores.ndim not in (1, 2) or len(scores) != len(labels) or not np.isfinite(scores).all():
        raise ValueError(
            "Expected finite `scores` of shape (num_queries,) or (num_queries, num_metrics) and as "
            f"many `labels`. Received shapes: {scores.shape}, {labels.shape}"
        )
    num_resamples = whole_number("num_resamples", num_resamples)
    confidence = real_number("confidence", confidence, above=0, below=1)
    classes, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"A bootstrap over classes needs at least 2 of them. Received: {len(classes)}"
        )
    columns = scores.reshape(len(scores), -1)
    sums = np.stack([np.bincount(members, column) for column in columns.T], axis=1)
    random = np.random.default_rng(seed)
    means = np.empty((num_resamples, columns.shape[1]))
    for number in range(num_resamples):
        drawn = random.integers(len(classes), size=len(classes))
        times = np.bincount(drawn, minlength=len(classes))
        means[number] = times @ sums / (times @ sizes)
        if progress and number % 100 == 99:
            progress(number + 1, num_resamples)
    ends = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return ends[:, 0] if scores.ndim == 1 else ends
