"""What stands out among the queries: the best and worst, confused classes, each class's figures."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from keras_ms.report.pair_sweep import PairSweep

# rows that one looks through; each is a class of its own
_NUM_QUERIES = 8
_NUM_CONFUSIONS = 12
_EXAMPLES = 4
# a longer table is not read; the classes that the page speaks of are always in it
_CLASS_ROWS = 250


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
    examples: list[tuple[int, int]]  # (query, neighbour), most similar first


class ClassRow(NamedTuple):
    """What the queries of a class find."""

    label: int
    num_images: int
    recall_at_1: float  # NaN for a class of whose queries none has a match to find
    similarity: float  # mean similarity of its queries to their best positive; NaN likewise
    confused_with: int  # class found first most often by mistake; -1 for none


def best_and_worst_queries(
    sweep: PairSweep, ranks: np.ndarray, *, labels: np.ndarray
) -> tuple[list[QueryRow], list[QueryRow]]:
    """The queries with the largest and with the smallest margin, one a class.

    Args:
        sweep: over all images.
        ranks: (N,) of each query's best positive, 0 for other images.
        labels: class ids (N,).
    """
    margins = sweep.best_positive - sweep.best_negative
    scored = np.flatnonzero((ranks > 0) & np.isfinite(margins))
    order = scored[np.argsort(margins[scored], kind="stable")]
    # right and wrong never overlap, however few the queries
    worst = _one_a_class([i for i in order if ranks[i] > 1], labels)
    best = _one_a_class([i for i in order[::-1] if ranks[i] == 1], labels)
    best_rows, worst_rows = (
        [QueryRow(int(i), int(ranks[i]), float(margins[i])) for i in chosen]
        for chosen in (best, worst)
    )
    return best_rows, worst_rows


def _one_a_class(order, labels):
    chosen = {}
    for image in order:
        if len(chosen) == _NUM_QUERIES:
            break
        chosen.setdefault(labels[image], image)
    return list(chosen.values())


def confused_classes(sweep: PairSweep, ranks: np.ndarray, *, labels: np.ndarray) -> list[Confusion]:
    """Pairs of classes by how often a query of the one finds an image of the other first.

    Args:
        sweep, ranks, labels: as in `best_and_worst_queries`.
    """
    nearest = labels[sweep.neighbours[:, 0]]
    wrong = np.flatnonzero((ranks > 0) & (nearest != labels))
    queries = _counts(labels[ranks > 0])
    mistakes = {}
    for image in wrong:
        pair = tuple(sorted((int(labels[image]), int(nearest[image]))))
        mistakes.setdefault(pair, []).append(int(image))
    confusions = []
    for (first, second), members in mistakes.items():
        members.sort(key=lambda i: -sweep.neighbour_similarity[i, 0])
        from_first = sum(int(labels[i]) == first for i in members)
        share = len(members) / (queries.get(first, 0) + queries.get(second, 0))
        confusions.append(
            Confusion(
                first,
                second,
                from_first,
                len(members) - from_first,
                share,
                _different_pairs(members, sweep.neighbours[:, 0]),
            )
        )
    confusions.sort(key=lambda pair: (-pair.first_to_second - pair.second_to_first, -pair.share))
    return confusions[:_NUM_CONFUSIONS]


def _different_pairs(queries, nearest):
    """Pairs (query, neighbour) that do not show the same two images the other way round."""
    pairs = {}
    for query in queries:
        neighbour = int(nearest[query])
        pairs.setdefault(frozenset((query, neighbour)), (query, neighbour))
    return list(pairs.values())[:_EXAMPLES]


def class_rows(
    sweep: PairSweep, ranks: np.ndarray, *, labels: np.ndarray, always: Iterable[int]
) -> list[ClassRow]:
    """The hardest classes first: as many as are read, with those that must be there.

    Args:
        sweep, ranks, labels: as in `best_and_worst_queries`.
        always: class ids that the page speaks of elsewhere.
    """
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
                max(mistaken, key=mistaken.__getitem__) if mistaken else -1,
            )
        )
    # NaN last: nothing can be said where no query has a match
    rows.sort(key=lambda row: (np.isnan(row.recall_at_1), row.recall_at_1, row.similarity))
    always = {*always, *(row.confused_with for row in rows[:_CLASS_ROWS])}
    return [row for i, row in enumerate(rows) if i < _CLASS_ROWS or row.label in always]


def _counts(labels):
    return {int(a): int(b) for a, b in zip(*np.unique(labels, return_counts=True))}


def pictured_images(
    sweep: PairSweep, queries: Sequence[QueryRow], confusions: Sequence[Confusion]
) -> list[int]:
    """Rows of all images that the page shows beside the map."""
    images = [row.image for row in queries]
    images += [int(i) for row in queries for i in sweep.neighbours[row.image]]
    return images + [i for pair in confusions for example in pair.examples for i in example]
