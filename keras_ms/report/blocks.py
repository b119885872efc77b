"""What every page is made of: sections, tables, cards with a figure, and facts."""

from collections.abc import Mapping, Sequence

from keras_ms.report.markup import Markup, join, tag


def section(name: str, title: str, *children: object) -> Markup:
    """A section with its heading; links lead to it as #name."""
    return tag("section", tag("h2", title), *children, id=name)


def table(rows: Sequence[Markup], head: Markup | None = None) -> Markup:
    """A table, which scrolls sideways where the page is too narrow.

    Args:
        rows: `tr` elements.
        head: the `tr` element of the columns' names. Defaults to None: they have none.
    """
    named = None if head is None else tag("thead", head)
    return tag("div", tag("table", named, tag("tbody", *rows)), class_="scroll")


def cards(figures: Sequence[tuple[str, str, str | None]]) -> Markup:
    """Cards side by side, each (name, value, what stands below it or None)."""
    return tag(
        "div",
        *(
            tag(
                "div",
                tag("div", name, class_="name"),
                tag("div", value, class_="value"),
                tag("div", below, class_="range") if below is not None else None,
            )
            for name, value, below in figures
        ),
        class_="cards",
    )


def fact_list(facts: Mapping[str, object]) -> Markup | None:
    """Facts by name; None where there are none."""
    if not facts:
        return None
    entries = [join([tag("dt", name), tag("dd", text)]) for name, text in facts.items()]
    return tag("dl", *entries, class_="facts")
