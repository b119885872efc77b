"""The sections made of words and numbers."""

import math

import numpy as np

from keras_ms.report.blocks import cards, fact_list, section, table
from keras_ms.report.charts import histogram_chart
from keras_ms.report.contents import Report
from keras_ms.report.gallery import Gallery
from keras_ms.report.markup import Markup, breakable, percent, tag

_EXPLANATION = (
    "Recall@K: the class is among the first K found. R-Precision: of the R other images of the "
    "class, how many are among the first R. MAP@R: the same, and earlier counts more."
)
_CLUSTERS = "NMI, AMI, F1: how well k-means, with as many clusters as classes, finds the classes."
_IN_SUMMARY = ("R-Precision", "MAP@R", "NMI")


def summary(report: Report) -> Markup:
    """The figures that one looks for first, what the data and the model are, and remarks."""
    # one of each kind: Recall@K for the other K is in the table
    recalls = [metric for metric in report.metrics if metric.name.startswith("Recall@")]
    others = [metric for metric in report.metrics if metric.name in _IN_SUMMARY]
    figures = [
        (
            metric.name,
            percent(metric.value, 1),
            _interval(metric) if math.isfinite(metric.low) else None,
        )
        for metric in recalls[:1] + others
    ]
    counts = {"Images": len(report.images), "Classes": report.num_classes}
    figures += [(name, f"{count:,}", None) for name, count in counts.items()]
    return section(
        "summary",
        "Summary",
        cards(figures),
        fact_list(report.facts),
        *(tag("p", remark, class_="remark") for remark in report.remarks),
    )


def retrieval(report: Report) -> Markup:
    """Every metric with its interval, and what searched what."""
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
    return section(
        "retrieval",
        "Retrieval",
        tag("p", f"{searched} by cosine similarity.{intervals if has_intervals else ''}{skipped}"),
        table(rows, head),
        tag("p", f"{_EXPLANATION} {clusters}", class_="note"),
        tag(
            "p",
            tag("a", "Each class by itself", href="#classes"),
            " · ",
            tag("a", "queries that fail", href="#worst"),
            " · ",
            tag("a", "confused classes", href="#confusions"),
        ),
    )


def similarities(report: Report) -> Markup:
    """How similar images of one class and of two classes are."""
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
    return section(
        "similarities",
        "Similarities",
        tag(
            "p",
            f"{words} Each histogram adds up to 100 %: there are many more pairs of two "
            f"classes than of one.{sampled}",
        ),
        histogram_chart(
            f"Histograms of similarities. {words}",
            sweep.edges,
            densities=densities,
            x_name="cosine similarity",
        ),
    )


def classes(report: Report, gallery: Gallery) -> Markup:
    """A row for each class, the hardest first."""
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
    part = (
        ""
        if len(rows) == report.num_classes
        else (
            f" The {len(rows):,} shown of {report.num_classes:,} are those and all that are named "
            "above."
        )
    )
    return section(
        "classes",
        "Classes",
        tag("p", f"The hardest first.{part}"),
        table(rows, head),
    )


def settings(report: Report) -> Markup | None:
    """All settings of the run, folded up; None without any."""
    if not report.settings:
        return None
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", _setting(value)))
        for name, value in report.settings.items()
    ]
    return section(
        "settings",
        "Settings",
        tag("details", tag("summary", f"All {len(rows)} settings of the run"), table(rows)),
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
