"""One HTML page about a curriculum: of each class the densest, middle and sparsest images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_ms.curriculum.subsets import CurriculumSubsets
from keras_ms.curriculum.table import check_subsets
from keras_ms.data.image_list import ImageList
from keras_ms.report.blocks import cards, fact_list, section
from keras_ms.report.document import document, write_page
from keras_ms.report.markup import Markup, breakable, percent, tag
from keras_ms.report.pictures import data_uri, image_name, picture

SUBSET_NAMES = ("clean", "noisy", "highly noisy")
_IN_A_GROUP = 4
_PICTURE_SIZE = 144  # sharp at the 110 pixels that a picture has on wide pages
_STYLE = Markup("""
.classes { display: grid; gap: 1rem; }
.thirds { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1.4rem; }
.thirds h5 { margin: 0 0 .4rem; font-size: .85rem; font-weight: 500; color: var(--soft); }
.four { display: grid; grid-template-columns: repeat(4, 1fr); gap: .5rem; align-items: start; }
.shot.s0 .pic { border: 3px solid var(--same); }
.shot.s1 .pic { border: 3px dashed var(--c1); }
.shot.s2 .pic { border: 3px dotted var(--other); }
.share { display: flex; height: .7rem; border-radius: 4px; overflow: hidden; margin: 0 0 .9rem; }
.b0 { background: var(--same); } .b1 { background: var(--c1); } .b2 { background: var(--other); }
@media (max-width: 900px) { .thirds { grid-template-columns: minmax(0, 1fr); gap: 1rem; } }
""")


def write_curriculum_page(
    curriculum: CurriculumSubsets,
    images: ImageList,
    path: str | Path,
    *,
    facts: Mapping[str, str] | None = None,
    num_classes: int = 100,  # a page of some ten megabytes
) -> int:
    """Writes a page that shows what the subsets of each class hold, to judge them by eye.

    Classes with the smallest share of clean images come first. Of each there are the densest
    images, those in the middle and the sparsest, four of each, framed by their subset.

    Args:
        curriculum: which subset of its class each image belongs to.
        images: the `ImageList` that it is about.
        path: the HTML file, which needs no other and no network; it appears whole or not at all.
        facts: dict of texts for the top of the page. Defaults to None.
        num_classes: at most how many classes are shown. Defaults to 100.

    Returns:
        Size of the file in bytes.

    Raises:
        ValueError: another number of images, or an image that cannot be read.
        FileNotFoundError: an image is gone.

    Example:

    >>> write_curriculum_page(curriculum, images, "curriculum.html")   # doctest: +SKIP
    """
    check_subsets(curriculum, images)
    return write_page(_page(curriculum, images, facts or {}, num_classes), path)


def subset_name(number: int) -> str:
    """Words for a subset: there may be more than the three of the paper."""
    return SUBSET_NAMES[number] if number < len(SUBSET_NAMES) else f"subset {number}"


def _page(curriculum, images, facts, num_classes):
    members = {label: np.flatnonzero(images.labels == label) for label in np.unique(images.labels)}
    noisiest = sorted(members, key=lambda label: (curriculum.subset[members[label]] == 0).mean())
    listed = noisiest[:num_classes]
    words = (
        "The classes with the smallest share of clean images come first. An image is dense when "
        "many of its class look like it; the sparsest ones are the most likely to be mislabelled, "
        "or are rare views. ρ is the density."
    )
    if len(listed) < len(members):
        words += f" Shown: {len(listed):,} of {len(members):,} classes."
    body = (
        tag(
            "header",
            tag("h1", f"{images.name}: curriculum"),
            tag(
                "p",
                "Each class divided by density, from clean to highly noisy images.",
                class_="soft",
            ),
        ),
        tag(
            "main",
            _summary(curriculum, len(members), facts),
            section(
                "classes",
                "Classes",
                tag("p", words),
                _legend(curriculum.subset),
                tag(
                    "div",
                    *(_class(curriculum, images, members[label]) for label in listed),
                    class_="classes",
                ),
            ),
        ),
    )
    return document(f"{images.name}: curriculum", body, styles=[_STYLE])


def _summary(curriculum, num_classes, facts):
    num_images = len(curriculum.subset)
    counts = np.bincount(curriculum.subset, minlength=len(SUBSET_NAMES))
    figures = [("Images", f"{num_images:,}", None), ("Classes", f"{num_classes:,}", None)]
    figures += [
        (subset_name(number).capitalize(), f"{count:,}", percent(count / num_images))
        for number, count in enumerate(counts)
    ]
    return section("summary", "Summary", cards(figures), fact_list(facts))


def _legend(subset):
    frames = ("solid green frame", "dashed orange frame", "dotted red frame")
    items = [
        tag(
            "li",
            tag("span", class_=f"key b{_colour(number)}"),
            f"{subset_name(number)}: {frames[_colour(number)]}",
        )
        for number in range(int(subset.max()) + 1)
    ]
    return tag("ul", *items, class_="legend", style="margin-bottom:1rem")


def _class(curriculum, images, rows):
    counts = np.bincount(curriculum.subset[rows])
    words = ", ".join(f"{count:,} {subset_name(n)}" for n, count in enumerate(counts) if count)
    bar = [
        tag("span", class_=f"b{_colour(n)}", style=f"flex:{count}")
        for n, count in enumerate(counts)
        if count
    ]
    groups = (
        (name, group)
        for name, group in zip(("Densest", "Middle", "Sparsest"), _thirds(rows, curriculum.density))
        if len(group)
    )
    return tag(
        "article",
        tag("h4", breakable(images.class_names[images.labels[rows[0]]])),
        tag("p", f"{len(rows):,} images: {words}", class_="note", style="margin-bottom:.4rem"),
        tag("div", *bar, class_="share", role="img", aria_label=words),
        tag(
            "div",
            *(
                tag(
                    "div",
                    tag("h5", name),
                    tag("div", *(_shot(curriculum, images, row) for row in group), class_="four"),
                )
                for name, group in groups
            ),
            class_="thirds",
        ),
        class_="query",
    )


def _thirds(rows, density):
    """Rows of the densest, the middle and the sparsest images, none of them twice."""
    order = rows[np.argsort(-density[rows], kind="stable")]
    if len(order) <= 3 * _IN_A_GROUP:
        return np.array_split(order, 3)
    middle = (len(order) - _IN_A_GROUP) // 2
    return order[:_IN_A_GROUP], order[middle : middle + _IN_A_GROUP], order[-_IN_A_GROUP:]


def _shot(curriculum, images, row):
    subset = int(curriculum.subset[row])
    density = f"ρ {curriculum.density[row]:,.4g}"
    is_centre = bool(curriculum.centre[row])
    name = image_name(images, row)
    spoken = f"{name}: {subset_name(subset)}, {density}" + ", the centre" * is_centre
    small = picture(images, row, size=_PICTURE_SIZE)
    return tag(
        "div",
        tag("img", src=data_uri(small), alt=spoken, title=spoken, class_="pic"),
        tag("div", f"{density}" + " · centre" * is_centre, class_="caption"),
        class_=f"shot s{_colour(subset)}",
    )


def _colour(subset):
    return min(subset, 2)
