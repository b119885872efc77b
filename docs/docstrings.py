"""Docstrings of the package, which are written as plain text, as reStructuredText."""

import re
from collections.abc import Iterator

_FORMULA = re.compile(r"^[^`]* = ")


def as_restructured_text(lines: list[str]) -> list[str]:
    """The lines of a docstring as Sphinx and its extension napoleon read them.

    - What means something there only (`|P|`, `**options`, `prefix_`) is escaped outside of code.
    - Code between three backticks becomes a block of code, and so does a formula that goes on in
      further, deeper lines.
    - Lists are set apart by empty lines.

    Example:

    >>> for line in as_restructured_text(["Over |P|:", "- `one`s", "- `two`", "and more."]):
    ...     print(line)
    Over \\|P\\|:
    <BLANKLINE>
    - `one`\\ s
    - `two`
    <BLANKLINE>
    and more.
    """
    return list(_lists_apart(_escaped(_blocks(lines))))


def _indent(line):
    return len(line) - len(line.lstrip())


def _blocks(lines: list[str]) -> Iterator[tuple[bool, str]]:
    """(whether it is code, line), with fences and formulas as blocks of code."""
    number = 0
    while number < len(lines):
        line = lines[number]
        margin = " " * _indent(line)
        if line.strip().startswith("```"):
            yield from ((True, text) for text in (f"{margin}.. code-block:: python", ""))
            number += 1
            while not lines[number].strip().startswith("```"):
                yield True, f"    {lines[number]}"
                number += 1
            yield True, ""
        elif line.strip().startswith(">>>"):
            while number < len(lines) and lines[number].strip():
                yield True, lines[number]
                number += 1
            continue
        elif _begins_formula(lines, number):
            yield from ((True, text) for text in (f"{margin}::", ""))
            while number < len(lines) and lines[number].strip():
                yield True, f"    {lines[number]}"
                number += 1
            continue
        else:
            yield False, line
        number += 1


def _begins_formula(lines, number):
    is_paragraph = number == 0 or not lines[number - 1].strip()
    goes_on = number + 1 < len(lines) and lines[number + 1].strip()
    return (
        is_paragraph
        and bool(goes_on)
        and bool(_FORMULA.match(lines[number]))
        and _indent(lines[number + 1]) > _indent(lines[number])
    )


def _escaped(lines: Iterator[tuple[bool, str]]) -> Iterator[tuple[bool, str]]:
    is_inside = False
    for is_code, line in lines:
        if is_code:
            yield True, line
            continue
        parts = line.split("`")
        for place, part in enumerate(parts):
            if not is_inside:
                part = part.replace("|", r"\|").replace("**", r"\*\*")
                part = re.sub(r"(\w)_(?=\W|$)", r"\1\\_", part)
                # in `Variable`s code ends before a letter
                parts[place] = re.sub(r"^(?=\w)", r"\\ ", part) if place else part
            # a backtick stands between each two parts
            is_inside ^= place < len(parts) - 1
        # of a paragraph that ends within code, the next one knows nothing
        is_inside &= bool(line.strip())
        yield False, "`".join(parts)


def _lists_apart(lines: Iterator[tuple[bool, str]]) -> Iterator[str]:
    item, before = None, ""
    for is_code, line in lines:
        indent, is_empty = _indent(line), not line.strip()
        is_item = not is_code and line.lstrip().startswith("- ")
        if item is None and is_item:
            if before.strip():
                yield ""
            item = indent
        elif item is not None and not is_empty and not is_item and indent <= item:
            if before.strip():
                yield ""
            item = None
        elif is_item:
            item = indent
        yield line
        before = line
