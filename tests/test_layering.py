"""Imports go down a floor; importing the package is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "keras_ms"

# Ground first: imports go down only, and what stands on one floor is imported by none beside it.
# docs/architecture.md draws them.
FLOORS = [
    {"arguments"},
    {"files", "optimizers", "terminal"},
    {"pairs"},
    {"losses", "data", "evaluation", "mining"},
    {"models"},
    {"htl", "hdml", "curriculum", "callbacks", "export", "weighting"},
    {"report"},
    {"run", "registered"},
    {"cli"},
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def imported_names(source, module):
    """Names below keras_ms that `module` (a tuple of names) imports, anywhere in its code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            parent = ["keras_ms", *module][: -node.level]
            base = parent + (node.module.split(".") if node.module else [])
            found = [".".join(base + [alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from keras_ms import pairs` imports a module, as `import keras_ms.pairs` does
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            if name.split(".")[0] == "keras_ms":
                yield tuple(name.split(".")[1:])


def violations(module, source):
    """What is wrong with the imports of `module`, e.g. ("losses", "pair_loss")."""
    own = module[0]
    if own not in FLOOR_OF:
        return [f"{own} stands on no floor: add it to FLOORS in {Path(__file__).name}"]
    wrong = []
    for imported in imported_names(source, module):
        if imported == ("__version__",):
            continue
        if not imported or imported[0] not in FLOOR_OF:
            wrong.append(f"{'.'.join(module)} imports keras_ms.{'.'.join(imported)}")
        elif imported[0] == own:
            # siblings are free, but the losses stand beside each other on pair_loss
            if own == "losses" and imported[1:2] != ("pair_loss",):
                wrong.append(f"{'.'.join(module)} imports its sibling {'.'.join(imported)}")
        elif FLOOR_OF[imported[0]] >= FLOOR_OF[own]:
            wrong.append(f"{'.'.join(module)} imports {'.'.join(imported)} from no lower floor")
    return wrong


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").parts
        if module not in (("__init__",), ("__main__",)):
            yield module, path.read_text()


def test_every_import_goes_down():
    wrong = [line for module, source in modules() for line in violations(module, source)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "module, source, fault",
    [
        (("pairs",), "from keras_ms.pairs.mining import mine_all", "no lower floor"),
        (("data", "images"), "def f():\n    import keras_ms.losses.pair_loss", "no lower floor"),
        (("losses", "a"), "from keras_ms.losses.b import c", "sibling"),
        (("losses", "a"), "from . import b", "sibling"),
        (("models", "a"), "from .. import export", "no lower floor"),
        (("pairs", "pairs"), "import keras_ms", "imports keras_ms"),
        (("utils",), "", "no floor"),
    ],
)
def test_a_wrong_import_is_found(module, source, fault):
    assert any(fault in line for line in violations(module, source))


@pytest.mark.parametrize(
    "module, source",
    [
        (("losses", "a"), "from keras_ms.losses.pair_loss import PairLoss"),
        (("data", "a"), "from keras_ms.data.b import c\nimport keras"),
        (("cli",), "from keras_ms.run.training import train"),
    ],
)
def test_a_right_import_passes(module, source):
    assert violations(module, source) == []


def fresh(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=1800
    ).stdout


def test_import_loads_nothing_over_keras_but_the_package_itself():
    printed = fresh(
        "import keras, sys; before = set(sys.modules); import keras_ms; "
        "keras_ms.MultiSimilarityLoss; print(*(set(sys.modules) - before))"
    )
    loaded = {name.split(".")[0] for name in printed.split()}
    # the standard library's own modules are small; all other packages cost what keras_ms need not
    assert loaded - sys.stdlib_module_names == {"keras_ms"}


def test_import_leaves_out_what_registers_nothing():
    loaded = fresh("import keras_ms, sys; print(*sys.modules)").split()
    for name in ("data", "export", "report", "run", "cli"):
        assert f"keras_ms.{name}" not in loaded
