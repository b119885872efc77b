"""Draws the floors of keras_ms and what imports what: docs/pictures/architecture.svg.

    python scripts/draw_architecture.py

Reads the imports from the source; nothing is imported but the standard library. An import that
follows from others (run uses models, models uses pairs) is left out of the picture.
"""

import ast
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "keras_ms"
PICTURE = PROJECT / "docs" / "pictures" / "architecture.svg"

# Ground first: imports go down only, and what stands on one floor is imported by none beside it.
FLOORS = [
    ["arguments", "compat"],
    ["optimizers", "files", "terminal"],
    ["pairs"],
    ["losses", "data", "evaluation", "mining"],
    ["models"],
    ["htl", "hdml", "curriculum", "callbacks", "export", "weighting"],
    ["report", "search"],
    ["run"],
    ["cli"],
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}

_BOX_WIDTH, _BOX_HEIGHT = 104, 32
_COLUMN, _ROW = 128, 84
_MARGIN = 24
_SHIFT = 36


def modules() -> list[tuple[tuple[str, ...], str]]:
    """Each module of the package but its top: its name's parts and its source."""
    paths = sorted(PACKAGE.rglob("*.py"))
    named = [
        (path.relative_to(PACKAGE).with_suffix("").parts, path.read_text(encoding="utf-8"))
        for path in paths
    ]
    return [(module, source) for module, source in named if module != ("__init__",)]


def imported_names(source: str, module: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Names below keras_ms that `module` imports, anywhere in its code.

    Example:

    >>> imported_names("from keras_ms.pairs import labels", ("losses", "circle"))
    [('pairs', 'labels')]
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from keras_ms import pairs` imports a module, as `import keras_ms.pairs` does
            start = ["keras_ms", *module][: -node.level] if node.level else []
            parent = start + (node.module.split(".") if node.module else [])
            names += [".".join([*parent, alias.name]) for alias in node.names]
    return [tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "keras_ms"]


def imports_between() -> dict[str, set[str]]:
    """The folders and modules on the floors, each with those on lower floors that it imports."""
    lower = {name: set() for name in FLOOR_OF}
    for module, source in modules():
        for imported in imported_names(source, module):
            if imported and FLOOR_OF.get(imported[0], 99) < FLOOR_OF.get(module[0], -1):
                lower[module[0]].add(imported[0])
    return lower


def _reached_from(name, lower):
    reached = set(lower[name])
    for below in lower[name]:
        reached |= _reached_from(below, lower)
    return reached


def drawn_edges(lower: dict[str, set[str]]) -> list[tuple[str, str]]:
    """(upper, lower) pairs, without those that follow from others."""
    edges = []
    for name in lower:
        implied = set()
        for below in lower[name]:
            implied |= _reached_from(below, lower)
        edges += [(name, below) for below in lower[name] - implied]
    return sorted(edges)


def picture() -> str:
    """The text of the SVG file."""
    columns = max(map(len, FLOORS))
    width = 2 * (_MARGIN + _SHIFT) + (columns - 1) * _COLUMN + _BOX_WIDTH
    height = 2 * _MARGIN + (len(FLOORS) - 1) * _ROW + _BOX_HEIGHT
    centre = {}
    for number, floor in enumerate(FLOORS):
        for place, name in enumerate(floor):
            x = width / 2 + (place - (len(floor) - 1) / 2) * _COLUMN
            # a line between distant floors passes beside the boxes between them
            x += _SHIFT * (1 - 2 * (number % 2))
            y = height - _MARGIN - _BOX_HEIGHT / 2 - number * _ROW
            centre[name] = (x, y)
    half = _BOX_HEIGHT / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="14">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for upper, lower in drawn_edges(imports_between()):
        (x1, y1), (x2, y2) = centre[upper], centre[lower]
        lines.append(
            f'<path d="M {x1:g} {y1 + half:g} C {x1:g} {y1 + half + 26:g} '
            f'{x2:g} {y2 - half - 26:g} {x2:g} {y2 - half:g}" fill="none" stroke="#7a8ba0">'
            f"<title>{upper} imports {lower}</title></path>"
        )
    for name, (x, y) in centre.items():
        is_folder = (PACKAGE / name).is_dir()
        fill, text = ("#dbe8f7", f"{name}/") if is_folder else ("#f1f1ee", name)
        lines += [
            f'<rect x="{x - _BOX_WIDTH / 2:g}" y="{y - half:g}" width="{_BOX_WIDTH}" '
            f'height="{_BOX_HEIGHT}" rx="5" fill="{fill}" stroke="#44566b"/>',
            f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle">{text}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(PICTURE.relative_to(PROJECT))
