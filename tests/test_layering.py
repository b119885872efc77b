"""Imports go down a floor; importing the package is cheap."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

_FILE = Path(__file__).resolve().parents[1] / "scripts" / "draw_architecture.py"
_SPEC = importlib.util.spec_from_file_location("draw_architecture", _FILE)
architecture = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(architecture)
FLOOR_OF = architecture.FLOOR_OF

# What may lie beside the folders; all else lives in one.
TOP = {"__init__", "arguments", "files", "mining", "optimizers", "weighting"}
# of a file in losses, what it may import beside pair_loss: the weights of a sum are a sum
OTHER_LOSSES = {"pair_weights": ("composite",)}


def violations(module, source):
    """What is wrong with the imports of `module`, e.g. ("losses", "pair_loss")."""
    own = module[0]
    if own not in FLOOR_OF:
        return [f"{own} stands on no floor: add it to FLOORS in scripts/{_FILE.name}"]
    wrong = []
    for imported in architecture.imported_names(source, module):
        if imported == ("__version__",):
            continue
        if not imported or imported[0] not in FLOOR_OF:
            wrong.append(f"{'.'.join(module)} imports keras_ms.{'.'.join(imported)}")
        elif imported[0] == own:
            # siblings are free, but the losses stand beside each other on pair_loss
            if own == "losses" and imported[1] not in {
                "pair_loss",
                *OTHER_LOSSES.get(module[1], ()),
            }:
                wrong.append(f"{'.'.join(module)} imports its sibling {'.'.join(imported)}")
        elif FLOOR_OF[imported[0]] >= FLOOR_OF[own]:
            wrong.append(f"{'.'.join(module)} imports {'.'.join(imported)} from no lower floor")
    return wrong


def test_nothing_lies_beside_the_folders_but_a_few_modules():
    assert {path.stem for path in architecture.PACKAGE.glob("*.py")} == TOP


def test_every_folder_says_what_lives_there():
    package = architecture.PACKAGE
    folders = [path.parent for path in package.rglob("__init__.py") if path.parent != package]
    folders += [package.parent / "scripts", package.parent / "tests"]
    without = [str(folder) for folder in folders if not (folder / "README.md").is_file()]
    assert not without


def test_every_folder_is_on_the_map():
    text = (architecture.PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in FLOOR_OF if f"| `{name}" not in text] == []


def test_the_picture_of_the_floors_is_that_of_the_imports():
    drawn = architecture.PICTURE.read_text(encoding="utf-8")
    assert drawn == architecture.picture(), "Draw it: python scripts/draw_architecture.py"


def test_every_import_goes_down():
    wrong = [
        line for module, source in architecture.modules() for line in violations(module, source)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "module, source, fault",
    [
        (("pairs", "a"), "from keras_ms.mining import mine_all", "no lower floor"),
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


@pytest.fixture(scope="module")
def loaded_modules():
    """Names of modules: what `import keras_ms` loads over Keras, and all that is loaded then."""
    code = (
        "import keras, sys; before = set(sys.modules); import keras_ms; "
        "print(*(set(sys.modules) - before)); print(*sys.modules); keras_ms.MultiSimilarityLoss; "
        "print(*(set(sys.modules) - before))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=1800
    ).stdout
    over_keras, everything, with_a_loss = (set(line.split()) for line in printed.splitlines())
    return over_keras | with_a_loss, everything


def test_import_loads_nothing_over_keras_but_the_package_itself(loaded_modules):
    loaded = {name.split(".")[0] for name in loaded_modules[0]}
    # the standard library's own modules are small; all other packages cost what keras_ms need not
    assert loaded - sys.stdlib_module_names == {"keras_ms"}


def test_import_leaves_out_what_registers_nothing(loaded_modules):
    for name in ("data", "export", "report", "run.training", "run.settings", "cli"):
        assert f"keras_ms.{name}" not in loaded_modules[1]
