"""Makes the tables of docs/benchmarks.md and docs/embedding.md from docs/benchmarks.json.

    python scripts/draw_benchmarks.py

A table stands between `<!-- benchmark: NAME -->` and `<!-- end -->`: one for each kind of processor
that NAME was measured on. What stands around the marks is written by hand.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from record import FILE, read_tables  # noqa: E402

PAGES = [FILE.with_name(name) for name in ("benchmarks.md", "embedding.md")]
_PLACE = re.compile(r"(<!-- benchmark: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page_of(text: str, tables: Sequence[Mapping[str, Any]]) -> str:
    """The page with the tables in their places.

    Args:
        text: of the page.
        tables: of the file of figures.

    Raises:
        ValueError: a place for a table that was not measured.
    """

    def place(found):
        of_name = [table for table in tables if table["name"] == found[2]]
        if not of_name:
            raise ValueError(
                f"Expected one of {sorted({table['name'] for table in tables})} in a mark. "
                f"Received: {found[0].splitlines()[0]}"
            )
        return found[1] + "\n".join(map(_shown_table, of_name)) + found[3]

    return _PLACE.sub(place, text)


def names_of(text: str) -> list[str]:
    """Names of the tables that have a place in a page."""
    return [found[2] for found in _PLACE.finditer(text)]


def _shown_table(table):
    rows, ratios = table["rows"], table["ratios"]
    columns = [column for column in rows[0] if column != "name"]
    words = [
        f"{table['sizes'][0].upper()}{table['sizes'][1:]}; {table['processor']}",
        _counted(table["threads"], "thread"),
        _counted(table["rounds"], "round"),
        f"load {table['load']}" if table["load"] is not None else None,
        table["date"],
    ]
    lines = [", ".join(word for word in words if word) + f", `{table['command']}`:", ""]
    lines += [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for row in rows:
        cells = [_shown(row[column], is_ratio=column in ratios) for column in columns]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _counted(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}" if number is not None else None


def _shown(value, *, is_ratio):
    if not isinstance(value, (int, float)):
        return "–" if value is None else value
    if isinstance(value, int) or abs(value) >= 100:
        text = f"{value:,.0f}"
    else:
        text = str(float(f"{value:.3g}"))
    # that of a program to itself is none
    return f"**{text}**" if is_ratio and value != 1 else text


def main():
    tables = read_tables()
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = page_of(before, tables)
        if after != before:
            # whole or not at all, without keras_ms, which takes seconds to import
            temporary = page.with_suffix(".part")
            temporary.write_text(after, encoding="utf-8")
            temporary.replace(page)


if __name__ == "__main__":
    main()
