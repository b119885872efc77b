"""The section about the training: curves against the step, and pictures of the run."""

import math

from keras_ms.report.blocks import section
from keras_ms.report.charts import close_range, line_chart
from keras_ms.report.contents import Report
from keras_ms.report.curves import logged_points
from keras_ms.report.markup import Markup, tag
from keras_ms.report.pictures import png_uri

_LEVELS = (
    " Dashed lines: Recall@1 of what needs no training. A curve of Recall@1 below them has gained "
    "nothing yet."
)
# what some ways of training log besides: title, line by name in the history, range
_MORE_CURVES = (
    (
        "Similarity of anchors and their negatives",
        {
            "negative_similarity": "real",
            "hardened_similarity": "moved",
            "synthetic_similarity": "synthetic",
        },
        None,
    ),
    ("Hardness-aware training", {"lambda": "λ", "synthetic_share": "synthetic share"}, (0, 1)),
)


def training_section(report: Report) -> Markup | None:
    """Loss and Recall@K against the step; None without a history."""
    rows = report.history
    if not rows:
        return None
    names = dict.fromkeys(name for row in rows for name in row if "recall@" in name)
    loss = {"loss": logged_points(rows, "loss")}
    recalls = {_readable(name): logged_points(rows, name) for name in names}
    every = [y for points in recalls.values() for _, y in points] + list(report.levels.values())
    recall_range = close_range([y for y in every if math.isfinite(y)], lowest=0, highest=1)
    on = "validation" if any(name.startswith("val_") for name in names) else "test"
    figures = [
        (
            "Loss on training classes",
            line_chart(_spoken("Loss", loss), loss, x_name="step"),
        ),
        (
            f"Recall@K on {on} classes",
            line_chart(
                _spoken("Recall", recalls),
                recalls,
                x_name="step",
                y_range=recall_range,
                levels=report.levels,
            ),
        ),
    ]
    for title, lines, y_range in _MORE_CURVES:
        if set(lines) <= set(rows[-1]):
            points = {text: logged_points(rows, name) for name, text in lines.items()}
            chart = line_chart(_spoken(title, points), points, x_name="step", y_range=y_range)
            figures.append((f"{title} on training classes", chart))
    return section(
        "training",
        "Training",
        tag(
            "p",
            f"Recall@K was measured on the {on} classes after every epoch; the loss is the "
            f"epoch's mean.{_LEVELS if report.levels else ''}",
        ),
        tag(
            "div",
            *(tag("div", tag("h3", title), chart) for title, chart in figures if chart is not None),
            class_="charts",
        ),
        *(_picture(title, path) for title, path in report.pictures.items()),
    )


def _picture(title, path):
    """A PNG file of the run, folded up: it may be long."""
    return tag(
        "details",
        tag("summary", title),
        tag("div", tag("img", src=png_uri(path), alt=title, class_="picture"), class_="scroll"),
    )


def _readable(name):
    for prefix, word in (("val_", "validation "), ("test_", "test ")):
        if name.startswith(prefix):
            name = word + name[len(prefix) :]
    return name.replace("recall@", "Recall@")


def _spoken(what, lines):
    ends = [
        f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}"
        for name, points in lines.items()
        if points
    ]
    return f"{what} during training: {', '.join(ends)}"
