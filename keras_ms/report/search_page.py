"""One HTML page about a search: each query with the pictures that are nearest to it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_ms.data.file_names import file_path, shown_name
from keras_ms.data.image_file import read_pixels
from keras_ms.report.blocks import fact_list
from keras_ms.report.document import document, write_page
from keras_ms.report.markup import Markup, breakable, tag
from keras_ms.report.pictures import data_uri, square

# sharp at the 130 pixels or so that a picture has on the page
_PICTURE_SIZE = 192
_NUMBERS = (
    "The number is the similarity, the cosine of two embeddings: 1.000 is the most, which the same "
    "picture has. Those of two models are not to be compared."
)
_STYLE = Markup("""
.found { display: grid; gap: .9rem .8rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); }
.results { display: grid; gap: 1.2rem; }
.shot.asked .pic { border-color: var(--accent); }
.shot .pic.none { display: grid; place-items: center; color: var(--soft); font-size: .75rem;
  text-align: center; padding: .4rem; background: var(--back); }
.found .caption { -webkit-line-clamp: 7; }
.shot .caption strong { color: var(--text); font-weight: 650; }
@media (max-width: 600px) {
  .found { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .7rem .6rem; }
}
""")


def write_search_page(
    results: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    path: str | Path,
    *,
    what: str,
    facts: Mapping[str, object] | None = None,
    max_pictures: int = 600,
) -> int:
    """Writes a page that needs no network and no other file.

    Pictures are read from the paths as they are now. One that is not there, such as one in an
    archive, or that lies beyond `max_pictures`, is shown by its name; the page says how many.

    Args:
        results: of each query, its name and the (path, similarity) of what it found, in order; of
            a query whose name is a path, the picture stands before them.
        path: of the page.
        what: a line about the search, the heading.
        facts: what else stands at its top, by name. Defaults to None: nothing.
        max_pictures: most pictures in the page; one of 600 pictures has about 6 MB.

    Returns:
        Size of the page in bytes.

    Example:

    >>> write_search_page([("a.jpg", [("b.jpg", 0.93)])], "page.html", what="1 query")
    ... # doctest: +SKIP
    """
    pictures = _Pictures(max_pictures)
    articles = [_result(name, found, pictures) for name, found in results]
    left_out = pictures.left_out()
    body = [
        tag("header", tag("h1", "What the search found"), tag("p", what, class_="soft")),
        tag(
            "main",
            None if not facts else fact_list(facts),
            tag("p", _NUMBERS, class_="note") if articles else None,
            tag("p", left_out, class_="note") if left_out else None,
            tag("div", *articles, class_="results") if articles else tag("p", "Nothing was found."),
        ),
    ]
    page = document("Search", body, styles=[_STYLE, pictures.style()])
    return write_page(page, path)


class _Pictures:
    """The pictures of a page, each in it once, however often it is shown."""

    def __init__(self, most):
        self._most = most
        self._numbers: dict[str, int | None] = {}
        self._rules: list[str] = []
        self._missing = 0

    def number(self, path):
        """Of the picture's style, or None: it is not shown."""
        if path not in self._numbers:
            self._numbers[path] = self._made(path)
        return self._numbers[path]

    def style(self) -> Markup:
        return Markup("".join(self._rules))

    def left_out(self):
        """How many pictures are not in the page and why, "" if all are."""
        shown, known = len(self._rules), len(self._numbers)
        if shown == known:
            return ""
        words = f"{shown:,} of {known:,} pictures are in the page"
        left = known - shown - self._missing
        if left:
            words += f"; {left:,} more would have made it too large"
        if self._missing:
            words += f"; {self._missing:,} are not there as files that can be read"
        return words + "."

    def _made(self, path):
        if not os.path.isfile(file_path(path)):
            self._missing += 1
            return None
        if len(self._rules) >= self._most:
            return None
        try:
            uri = data_uri(square(read_pixels(path), _PICTURE_SIZE))
        except (OSError, ValueError):
            self._missing += 1
            return None
        number = len(self._rules)
        self._rules.append(f".p{number}{{background-image:url({uri})}}")
        return number


def _result(name, found, pictures):
    asked = []
    if os.path.isfile(file_path(name)):
        asked.append(_shot(name, "query", pictures, tag("strong", "query"), "asked"))
    shots = [
        _shot(path, f"similarity {similarity:.3f}", pictures, tag("strong", f"{similarity:.3f}"))
        for path, similarity in found
    ]
    return tag(
        "article",
        tag("h4", breakable(shown_name(name)), style="margin-bottom:.6rem"),
        tag("div", *asked, *shots, class_="found"),
        class_="query",
    )


def _shot(path, words, pictures, caption, kind=""):
    name, number = shown_name(path), pictures.number(path)
    spoken = f"{name}: {words}"
    picture = (
        tag("span", "not in the page", class_="pic none")
        if number is None
        else tag("span", role="img", aria_label=spoken, class_=f"pic p{number}")
    )
    return tag(
        "div",
        picture,
        # of the query the heading has the name
        tag("span", caption, *(() if kind else (" ", breakable(name))), class_="caption"),
        title=spoken,
        class_=f"shot {kind}".strip(),
    )
