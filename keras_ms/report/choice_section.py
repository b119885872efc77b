"""What was chosen, and among what: the candidates of a run, and the section about them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from keras_ms.report.blocks import section, table
from keras_ms.report.charts import NUM_COLOURS, close_range, line_chart
from keras_ms.report.markup import Markup, percent, tag

# a longer table is folded up
_ROWS_TO_SHOW = 8
_START = "before training"


class MeasuredCandidate(NamedTuple):
    """An embedder that might have been chosen."""

    learning_rate: float
    steps: int
    alpha: float  # share of the trained weights: 0, the network before training, to 1
    recall: dict[int, float]  # K to Recall@K; empty where training diverged
    start: str = ""  # of the head, where several were tried


@dataclass(frozen=True)
class Choice:
    """What a run measured to choose its embedder.

    Attributes:
        by: how the candidates were measured, in words such as "3 folds over 100 training classes".
        candidates: what was tried.
        chosen: which of them, its place in the list.
        pooled_features: Recall@K, by K, of the backbone's features, measured likewise; empty if
            they were not.
        step_0: that of the network before training, likewise.

    Raises:
        ValueError: `chosen` is no place in the list.
    """

    by: str
    candidates: list[MeasuredCandidate]
    chosen: int
    pooled_features: dict[int, float]
    step_0: dict[int, float]

    def __post_init__(self) -> None:
        if not 0 <= self.chosen < len(self.candidates):
            raise ValueError(
                f"Expected `chosen` as the place of one of {len(self.candidates)} candidates, "
                f"from 0 on. Received: {self.chosen}"
            )

    def levels(self) -> dict[str, float]:
        """Recall@1 of what needed no training, by name."""
        untrained = {"pooled features": self.pooled_features, _START: self.step_0}
        return {name: recall[1] for name, recall in untrained.items() if 1 in recall}

    def training(self, candidate: MeasuredCandidate) -> str:
        """The training that a candidate comes from, in words."""
        words = f"learning rate {candidate.learning_rate:g}, {candidate.steps:,} steps"
        return f"{candidate.start} start, {words}" if self.has_starts() else words

    def has_starts(self) -> bool:
        """Whether the candidates differ in their start."""
        return len({candidate.start for candidate in self.candidates}) > 1


def choice_section(choice: Choice | None) -> Markup | None:
    """`Markup` of the section; None without a `Choice`."""
    if choice is None:
        return None
    curves, left_out = _curves(choice)
    chart = None
    if len({candidate.alpha for candidate in choice.candidates}) > 1 and curves:
        every = [y for points in curves.values() for _, y in points]
        every += choice.levels().values()
        best = choice.candidates[choice.chosen]
        chart = line_chart(
            f"Recall@1 by the share of the trained weights. {_result(choice)}",
            curves,
            x_name="share of the trained weights",
            y_range=close_range(every, lowest=0, highest=1),
            levels=choice.levels(),
            mark=("chosen", best.alpha, best.recall[1]) if 1 in best.recall else None,
        )
    note = None
    if chart is not None and left_out:
        note = tag(
            "p",
            f"Of {len(curves) + left_out} trainings, the chosen one and those that "
            "reached most are drawn; the table has all.",
            class_="note",
        )
    return section(
        "choice",
        "What was chosen",
        tag("p", _words(choice)),
        tag("p", _result(choice)),
        chart,
        note,
        _table(choice),
    )


def _words(choice):
    count = len(choice.candidates)
    words = (
        "More training is not always better: a network can learn the training classes so well "
        "that it finds less among classes that it never saw. "
        f"So {count:,} embedders were tried on such classes ({choice.by}), and one was chosen by "
        "what they found there."
    )
    if len({candidate.alpha for candidate in choice.candidates}) > 1:
        words += (
            " Some are mixtures: their weights lie between those before training (share 0) and "
            "those after it (share 1), which often finds more than either."
        )
    return words


def _result(choice):
    best = choice.candidates[choice.chosen]
    words = f"Chosen: {choice.training(best)}, share {best.alpha:g} of the trained weights"
    recalls = [f"{percent(recall, 1)} {name}" for name, recall in choice.levels().items()]
    if 1 in best.recall:
        recalls.insert(0, f"Recall@1 {percent(best.recall[1], 1)}")
    return f"{words}. {'; '.join(recalls)}." if recalls else f"{words}."


def _curves(choice):
    """({name: [(share, Recall@1)]} of as many trainings as can be told apart, how many are not)."""
    curves = {}
    for candidate in choice.candidates:
        points = curves.setdefault(choice.training(candidate), [])
        if math.isfinite(candidate.recall.get(1, math.nan)):
            points.append((candidate.alpha, candidate.recall[1]))
    chosen = choice.training(choice.candidates[choice.chosen])
    drawn = {name: sorted(points) for name, points in curves.items() if points}
    best = sorted(drawn, key=lambda name: (name != chosen, -max(y for _, y in drawn[name])))
    kept = {name: drawn[name] for name in drawn if name in best[:NUM_COLOURS]}
    return kept, len(curves) - len(kept)


def _table(choice):
    ks = sorted({k for candidate in choice.candidates for k in candidate.recall})
    starts = choice.has_starts()
    names = ("Start",) * starts + (
        "Learning rate", "Steps", "Share trained", *(f"Recall@{k}" for k in ks), "",
    )  # fmt: skip
    head = tag("tr", *(tag("th", name, scope="col", class_="number") for name in names))
    order = sorted(
        range(len(choice.candidates)),
        # NaN, of a training that diverged, last
        key=lambda n: -choice.candidates[n].recall.get(1, -1.0),
    )
    rows = []
    for number in order:
        candidate, chosen = choice.candidates[number], number == choice.chosen
        values = (*(candidate.start,) * starts,
                  f"{candidate.learning_rate:g}", f"{candidate.steps:,}", f"{candidate.alpha:g}",
                  *(percent(candidate.recall[k], 1) if k in candidate.recall else "–" for k in ks),
                  "chosen" if chosen else "")  # fmt: skip
        rows.append(
            tag(
                "tr",
                *(tag("td", value, class_="number") for value in values),
                class_="chosen" if chosen else None,
            )
        )
    if len(rows) <= _ROWS_TO_SHOW:
        return table(rows, head)
    return tag("details", tag("summary", f"All {len(rows):,} that were tried"), table(rows, head))
