"""The page: its sections in order, its style and its script, in one file."""

from pathlib import Path

from keras_ms.report import sections
from keras_ms.report.blocks import section
from keras_ms.report.choice_section import choice_section
from keras_ms.report.contents import Report
from keras_ms.report.document import document, packaged, write_page
from keras_ms.report.gallery import Gallery
from keras_ms.report.map_section import map_section
from keras_ms.report.markup import tag
from keras_ms.report.training_section import training_section
from keras_ms.terminal.progress import Progress

_FRAMES = (
    "A solid green frame and ✓ mark the same class, a dashed red one and ✗ another. The number is "
    "the cosine similarity; a picture leads to its place on the map."
)


def write_report(report: Report, path: str | Path, *, progress: Progress | None = None) -> int:
    """Writes a report as one HTML file that needs no other and no network.

    Args:
        report: `Report`, of `collect_report`.
        path: the HTML file; it appears whole or not at all.
        progress: told pictures of the map that are made and all of them. Defaults to None.

    Returns:
        Size of the file in bytes.

    Raises:
        FileNotFoundError, ValueError: an image is gone or damaged.
        OSError: the file cannot be written.

    Example:

    >>> report = collect_report(embeddings, images)  # doctest: +SKIP
    >>> write_report(report, "birds.html")  # doctest: +SKIP
    """
    return write_page(report_page(report, progress), path)


def report_page(report: Report, progress: Progress | None = None) -> str:
    """The HTML text of a report; `progress` as of `write_report`."""
    gallery = Gallery(report)
    parts = {
        "summary": ("Summary", sections.summary(report)),
        "training": ("Training", training_section(report)),
        "choice": ("Choice", choice_section(report.choice)),
        "retrieval": ("Retrieval", sections.retrieval(report)),
        "similarities": ("Similarities", sections.similarities(report)),
        "map": ("Map", map_section(report, gallery, progress)),
        "worst": (
            "Worst queries",
            _queries(
                report.worst_queries,
                gallery,
                "worst",
                "Worst queries",
                "Images of another class look more alike to the embedder than their own class "
                "does, by the largest margin. One query a class.",
                "Every query finds its class first.",
            ),
        ),
        "best": (
            "Best queries",
            _queries(
                report.best_queries,
                gallery,
                "best",
                "Best queries",
                "Their own class is ahead by the largest margin. One query a class.",
                "No query finds its class first.",
            ),
        ),
        "confusions": ("Confusions", _confusions(report, gallery)),
        "classes": ("Classes", sections.classes(report, gallery)),
        "settings": ("Settings", sections.settings(report)),
    }
    parts = {name: part for name, part in parts.items() if part[1] is not None}
    links = [tag("li", tag("a", text, href=f"#{name}")) for name, (text, _) in parts.items()]
    subtitle = f"What the embedder finds alike among {report.num_classes:,} classes" + (
        " that it was never trained on." if report.unseen else "."
    )
    body = (
        tag("a", "Skip to the content", href="#summary", class_="skip"),
        tag("header", tag("h1", report.title), tag("p", subtitle, class_="soft")),
        tag("nav", tag("ul", *links), class_="top", aria_label="Sections"),
        tag("main", *(markup for _, markup in parts.values())),
    )
    title = f"{report.title}: retrieval report"
    return document(title, body, styles=[gallery.style()], script=packaged("map.js"))


def _queries(rows, gallery, name, title, words, none):
    return section(
        name,
        title,
        tag("p", f"{words} {_FRAMES}" if rows else none),
        gallery.queries(rows) if rows else None,
    )


def _confusions(report, gallery):
    words = (
        "Pairs of classes whose images find each other first, with the queries and what they "
        "found. Where the pictures look the same, the labels may be worth a look."
    )
    return section(
        "confusions",
        "Most confused classes",
        tag("p", words if report.confusions else "Every query finds its class first."),
        gallery.confusions() if report.confusions else None,
    )
