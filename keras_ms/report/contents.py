"""What the report says: plain data, collected from embeddings and their images."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.evaluation.all_metrics import METRICS, RETRIEVAL_METRICS, evaluate_embeddings
from keras_ms.report.choice_section import Choice
from keras_ms.report.embedding_map import check_map_library, map_embeddings
from keras_ms.report.pair_sweep import PairSweep, sweep_pairs
from keras_ms.terminal.progress import progress_lines

# rows that one looks through; each is a class of its own
_NUM_QUERIES = 8
_NUM_CONFUSIONS = 12
_EXAMPLES = 4
# the pictures of so many stay within ten megabytes, and t-SNE within a minute
_MAP_IMAGES = 4000
# a longer table is not read; the classes that the page speaks of are always in it
_CLASS_ROWS = 250
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


class QueryRow(NamedTuple):
    """A query and what it finds."""

    image: int
    rank: int  # of the first image of its class; 1 is best
    margin: float  # best positive's similarity minus best negative's


class Confusion(NamedTuple):
    """Two classes whose images find each other first."""

    first: int  # class ids
    second: int
    first_to_second: int  # queries of `first` whose nearest neighbour is of `second`
    second_to_first: int
    share: float  # of the queries of both
    examples: list  # (query, neighbour), most similar first


class ClassRow(NamedTuple):
    label: int
    num_images: int
    recall_at_1: float  # NaN for a class of whose queries none has a match to find
    similarity: float  # mean similarity of its queries to their best positive; NaN likewise
    confused_with: int  # class found first most often by mistake; -1 for none


@dataclass
class Report:
    """Everything on the page. Numbers that stand for images are rows of `images`."""

    images: ImageList
    metrics: list  # of `Metric`, Recall@K first
    num_queries: int
    num_items: int  # images that the queries search
    num_skipped: int  # queries without another image of their class
    sweep: PairSweep
    ranks: np.ndarray  # (N,) of the best positive, 0 for skipped queries and other images
    best_queries: list
    worst_queries: list
    confusions: list
    classes: list
    num_classes: int
    map_images: np.ndarray  # (M,) images on the map
    places: np.ndarray  # (M, 2) from 0 to 1
    unseen: bool  # whether the embedder was trained on none of these classes
    title: str = ""
    facts: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    pictures: dict = field(default_factory=dict)
    levels: dict = field(default_factory=dict)
    choice: Choice = None
    remarks: list = field(default_factory=list)


def collect_report(
    embeddings,
    images,
    ks=(1, 2, 4, 8),
    *,
    title=None,
    unseen=False,
    facts=None,
    settings=None,
    history=None,
    pictures=None,
    levels=None,
    choice=None,
    remarks=None,
    num_map_images=_MAP_IMAGES,
    seed=0,
    log=None,
):
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
        facts: dict of what to say about data and model, text by name.
        settings: dict of the run's settings.
        history: list of dicts with "step", "loss" and "…recall@K", as in history.csv.
        pictures: dict of PNG files by title, shown with the history.
        levels: dict of Recall@1 by name, lines across the history's Recall@K: what is reached
            without training.
        choice: `keras_ms.report.choice_section.Choice`, among which embedders this one was
            chosen.
        remarks: list of sentences that stand in the summary.
        num_map_images: most images on the map; of more, evenly chosen ones and all those that
            the page shows elsewhere. Defaults to 4,000: a page of about ten megabytes.
        seed: of the map, the intervals and k-means.
        log: function that takes a line of text, told what takes long.

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
    found = evaluate_embeddings(
        embeddings,
        labels,
        ks=ks,
        metrics=METRICS if small else RETRIEVAL_METRICS,
        is_query=is_query,
        is_gallery=is_gallery,
        seed=seed,
        verbose=log is not None,
    )
    ranks = found.ranks
    compared = progress_lines("neighbours and margins", len(images), tell)
    sweep = sweep_pairs(embeddings, labels, is_gallery=is_gallery, progress=compared)
    best, worst = _extreme_queries(sweep, ranks, labels)
    confusions = _confusions(sweep, ranks, labels)
    shown = [row.image for row in best + worst]
    shown += [i for row in best + worst for i in sweep.neighbours[row.image]]
    shown += [i for pair in confusions for example in pair.examples for i in example]
    map_images = _evenly(len(images), num_map_images, shown)
    tell(f"Arranging {len(map_images):,} images on the map")
    named = {images.labels[i] for i in shown}
    return Report(
        images=images,
        metrics=[
            Metric(_NAMES.get(name, name.capitalize()), value, *found.intervals.get(name, ()))
            for name, value in found.values.items()
        ],
        num_queries=found.num_queries,
        num_items=found.num_items,
        num_skipped=found.num_skipped,
        sweep=sweep,
        ranks=ranks,
        best_queries=best,
        worst_queries=worst,
        confusions=confusions,
        classes=_class_rows(sweep, ranks, labels, named),
        num_classes=num_classes,
        map_images=map_images,
        places=map_embeddings(embeddings[map_images], seed=seed),
        unseen=unseen,
        title=title or images.name,
        facts=dict(facts or {}),
        settings=dict(settings or {}),
        history=list(history or []),
        pictures=dict(pictures or {}),
        levels=dict(levels or {}),
        choice=choice,
        remarks=list(remarks or []),
    )


def _extreme_queries(sweep, ranks, labels):
    margins = sweep.best_positive - sweep.best_negative
    scored = np.flatnonzero((ranks > 0) & np.isfinite(margins))
    order = scored[np.argsort(margins[scored], kind="stable")]
    # right and wrong never overlap, however few the queries
    worst = _one_a_class([i for i in order if ranks[i] > 1], labels)
    best = _one_a_class([i for i in order[::-1] if ranks[i] == 1], labels)
    return [
        [QueryRow(int(i), int(ranks[i]), float(margins[i])) for i in chosen]
        for chosen in (best, worst)
    ]


def _one_a_class(order, labels):
    chosen = {}
    for image in order:
        if len(chosen) == _NUM_QUERIES:
            break
        chosen.setdefault(labels[image], image)
    return list(chosen.values())


def _confusions(sweep, ranks, labels):
    nearest = labels[sweep.neighbours[:, 0]]
    wrong = np.flatnonzero((ranks > 0) & (nearest != labels))
    queries = _counts(labels[ranks > 0])
    mistakes = {}
    for image in wrong:
        pair = tuple(sorted((int(labels[image]), int(nearest[image]))))
        mistakes.setdefault(pair, []).append(int(image))
    found = []
    for (first, second), members in mistakes.items():
        members.sort(key=lambda i: -sweep.neighbour_similarity[i, 0])
        from_first = sum(int(labels[i]) == first for i in members)
        share = len(members) / (queries.get(first, 0) + queries.get(second, 0))
        found.append(
            Confusion(
                first,
                second,
                from_first,
                len(members) - from_first,
                share,
                _different(members, sweep.neighbours[:, 0]),
            )
        )
    found.sort(key=lambda pair: (-pair.first_to_second - pair.second_to_first, -pair.share))
    return found[:_NUM_CONFUSIONS]


def _different(queries, nearest):
    """Pairs (query, neighbour) that do not show the same two images the other way round."""
    pairs = {}
    for query in queries:
        neighbour = int(nearest[query])
        pairs.setdefault(frozenset((query, neighbour)), (query, neighbour))
    return list(pairs.values())[:_EXAMPLES]


def _class_rows(sweep, ranks, labels, named):
    nearest = labels[sweep.neighbours[:, 0]]
    order = np.argsort(labels, kind="stable")
    rows = []
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        label, scored = labels[members[0]], members[ranks[members] > 0]
        mistaken = _counts(nearest[scored][nearest[scored] != label])
        rows.append(
            ClassRow(
                int(label),
                len(members),
                float(np.mean(ranks[scored] == 1)) if len(scored) else float("nan"),
                float(np.mean(sweep.best_positive[scored])) if len(scored) else float("nan"),
                max(mistaken, key=mistaken.get) if mistaken else -1,
            )
        )
    # NaN last: nothing can be said where no query has a match
    rows.sort(key=lambda row: (np.isnan(row.recall_at_1), row.recall_at_1, row.similarity))
    named = named | {row.confused_with for row in rows[:_CLASS_ROWS]}
    return [row for i, row in enumerate(rows) if i < _CLASS_ROWS or row.label in named]


def _counts(labels):
    return {int(a): int(b) for a, b in zip(*np.unique(labels, return_counts=True))}


def _evenly(count, most, always):
    if count <= most:
        return np.arange(count)
    # rows are usually sorted by class: equal steps take from each in proportion
    chosen = np.linspace(0, count - 1, most).astype(np.int64)
    return np.unique(np.concatenate([chosen, np.asarray(always, np.int64)]))
