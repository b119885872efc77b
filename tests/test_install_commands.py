"""What a newcomer types installs the project from its own folder: no index has it."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
# `pip install`, options, then the package's own name as an index would be asked for it
FROM_AN_INDEX = re.compile(r"""pip3? +install[^\n`]*[\s"']keras[-_.]ms(?![-\w./])""")


def texts():
    paths = [PROJECT / "README.md", PROJECT / "setup.cfg"]
    for folder in ("docs", "keras_ms", "scripts"):
        paths += (PROJECT / folder).rglob("*")
    return [path for path in paths if path.suffix in (".md", ".py", ".cfg", ".js", ".toml")]


def test_nothing_asks_an_index_for_the_project():
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FROM_AN_INDEX.search(line)
    ]
    assert not found, "Write `pip install -e .` with its extras:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        'pip install "keras_ms[onnx]"',
        "pip install 'keras_ms[evaluation]'",
        "pip install keras-ms",
        "python -m pip install --upgrade keras_ms==0.1.0",
        "pip3 install -q numpy keras_ms[onnx]",
    ],
)
def test_a_name_for_an_index_is_found(line):
    assert FROM_AN_INDEX.search(line)


@pytest.mark.parametrize(
    "line",
    [
        'pip install -e ".[onnx]"',
        "pip install -q -e .",
        "pip install torch`, to convert weights with keras_ms",
        "pip install -e ./keras_ms/",
    ],
)
def test_other_commands_are_not(line):
    assert not FROM_AN_INDEX.search(line)
