"""Every metric of a set of embeddings in one call, with intervals and counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from keras_ms.arguments import Tensor, class_ids, whole_number
from keras_ms.evaluation.average_precision import precision_at_r
from keras_ms.evaluation.class_bootstrap import NUM_RESAMPLES, class_bootstrap
from keras_ms.evaluation.clustering import cluster_embeddings, cluster_scores, require_scikit_learn
from keras_ms.evaluation.inputs import checked_embeddings
from keras_ms.evaluation.ranks import best_positive_ranks
from keras_ms.evaluation.retrieval import checked_ks
from keras_ms.terminal.counted import counted
from keras_ms.terminal.keras_progress import work_progress
from keras_ms.terminal.progress import print_line, shown_progress

# what is measured by default needs no further package and takes about two products of all pairs
RETRIEVAL_METRICS = ("recall", "r_precision", "map_at_r")
CLUSTER_METRICS = ("nmi", "ami", "f1")
METRICS = RETRIEVAL_METRICS + CLUSTER_METRICS


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_embeddings` found.

    Attributes:
        values: metric name to float: "recall@1" and so on, "r_precision", "map_at_r", "nmi",
            "ami", "f1", those that were asked for, in that order.
        intervals: name of a retrieval metric to (low, high), 95 % by bootstrap over classes; empty
            where none was asked for or only one class was scored.
        recall_per_class: class id to Recall@K of its queries, K the first of `ks`; empty without
            the metric "recall". Classes whose queries were all skipped are not in it.
        num_queries, num_items: queries, and gallery items they search.
        num_skipped: queries without a relevant item, left out of the retrieval metrics; None
            where none of these were asked for.
        num_classes: classes among queries and gallery.
        num_clusters: clusters that k-means found; None where none were asked for.
        num_resamples: of the bootstrap.
        ranks: int64 (N,), for each embedding the rank of its best positive; 0 for skipped queries
            and for what is no query. None without the metric "recall".
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    recall_per_class: dict[int, float] = field(default_factory=dict)
    num_queries: int = 0
    num_items: int = 0
    num_skipped: int | None = None
    num_classes: int = 0
    num_clusters: int | None = None
    num_resamples: int = 0
    # equality of arrays is none of one answer
    ranks: np.ndarray | None = field(default=None, repr=False, compare=False)

    def table(self) -> str:
        """The values as a Markdown table, with a line about the counts above."""
        lines = [
            f"{counted(self.num_queries, 'query', 'queries')} in {counted(self.num_items, 'item')}"
            f", {counted(self.num_classes, 'class', 'classes')}" + self._skipped(),
            "",
            "| metric | value | 95 % interval |",
            "|---|---|---|",
        ]
        for name, value in self.values.items():
            low_high = self.intervals.get(name)
            interval = f"{low_high[0]:.4f} – {low_high[1]:.4f}" if low_high else "–"
            lines.append(f"| {name} | {value:.4f} | {interval} |")
        if self.intervals:
            lines += [
                "",
                f"Intervals: bootstrap over classes, {counted(self.num_resamples, 'resample')}.",
            ]
        return "\n".join(lines)

    def _skipped(self):
        if self.num_skipped is None:
            return ""
        queries = counted(self.num_skipped, "query", "queries")
        return f"; {queries} skipped (no other item of their class)"


def evaluate_embeddings(
    embeddings: Tensor,
    labels: Tensor,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    metrics: Sequence[str] = RETRIEVAL_METRICS,
    is_query: Tensor | None = None,
    is_gallery: Tensor | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    verbose: bool = False,
) -> Evaluation:
    """Recall@K, R-Precision, MAP@R, NMI, AMI and F1 of embeddings, as asked for.

    Without `is_query` and `is_gallery` every image searches all others. With them the queries
    search the gallery; an image may be both, and then leaves itself out, by its index. Images that
    are neither are ignored. The cluster metrics take queries and gallery together.

    Reference: R-Precision and MAP@R: Musgrave, Belongie, Lim: A Metric Learning Reality Check, ECCV
    2020.

    Relations: `keras_ms.recall_at_k` alone for Recall@K, without intervals;
    `keras_ms.collect_report` for a page with the queries behind the figures; `keras-ms evaluate`
    for a model's file.

    Args:
        embeddings: float array or tensor of any backend, (N, dimension); L2-normalised inside.
        labels: class ids, any integer dtype, (N,) or (N, 1).
        ks: the values of K. Defaults to (1, 2, 4, 8), usual for CUB-200.
        metrics: names of `keras_ms.evaluation.METRICS`. Defaults to ("recall", "r_precision",
            "map_at_r"); "nmi", "ami" and "f1" need scikit-learn (the extra `evaluation`) and
            k-means with as many clusters as classes, which takes far longer than the others.
        is_query, is_gallery: bool (N,). Defaults to None: all.
        num_resamples: times that classes are drawn for the intervals; 0: no intervals. Defaults
            to 1000.
        seed: of the bootstrap and of k-means. Defaults to 0.
        verbose: show progress: a bar on a terminal, else a line every half minute. Defaults to
            False.

    Returns:
        An `Evaluation`.

    Raises:
        ImportError: cluster metrics without scikit-learn.
        ValueError: an unknown metric, wrong shapes or dtypes, NaN or infinity, no query or no
            gallery, or no query with a relevant item.

    Example:
        >>> result = evaluate_embeddings([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [7, 7, 8], ks=(1,))
        >>> result.values
        {'recall@1': 1.0, 'r_precision': 1.0, 'map_at_r': 1.0}
    """
    ks, metrics = checked_ks(ks), checked_metrics(metrics)
    num_resamples = whole_number("num_resamples", num_resamples, least=0)
    embeddings = checked_embeddings(embeddings, "embeddings")
    labels = class_ids(labels, rows=len(embeddings))
    query_rows = _flagged_rows(is_query, len(embeddings), "is_query")
    gallery_rows = _flagged_rows(is_gallery, len(embeddings), "is_gallery")
    used = np.union1d(query_rows, gallery_rows)
    search_arguments = _search_arguments(embeddings, labels, query_rows, gallery_rows)

    verbosity = shown_progress() if verbose else 0
    scores, skipped, query_ranks = _query_scores(search_arguments, metrics, ks, verbosity)
    values, intervals, per_class, ranks = {}, {}, {}, None
    scored_labels = labels[query_rows][~skipped]
    if scores:
        if skipped.all():
            raise ValueError(
                "Retrieval metrics need a query whose class has another item to find. Received "
                f"{len(query_rows)} queries, none with one. Check the labels, or give more images "
                "of each class."
            )
        columns = np.stack([score[~skipped] for score in scores.values()], axis=1)
        values = dict(zip(scores, columns.mean(axis=0).tolist()))
        if num_resamples and len(np.unique(scored_labels)) > 1:
            ends = class_bootstrap(
                columns,
                scored_labels,
                num_resamples=num_resamples,
                seed=seed,
                progress=work_progress("intervals", verbosity, unit="draws of classes"),
            )
            intervals = dict(zip(scores, map(tuple, ends.T.tolist())))
    if query_ranks is not None:
        ranks = np.zeros(len(embeddings), np.int64)
        ranks[query_rows] = query_ranks
        per_class = _mean_per_class(scores[f"recall@{ks[0]}"][~skipped], scored_labels)

    num_clusters, num_classes = None, len(np.unique(labels[used]))
    if set(metrics) & set(CLUSTER_METRICS):
        if verbose:
            print_line(f"k-means, {num_classes:,} clusters")
        clusters = cluster_embeddings(embeddings[used], num_classes, seed=seed)
        clustering = cluster_scores(labels[used], clusters)
        values |= {name: getattr(clustering, name) for name in CLUSTER_METRICS if name in metrics}
        num_clusters = clustering.num_clusters
    return Evaluation(
        values,
        intervals,
        per_class,
        num_queries=len(query_rows),
        num_items=len(gallery_rows),
        num_skipped=int(np.count_nonzero(skipped)) if scores else None,
        num_classes=num_classes,
        num_clusters=num_clusters,
        num_resamples=num_resamples if intervals else 0,
        ranks=ranks,
    )


def _search_arguments(embeddings, labels, query_rows, gallery_rows):
    """Arguments of the retrieval metrics."""
    if len(query_rows) == len(gallery_rows) == len(embeddings):
        return {"embeddings": embeddings, "labels": labels}
    position = np.full(len(embeddings), -1)
    position[gallery_rows] = np.arange(len(gallery_rows))
    return {
        "embeddings": embeddings[query_rows],
        "labels": labels[query_rows],
        "gallery_embeddings": embeddings[gallery_rows],
        "gallery_labels": labels[gallery_rows],
        "query_positions": position[query_rows],
    }


def _query_scores(search_arguments, metrics, ks, verbosity):
    """{name: score of each query} of the retrieval metrics, which queries are skipped, ranks."""
    num_queries = len(search_arguments["labels"])
    scores, skipped, ranks = {}, np.zeros(num_queries, bool), None
    if "recall" in metrics:
        progress = work_progress("Recall@K", verbosity, unit="queries")
        ranks = best_positive_ranks(**search_arguments, progress=progress)
        skipped = ranks == 0
        scores |= {f"recall@{k}": ranks <= k for k in ks}
    if {"r_precision", "map_at_r"} & set(metrics):
        progress = work_progress("R-Precision, MAP@R", verbosity, unit="queries")
        precision = precision_at_r(**search_arguments, progress=progress)
        skipped = precision.num_relevant == 0
        by_name = {"r_precision": precision.r_precision, "map_at_r": precision.average_precision}
        scores |= {name: score for name, score in by_name.items() if name in metrics}
    return scores, skipped, ranks


def _mean_per_class(scores, labels):
    classes, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.bincount(members, scores) / sizes
    return dict(zip(classes.tolist(), means.tolist()))


def checked_metrics(metrics: Sequence[str]) -> list[str]:
    """The names in the order of `METRICS`, else a ValueError; scikit-learn if they need it."""
    given = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    unknown = [name for name in given if name not in METRICS]
    if unknown or not given:
        raise ValueError(
            f"Expected `metrics` to be some of {METRICS}. Received: {', '.join(map(repr, given))}"
        )
    if set(given) & set(CLUSTER_METRICS):
        require_scikit_learn()
    return [name for name in METRICS if name in given]


def _flagged_rows(flags, count, name):
    """Rows whose flag is set; all of them without flags."""
    if flags is None:
        return np.arange(count)
    flags = np.asarray(flags)
    if flags.dtype != bool or flags.shape != (count,):
        raise ValueError(
            f"Expected `{name}` as booleans, one for each of {count} rows. "
            f"Received: {flags.dtype} of shape {flags.shape}"
        )
    if not flags.any():
        raise ValueError(f"`{name}` is False for all of {count} rows: nothing to evaluate")
    return np.flatnonzero(flags)
