"""The sections made of words, numbers and curves."""

import math

import numpy as np

from keras_ms.report.charts import close_range, histogram_chart, line_chart
from keras_ms.report.markup import breakable, join, percent, tag
from keras_ms.report.pictures import png_uri

_EXPLANATION = (
    "Recall@K: the class is among the first K found. R-Precision: of the R other images of the "
    "class, how many are among the first R. MAP@R: the same, and earlier counts more."
)
_CLUSTERS = "NMI, AMI, F1: how well k-means, with as many clusters as classes, finds the classes."
_LEVELS = (
    " Dashed lines: Recall@1 of what needs no training. A curve of Recall@1 below them has gained "
    "nothing yet."
)
_IN_SUMMARY = ("R-Precision", "MAP@R", "NMI")
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


def summary(report):
    # one of each kind: Recall@K for the other K is in the table
    recalls = [metric for metric in report.metrics if metric.name.startswith("Recall@")]
    others = [metric for metric in report.metrics if metric.name in _IN_SUMMARY]
    cards = [_card(metric) for metric in recalls[:1] + others]
    counts = {"Images": len(report.images), "Classes": report.num_classes}
    cards += [
        tag("div", tag("div", name, class_="name"), tag("div", f"{count:,}", class_="value"))
        for name, count in counts.items()
    ]
    facts = [join([tag("dt", name), tag("dd", text)]) for name, text in report.facts.items()]
    return tag(
        "section",
        tag("h2", "Summary"),
        tag("div", *cards, class_="cards"),
        tag("dl", *facts, class_="facts") if facts else None,
        *(tag("p", remark, class_="remark") for remark in report.remarks),
        id="summary",
    )


def _card(metric):
    return tag(
        "div",
        tag("div", metric.name, class_="name"),
        tag("div", percent(metric.value, 1), class_="value"),
        tag("div", _interval(metric), class_="range") if math.isfinite(metric.low) else None,
    )


