"""Pictures of a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_ms.files import whole_file
from keras_ms.report.charts import close_range

# of lines across a chart, which colours would confuse with the curves
_DASHES = ("--", ":", "-.")


def write_curves(
    rows: Sequence[Mapping[str, float]],
    path: str | Path,
    loss_name: str,
    *,
    recall_title: str = "Recall@K (unseen classes)",
    lines: Mapping[str, float | None] | None = None,
    series_lines: Mapping[str, float | None] | None = None,
    series: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    chosen: tuple[str, float] | None = None,
) -> None:
    """Draws loss and Recall@K against the training step, as a PNG file.

    Args:
        rows: history, a list of dicts with "step" and the logged values, as in history.csv.
            Values that a row lacks or that are not finite are left out; a chart with none says so.
        path: PNG file to write.
        loss_name: title of the loss's curve.
        recall_title: title of the chart of Recall@K.
        lines: dict from a name to a Recall@1, a labelled line across the chart of Recall@K, such
            as that of the features before training. Defaults to None: no line.
        series_lines: the same across the chart of `series`, whose images may be others. Defaults to
            None: no line.
        series: dict from a name to a list of (share, Recall@1): a third chart, of networks between
            the one before training, share 0, and the trained one, share 1. Defaults to None.
        chosen: (name, share) of the point of `series` to mark. Defaults to None.

    Raises:
        ValueError: `chosen` is no point of `series`.

    Example:

    ```python
    rows = [{"step": 100, "loss": 0.9, "val_recall@1": 0.52}]
    write_curves(rows, "curves.png", "multi similarity", lines={"pooled features": 0.51})
    ```
    """
    # the figure class itself, not pyplot: no window system is touched
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    mark = None if chosen is None else _chosen_point(series, chosen)
    lines, series_lines = (
        {name: value for name, value in (given or {}).items() if _is_number(value)}
        for given in (lines, series_lines)
    )
    spaced = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(13.5 if series else 9, 4.2), layout=spaced)
    charts = figure.subplots(1, 3 if series else 2)

    losses, recalls = charts[:2]
    values = _draw(losses, {"loss": logged_points(rows, "loss")}, color="tab:red")
    losses.set(xlabel="step", ylabel="loss", title=f"Loss: {loss_name} (training classes)")
    if values:
        losses.set_ylim(
            *close_range(values, lowest=0 if min(values) >= 0 else -math.inf, highest=math.inf)
        )
    names = dict.fromkeys(name for row in rows for name in row if "recall@" in name)
    values = _draw(recalls, {name.replace("_", " "): logged_points(rows, name) for name in names})
    recalls.set(xlabel="step", ylabel="share of queries", title=recall_title)
    _finish_recalls(recalls, values, lines)
    for chart in (losses, recalls):
        chart.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if series:
        between = charts[2]
        values = _draw(between, series)
        between.set(
            xlabel="between start (0) and trained (1)", ylabel="share of queries",
            title="Recall@1 between start and trained", xlim=(-0.03, 1.03),
        )  # fmt: skip
        if mark is not None:
            between.plot(
                *mark, "o", markersize=13, fillstyle="none", color="black", label="chosen",
                clip_on=False,
            )  # fmt: skip
        _finish_recalls(between, values, series_lines)
    for chart in charts:
        chart.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def logged_points(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """(step, value) of the rows of a history that have the value of this name."""
    return [(row["step"], row[name]) for row in rows if name in row]


def _is_number(value):
    return value is not None and math.isfinite(value)


def _chosen_point(series, chosen):
    name, share = chosen
    for x, y in (series or {}).get(name, []):
        if math.isclose(x, share, abs_tol=1e-9):
            return x, y
    raise ValueError(
        f"Expected `chosen` as the name and the share of a point of `series` "
        f"({', '.join(map(repr, series or {})) or 'there are none'}). Received: {chosen!r}"
    )


def _draw(chart, curves, **style):
    """Draws the finite points of the curves; returns their values."""
    values = []
    for name, points in curves.items():
        points = [point for point in points if _is_number(point[1])]
        if points:
            # a curve along the end of the axis is drawn whole
            chart.plot(*zip(*points), marker=".", label=name, clip_on=False, **style)
            values += [y for _, y in points]
    if not values:
        chart.text(0.5, 0.5, "no values", ha="center", va="center", transform=chart.transAxes)
    return values


def _finish_recalls(chart, values, lines):
    """Lines across a chart of Recall@K, its range, and below it what is what."""
    for number, (name, value) in enumerate(lines.items()):
        chart.axhline(
            value, color="black", linewidth=1, linestyle=_DASHES[number % len(_DASHES)],
            label=f"{name}: {value:.3f}", clip_on=False,
        )  # fmt: skip
    chart.set_ylim(*close_range([*values, *lines.values()], lowest=0, highest=1))
    if values or lines:
        # beside the curves it would hide some of them
        chart.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False, fontsize=9
        )
