"""What the report says: plain data, collected from embeddings and their images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.evaluation.all_metrics import METRICS, RETRIEVAL_METRICS, evaluate_embeddings
from keras_ms.report.choice_section import Choice
from keras_ms.report.embedding_map import check_map_library, map_embeddings
from keras_ms.report.findings import (
    ClassRow,
    Confusion,
    QueryRow,
    best_and_worst_queries,
    class_rows,
    confused_classes,
    pictured_images,
)
from keras_ms.report.pair_sweep import PairSweep, sweep_pairs
from keras_ms.terminal.progress import progress_lines

# the pictures of so many stay within ten megabytes, and t-SNE within a minute
_MAP_IMAGES = 4000
# images × classes × dimensions: k-means with a cluster for each class takes seconds up to here,
# and hours for a set of thousands of classes, whose report comes without the cluster metrics
_MOST_FOR_CLUSTERS = 2 * 10**9

_NAMES = {
    "r_precision": "R-Precision",
    "map_at_r": "MAP@R",
    "nmi": "NMI",
    "ami": "AMI",
    "f1": "Pairwise F1",
}


class Metric(NamedTuple):
    """A figure of the whole set, from 0 to 1."""

    name: str
    value: float
    low: float = float("nan")  # 95 % interval; NaN where there is none
    high: float = float("nan")


@dataclass
class Report:
    """Everything on the page. Numbers that stand for images are rows of `images`."""

    images: ImageList
    metrics: list[Metric]  # Recall@K first
    num_queries: int
    num_items: int  # images that the queries search
    num_skipped: int  # queries without another image of their class
    sweep: PairSweep
    ranks: np.ndarray  # (N,) of the best positive, 0 for skipped queries and other images
    best_queries: list[QueryRow]
    worst_queries: list[QueryRow]
    confusions: list[Confusion]
    classes: list[ClassRow]
    num_classes: int
    map_images: np.ndarray  # (M,) images on the map
    places: np.ndarray  # (M, 2) from 0 to 1
    unseen: bool  # whether the embedder was trained on none of these classes
    title: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    pictures: dict[str, str | Path] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)
    choice: Choice | None = None
    remarks: list[str] = field(default_factory=list)


def collect_report(
    embeddings: Any,
    images: ImageList,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    title: str | None = None,
    unseen: bool = False,
    facts: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, float]] | None = None,
    pictures: Mapping[str, str | Path] | None = None,
    levels: Mapping[str, float] | None = None,
    choice: Choice | None = None,
    remarks: Sequence[str] | None = None,
    num_map_images: int = _MAP_IMAGES,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> Report:
    """Measures embeddings and picks what a page about them shows.

    - Best and worst queries are those with the largest and the smallest margin between the most
      similar image of their class and the most similar one of another; one query a class.
    - Two classes are confused as often as a query of the one finds an image of the other first.
    - Neighbours are searched block by block: no matrix of all pairs is held.
    - Of a list with queries and a gallery, the queries search the gallery.
    - NMI, AMI and F1 are left out of large sets with many classes, where k-means takes hours.

    Args:
        embeddings: float (N, dimension); compared by their cosine.
        images: `ImageList` with the N images in the same order, in memory or as files.
        ks: the K of Recall@K. Defaults to (1, 2, 4, 8).
        title: heading. Defaults to the name of the image list.
        unseen: whether the embedder was trained on none of these classes, which the page then
            says. Defaults to False: nothing is said.
        facts: dict of what to say about data and model, text by name. Defaults to None.
        settings: dict of the run's settings. Defaults to None.
        history: list of dicts with "step", "loss" and "…recall@K", as in history.csv.
        pictures: dict of PNG files by title, shown with the history. Defaults to None.
        levels: dict of Recall@1 by name, lines across the history's Recall@K: what is reached
            without training. Defaults to None.
        choice: `keras_ms.report.choice_section.Choice`, among which embedders this one was chosen.
            Defaults to None.
        remarks: list of sentences that stand in the summary. Defaults to None.
        num_map_images: most images on the map; of more, evenly chosen ones and all those that
            the page shows elsewhere. Defaults to 4,000: a page of about ten megabytes.
        seed: of the map, the intervals and k-means. Defaults to 0.
        log: function that takes a line of text, told what takes long. Defaults to None.

    Returns:
        A `Report`, for `write_report`.

    Raises:
        ValueError: embeddings and images that do not fit together, NaN embeddings, no query with
            another image of its class.
        ImportError: scikit-learn is missing.

    Example:

    >>> images = draw_glyphs(images_per_class=2).subset("test")
    >>> pixels = images.images.reshape(len(images), -1)
    >>> write_report(collect_report(pixels, images), "pixels.html")  # doctest: +SKIP
    """
    check_map_library()
    embeddings, labels = np.asarray(embeddings), images.labels
    if len(embeddings) != len(images):
        raise ValueError(
            "Expected one row of `embeddings` for each image, in the same order. "
            f"Received: {len(embeddings)} rows, {len(images)} images"
        )
    tell = log or (lambda line: None)
    tell(f"Comparing {len(images):,} images")
    num_classes = len(np.unique(labels))
    small = embeddings.size * num_classes <= _MOST_FOR_CLUSTERS
    is_query, is_gallery = images.queries_and_gallery()
    evaluation = evaluate_embeddings(
        embeddings,
        labels,
        ks=ks,
        metrics=METRICS if small else RETRIEVAL_METRICS,
        is_query=is_query,
        is_gallery=is_gallery,
        seed=seed,
        verbose=log is not None,
    )
    ranks, num_skipped = evaluation.ranks, evaluation.num_skipped
    assert ranks is not None and num_skipped is not None  # retrieval is among both METRICS
    compared = progress_lines("neighbours and margins", tell)
    sweep = sweep_pairs(embeddings, labels, is_gallery=is_gallery, progress=compared)
    best, worst = best_and_worst_queries(sweep, ranks, labels=labels)
    confusions = confused_classes(sweep, ranks, labels=labels)
    pictured = pictured_images(sweep, best + worst, confusions)
    map_images = _evenly(len(images), num_map_images, always=pictured)
    tell(f"Arranging {len(map_images):,} images on the map")
    return Report(
        images=images,
        metrics=[
            Metric(
                _NAMES[name] if name in _NAMES else name.capitalize(),
                value,
                *evaluation.intervals.get(name, ()),
            )
            for name, value in evaluation.values.items()
        ],
        num_queries=evaluation.num_queries,
        num_items=evaluation.num_items,
        num_skipped=num_skipped,
        sweep=sweep,
        ranks=ranks,
        best_queries=best,
        worst_queries=worst,
        confusions=confusions,
        classes=class_rows(sweep, ranks, labels=labels, always=labels[pictured].tolist()),
        num_classes=num_classes,
        map_images=map_images,
        places=map_embeddings(embeddings[map_images], seed=seed),
        unseen=unseen,
        title=title or images.name,
        facts=dict(facts or {}),
        settings=dict(settings or {}),
        history=[dict(row) for row in history or ()],
        pictures=dict(pictures or {}),
        levels=dict(levels or {}),
        choice=choice,
        remarks=list(remarks or []),
    )


def _evenly(count, most, always):
    if count <= most:
        return np.arange(count)
    # rows are usually sorted by class: equal steps take from each in proportion
    chosen = np.linspace(0, count - 1, most).astype(np.int64)
    return np.unique(np.concatenate([chosen, np.asarray(always, np.int64)]))
