"""Which weights count: what was measured, on what, and what was chosen."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_ms.run.folder import RunFolder


class MeasuredWeights(NamedTuple):
    """Settings and weights that could be taken.

    Attributes:
        steps: training steps of the trained weights.
        alpha: share of the trained weights, the rest of the start; 0 is the start itself.
        recall: Recall@K on the held-out classes, by K.
        start: start of the head, as in `Settings.model.head_initializer`.
        learning_rate: of the head.
    """

    steps: int
    alpha: float
    recall: dict[int, float]
    start: str
    learning_rate: float

    @property
    def step(self) -> int | None:
        """Training steps whose weights these are: 0 for the start; None for weights in between."""
        return {0.0: 0, 1.0: self.steps}.get(self.alpha)

    @property
    def value(self) -> float:
        """Recall@1, or -1 where the weights hold NaN."""
        return -1.0 if math.isnan(self.recall[1]) else self.recall[1]


class WeightsChoice(NamedTuple):
    """Weights that were measured, and which of them are taken.

    Attributes:
        by: what they were measured on, in words: "3 folds over 40 training classes".
        candidates: list of `MeasuredWeights`.
        chosen: the `MeasuredWeights` taken.
        pooled_features: Recall@K of the features under the head on the same images, by K; None
            where the backbone is not pretrained.
    """

    by: str
    candidates: list[MeasuredWeights]
    chosen: MeasuredWeights
    pooled_features: dict[int, float] | None

    def at_start(self) -> MeasuredWeights:
        """The candidate that the chosen training began with."""
        return self._of_same_kind(alpha=0.0)

    def last(self, steps: int) -> MeasuredWeights:
        """The candidate of the last weights of the chosen training."""
        return self._of_same_kind(alpha=1.0, steps=steps)

    def _of_same_kind(self, alpha, steps=None):
        kind = self.chosen.start, self.chosen.learning_rate, alpha
        return next(
            c
            for c in self.candidates
            if (c.start, c.learning_rate, c.alpha) == kind and steps in (None, c.steps)
        )

    def series(self) -> dict[str, list[tuple[float, float]]]:
        """{training in words: [(alpha, Recall@1)]} of the trainings measured between their ends."""
        series = {}
        for c in self.candidates:
            series.setdefault(_training_name(c), []).append((c.alpha, c.recall[1]))
        return {name: sorted(points) for name, points in series.items() if len(points) > 1}

    def place(self) -> tuple[str, float] | None:
        """(training, alpha) of the chosen one in `series`; None where that is not in it."""
        name = _training_name(self.chosen)
        return (name, self.chosen.alpha) if name in self.series() else None

    def to_json(self) -> dict[str, Any]:
        """As a dict that JSON can hold; Recall@K with K as text."""
        return {
            "by": self.by,
            "pooled_features": _texts(self.pooled_features),
            "step_0": _texts(self.at_start().recall),
            "candidates": [{**c._asdict(), "recall": _texts(c.recall)} for c in self.candidates],
            "chosen": self.candidates.index(self.chosen),
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "WeightsChoice":
        """The choice that `to_json` wrote."""
        candidates = [
            MeasuredWeights(**{**c, "recall": _numbered(c["recall"])})
            for c in written["candidates"]
        ]
        pooled = written["pooled_features"]
        return cls(written["by"], candidates, candidates[written["chosen"]], _numbered(pooled))


def _training_name(candidate):
    return f"{candidate.start}, rate {candidate.learning_rate:g}, {candidate.steps} steps"


def read_choice(run: RunFolder, *, steps: int, ks: Sequence[int]) -> WeightsChoice:
    """The choice that an earlier session of a run made.

    Args:
        run: the run's folder.
        steps: of the training.
        ks: the K of Recall@K.

    Raises:
        DamagedFile: choice.json lacks something that is asked of a choice later.
    """
    with run.errors_name_file(run.choice_file):
        choice = WeightsChoice.from_json(run.read_json(run.choice_file))
        for one in (choice.at_start(), choice.last(steps), *choice.candidates):
            _ = [one.recall[k] for k in ks], f"{one.learning_rate:g} {one.steps:d}"
        return choice


def best_of(candidates: Sequence[MeasuredWeights]) -> MeasuredWeights:
    """The candidate of the highest Recall@1.

    Of equals the one that stays nearest to the start: the smallest alpha, then the smallest rate,
    then the first in their order, which begins with the start that is usually best.
    """
    return min(candidates, key=lambda c: (-c.value, c.alpha, c.learning_rate))


def choice_table(choice: WeightsChoice) -> str:
    """The candidates as lines of text: a row for each training, a column for each alpha.

    Recall@1 in hundredths; what was chosen stands in brackets.
    """
    trainings = {}
    for c in choice.candidates:
        trainings.setdefault(_training_name(c), {})[c.alpha] = c
    several = {name: row for name, row in trainings.items() if len(row) > 1}
    alphas = sorted({alpha for row in several.values() for alpha in row}) or [1.0]
    head = f"Recall@1 by {choice.by}"
    names = [f"α {alpha:g}" for alpha in alphas] if several else [""]
    lines = [f"{head:<46}" + "".join(f"{name:>9}" for name in names)]
    if choice.pooled_features:
        lines.append(f"  {'pooled features':<44}{choice.pooled_features[1]:9.3f}")
    for name, row in trainings.items():
        if len(row) == 1:
            # measured on the way: the trained weights themselves, or the start
            cells = [*row.values()]
            cells = [None] * (len(alphas) - 1) + cells if cells[0].alpha == 1.0 else cells
        else:
            cells = [row.get(alpha) for alpha in alphas]
        texts = ["" if c is None else f"{c.recall[1]:.3f}" for c in cells]
        texts = [f"[{text}]" if c is choice.chosen else text for c, text in zip(cells, texts)]
        lines.append(f"  {name:<44}" + "".join(f"{text:>9}" for text in texts))
    return "\n".join(lines)


def _texts(recall):
    return None if recall is None else {str(k): float(value) for k, value in recall.items()}


def _numbered(recall):
    return None if recall is None else {int(k): value for k, value in recall.items()}
