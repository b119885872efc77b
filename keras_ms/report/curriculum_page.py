"""One HTML page about a curriculum: of each class the densest, middle and sparsest images."""

from pathlib import Path

import numpy as np

from keras_ms.curriculum.table import check_subsets
from keras_ms.files import whole_file
from keras_ms.report.document import document
from keras_ms.report.markup import Markup, breakable, join, percent, tag
from keras_ms.report.pictures import data_uri, picture

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
    found,
    images,
    path,
    *,
    facts=None,
    num_classes=100,  # a page of some ten megabytes
):
    """Writes a page that shows what the subsets of each class hold, to judge them by eye.

    Classes with the smallest share of clean images come first. Of each there are the densest
    images, those in the middle and the sparsest, four of each, framed by their subset.

    Args:
        found: `keras_ms.curriculum.subsets.CurriculumSubsets`.
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

    >>> write_curriculum_page(found, images, "curriculum.html")   # doctest: +SKIP
    """
    check_subsets(found, images)
    page = _page(found, images, facts or {}, num_classes)
    with whole_file(path) as temporary:
        # names of files may hold bytes that are no text
        temporary.write_text(page, encoding="utf-8", errors="replace")
        return temporary.stat().st_size


def subset_name(number):
    """Words for a subset: there may be more than the three of the paper."""
    return SUBSET_NAMES[number] if number < len(SUBSET_NAMES) else f"subset {number}"


def _page(found, images, facts, num_classes):
    members = {label: np.flatnonzero(images.labels == label) for label in np.unique(images.labels)}
    noisiest = sorted(members, key=lambda label: (found.subset[members[label]] == 0).mean())
    shown = noisiest[:num_classes]
    words = (
        "The classes with the smallest share of clean images come first. An image is dense when "
        "many of its class look like it; the sparsest ones are the most likely to be mislabelled, "
        "or are rare views. ρ is the density."
    )
    if len(shown) < len(members):
        words += f" Shown: {len(shown):,} of {len(members):,} classes."
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
            _summary(found, members, facts),
            tag(
                "section",
                tag("h2", "Classes"),
                tag("p", words),
                _legend(found.subset),
                tag(
                    "div",
                    *(_class(found, images, members[label]) for label in shown),
                    class_="classes",
                ),
                id="classes",
            ),
        ),
    )
    return document(f"{images.name}: curriculum", body, [_STYLE])


def _summary(found, members, facts):
    counts = np.bincount(found.subset, minlength=len(SUBSET_NAMES))
    cards = [("Images", len(found.subset), ""), ("Classes", len(members), "")]
    cards += [
        (subset_name(number).capitalize(), count, percent(count / len(found.subset)))
        for number, count in enumerate(counts)
    ]
    facts = [join([tag("dt", name), tag("dd", text)]) for name, text in facts.items()]
    return tag(
        "section",
        tag("h2", "Summary"),
        tag(
            "div",
            *(
                tag(
                    "div",
                    tag("div", name, class_="name"),
                    tag("div", f"{count:,}", class_="value"),
                    tag("div", share, class_="range"),
                )
                for name, count, share in cards
            ),
            class_="cards",
        ),
        tag("dl", *facts, class_="facts") if facts else None,
        id="summary",
    )


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


def _class(found, images, rows):
    counts = np.bincount(found.subset[rows])
    words = ", ".join(f"{count:,} {subset_name(n)}" for n, count in enumerate(counts) if count)
    bar = [
        tag("span", class_=f"b{_colour(n)}", style=f"flex:{count}")
        for n, count in enumerate(counts)
        if count
    ]
    groups = (
        (name, group)
        for name, group in zip(("Densest", "Middle", "Sparsest"), _thirds(rows, found.density))
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
                    tag("div", *(_shot(found, images, row) for row in group), class_="four"),
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


def _shot(found, images, row):
    subset = int(found.subset[row])
    path = str(images.paths[row])
    # the folders before it say where the data lay, not what it shows
    name = path if images.images is not None else Path(path).name
    density = f"ρ {found.density[row]:,.4g}"
    spoken = f"{name}: {subset_name(subset)}, {density}" + ", the centre" * bool(found.centre[row])
    small = picture(images, row, _PICTURE_SIZE)
    return tag(
        "div",
        tag("img", src=data_uri(small), alt=spoken, title=spoken, class_="pic"),
        tag("div", f"{density}" + " · centre" * bool(found.centre[row]), class_="caption"),
        class_=f"shot s{_colour(subset)}",
    )


def _colour(subset):
    return min(subset, 2)
