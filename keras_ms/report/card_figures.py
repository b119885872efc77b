"""Figures of a model card: the table, its explanation, and whether training paid."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keras_ms.report.markup import percent
from keras_ms.terminal.counted import counted

# what the figures are compared with, as the end of a sentence
_START = {
    "pooled features": "by the pooled features of its backbone, which need no training",
    "before training": "by the same network before training",
    "raw pixels": "by raw pixels",
}
_METRICS = {"r_precision": "R-Precision", "map_at_r": "MAP@R"}
_EXPLAINED = {
    "Recall@": "Recall@K: the class is among the first K found.",
    "R-P": "R-Precision: of the R other images of the class, how many are among the first R.",
    "MAP": "MAP@R: the same, and earlier counts more.",
}


class CardFigure(NamedTuple):
    """A figure on the test classes, from 0 to 1."""

    key: str  # such as "recall@1"
    value: float
    interval: tuple[float, float] | None = None  # 95 %
    start: Mapping[str, float] = {}  # what needs no training, by its name in `_START`

    @property
    def name(self) -> str:
        """The key in words."""
        return _METRICS.get(self.key, self.key.capitalize())


def figure_table(figures: Sequence[CardFigure]) -> str:
    """The figures as a Markdown table, beside what needs no training."""
    start = [name for name in _START if any(name in figure.start for figure in figures)]
    columns = ["", "this embedder", "95 % interval", *start]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) - 1)]
    for figure in figures:
        ends = figure.interval
        interval = f"{100 * ends[0]:.1f} – {percent(ends[1], 1)}" if ends else "–"
        cells = [figure.name, percent(figure.value, 1), interval]
        cells += [percent(figure.start[n], 1) if n in figure.start else "–" for n in start]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def below_start(figures: Sequence[CardFigure]) -> str:
    """A sentence if the embedder finds less than what it began with, else "".

    Args:
        figures: of a card; Recall@1 is what counts.
    """
    for figure in figures:
        better = [
            f"{percent(figure.start[name], 1)} {words}"
            for name, words in _START.items()
            if figure.start.get(name, 0) > figure.value
        ]
        if figure.key == "recall@1" and better:
            return (
                f"**Training did not pay here:** on these classes the embedder finds less than "
                f"what it began with, Recall@1 {percent(figure.value, 1)} against "
                f"{' and '.join(better)}."
            )
    return ""


def about_figures(figures: Sequence[CardFigure], num_resamples: int) -> str:
    """What the figures mean.

    Args:
        figures: of a card.
        num_resamples: of the bootstrap that their intervals come from; 0 without.
    """
    words = [
        explanation
        for beginning, explanation in _EXPLAINED.items()
        if any(figure.name.startswith(beginning) for figure in figures)
    ]
    if num_resamples:
        words.append(
            f"Intervals: bootstrap over classes, {counted(num_resamples, 'resample')}; they say "
            "how far other classes of the same kind would move a figure."
        )
    return " ".join(words)
