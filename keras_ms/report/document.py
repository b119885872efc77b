"""The frame of a page that stands alone.

Nothing is fetched, whatever a name in the data may hold.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from keras_ms import __version__
from keras_ms.files import whole_file
from keras_ms.report.markup import Markup, join, tag


def document(
    title: str,
    body: Sequence[Markup],
    *,
    styles: Sequence[Markup] = (),
    script: Markup | None = None,
) -> str:
    """A whole page as text: its head, with the style that all pages share, and its body.

    Args:
        title: text of the browser's tab.
        body: list of what the page shows, in order, before its footer.
        styles: `Markup` of further style sheets.
        script: `Markup` of its script. Defaults to None: none may run.

    Returns:
        str.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script is not None:
        policy += "; script-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        # without one, browsers ask the server for /favicon.ico
        tag("link", rel="icon", href="data:,"),
        *(tag("style", style) for style in (packaged("page.css"), *styles)),
    )
    footer = tag(
        "footer",
        f"Written by keras_ms {__version__}. The page holds all its pictures: "
        "it can be kept, sent and opened offline.",
    )
    whole = tag("body", *body, footer, None if script is None else tag("script", script))
    return join([Markup("<!DOCTYPE html>\n"), tag("html", head, whole, lang="en")]) + "\n"


def write_page(page: str, path: str | Path) -> int:
    """Writes the text of a page, whole or not at all; returns the size of the file in bytes."""
    with whole_file(path) as temporary:
        # names of files may hold bytes that are no text
        temporary.write_text(page, encoding="utf-8", errors="replace")
        return temporary.stat().st_size


def packaged(name: str) -> Markup:
    """A file of this package as `Markup`."""
    return Markup(resources.files("keras_ms.report").joinpath(name).read_text("utf-8"))
