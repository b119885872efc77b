"""HTML from Python values: what is not markup already is escaped."""

import re
from collections.abc import Iterable
from html import escape

# elements without content, which have no end tag
_VOID = {"img", "input", "link", "meta", "br", "hr"}


class Markup(str):
    """Text that is HTML already and goes into the page as it is."""


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element with escaped attributes and content.

    Args:
        name: of the element.
        children: `Markup` goes in as it is, everything else as escaped text; `None` is left out.
        attributes: `class_` and the like lose their final underscore, other underscores become
            hyphens; `None` and `False` are left out, `True` stands without a value.

    Example:

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{join(children)}</{name}>")


def breakable(name: object) -> Markup:
    """A name that may be broken after its folders, underscores, dots and hyphens."""
    return Markup(re.sub(r"([/_.-])", r"\1<wbr>", escape(str(name))))


def percent(share: float, digits: int = 0) -> str:
    """A share as text; the number and its sign stay on one line."""
    return f"{100 * share:.{digits}f}\u00a0%"


def join(children: Iterable[object]) -> Markup:
    """The children one after the other, as `Markup`."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(str(child))
            for child in children
            if child is not None
        )
    )