def curves(report):
    """Loss and Recall@K against the step; None without a history."""
    rows = report.history
    if not rows:
        return None
    names = dict.fromkeys(name for row in rows for name in row if "recall@" in name)
    points = {
        name: [(row["step"], row[name]) for row in rows if name in row] for name in [*names, "loss"]
    }
    shown = {_readable(name): points[name] for name in names}
    every = [y for points in shown.values() for _, y in points] + list(report.levels.values())
    recall_range = close_range([y for y in every if math.isfinite(y)], 0, 1)
    on = "validation" if any(name.startswith("val_") for name in names) else "test"
    figures = [
        (
            "Loss on training classes",
            line_chart(_spoken("Loss", {"loss": points["loss"]}), {"loss": points["loss"]}, "step"),
        ),
        (
            f"Recall@K on {on} classes",
            line_chart(_spoken("Recall", shown), shown, "step", recall_range, levels=report.levels),
        ),
    ]
    for title, lines, y_range in _MORE_CURVES:
        if set(lines) <= set(rows[-1]):
            points = {
                text: [(row["step"], row[name]) for row in rows if name in row]
                for name, text in lines.items()
            }
            chart = line_chart(_spoken(title, points), points, "step", y_range)
            figures.append((f"{title} on training classes", chart))
    return tag(
        "section",
        tag("h2", "Training"),
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
        id="training",
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


def retrieval(report):
    head = tag(
        "tr",
        tag("th", "Metric", scope="col"),
        tag("th", "Value", scope="col", class_="number"),
        tag("th", "95 % interval", scope="col"),
        tag("th", "", scope="col", class_="hide-small"),
    )
    rows = [
        tag(
            "tr",
            tag("th", metric.name, scope="row"),
            tag("td", percent(metric.value, 1), class_="number", data_value=repr(metric.value)),
            tag("td", _interval(metric)),
            tag("td", _bar(metric.value), class_="hide-small"),
        )
        for metric in report.metrics
    ]
    searched = (
        "Every image searches all others"
        if report.num_queries == report.num_items == len(report.images)
        else f"{report.num_queries:,} queries search {report.num_items:,} gallery images"
    )
    drawn = len(np.unique(report.images.labels[report.ranks > 0]))
    intervals = (
        f" The intervals come from drawing the {drawn:,} classes that have a match to find anew "
        "with replacement: they say how much other classes of the same kind would change the "
        "figure."
    )
    has_intervals = any(math.isfinite(metric.low) for metric in report.metrics)
    clusters = (
        _CLUSTERS
        if any(metric.name == "NMI" for metric in report.metrics)
        else (
            "NMI, AMI and F1 are left out: k-means of so many images into so many classes takes "
            "hours."
        )
    )
    skipped = ""
    if report.num_skipped:
        skipped = (
            f" {report.num_skipped:,} images have no other of their class to find and are left out."
        )
    return tag(
        "section",
        tag("h2", "Retrieval"),
        tag("p", f"{searched} by cosine similarity.{intervals if has_intervals else ''}{skipped}"),
        tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll"),
        tag("p", f"{_EXPLANATION} {clusters}", class_="note"),
        tag(
            "p",
            tag("a", "Each class by itself", href="#classes"),
            " · ",
            tag("a", "queries that fail", href="#worst"),
            " · ",
            tag("a", "confused classes", href="#confusions"),
        ),
        id="retrieval",
    )


def similarities(report):
    sweep = report.sweep
    kinds = {
        "pairs of one class": sweep.positive_counts,
        "pairs of two classes": sweep.negative_counts,
    }
    densities = {name: counts / max(counts.sum(), 1) for name, counts in kinds.items()}
    overlap = float(sum(map(min, *densities.values())))
    sampled = ""
    if sweep.num_sampled < len(report.images):
        sampled = (
            f" Counted over the pairs of {sweep.num_sampled:,} evenly chosen images with "
            "all others."
        )
    words = (
        f"Pairs of one class have a mean similarity of {_number(sweep.positive_mean)}, pairs "
        f"of two classes {_number(sweep.negative_mean)}; their histograms overlap by "
        f"{percent(overlap)}."
    )
    return tag(
        "section",
        tag("h2", "Similarities"),
        tag(
            "p",
            f"{words} Each histogram adds up to 100 %: there are many more pairs of two "
            f"classes than of one.{sampled}",
        ),
        histogram_chart(
            f"Histograms of similarities. {words}", sweep.edges, densities, "cosine similarity"
        ),
        id="similarities",
    )


def classes(report, gallery):
    queries = {}
    for row in report.best_queries + report.worst_queries:
        queries.setdefault(report.images.labels[row.image], []).append(row)
    head = tag(
        "tr",
        *(
            tag("th", name, scope="col", class_=kind)
            for name, kind in (
                ("Class", None),
                ("Images", "number hide-small"),
                ("Recall@1", "number"),
                ("", "hide-small"),
                ("Mistaken for", None),
                ("See", None),
            )
        ),
    )
    rows = []
    for row in report.classes:
        links = [
            tag(
                "a",
                "map",
                href="#map",
                data_class=row.label,
                aria_label=f"{gallery.class_name(row.label)} on the map",
            )
        ]
        for query in queries.get(row.label, []):
            links += [
                " · ",
                tag("a", "best" if query.rank == 1 else "worst", href=f"#query-{query.image}"),
            ]
        measured = math.isfinite(row.recall_at_1)
        rows.append(
            tag(
                "tr",
                tag("td", breakable(gallery.class_name(row.label))),
                tag("td", f"{row.num_images:,}", class_="number hide-small"),
                tag("td", percent(row.recall_at_1) if measured else "–", class_="number"),
                tag("td", _bar(row.recall_at_1) if measured else "", class_="hide-small"),
                tag("td", gallery.class_link(row.confused_with) if row.confused_with >= 0 else "–"),
                tag("td", *links),
                id=f"class-{row.label}",
            )
        )
    shown = (
        ""
        if len(rows) == report.num_classes
        else (
            f" The {len(rows):,} shown of {report.num_classes:,} are those and all that are named "
            "above."
        )
    )
    return tag(
        "section",
        tag("h2", "Classes"),
        tag("p", f"The hardest first.{shown}"),
        tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll"),
        id="classes",
    )


def settings(report):
    if not report.settings:
        return None
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", _setting(value)))
        for name, value in report.settings.items()
    ]
    return tag(
        "section",
        tag("h2", "Settings"),
        tag(
            "details",
            tag("summary", f"All {len(rows)} settings of the run"),
            tag("div", tag("table", tag("tbody", *rows)), class_="scroll"),
        ),
        id="settings",
    )


def _setting(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value in (None, "") else value


def _interval(metric):
    if not math.isfinite(metric.low):
        return "–"
    return f"{100 * metric.low:.1f} – {percent(metric.high, 1)}"


def _number(value):
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _bar(share):
    return tag(
        "div", tag("span", style=f"width:{100 * share:.1f}%"), class_="bar", aria_hidden="true"
    )
