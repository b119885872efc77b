"""keras-ms report: the page of a run and of saved embeddings."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_ms.cli import main
from keras_ms.evaluation import recall_at_k
import report_pages
from report_pages import checked_links

fast_map = report_pages.fast_map


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for name in range(8):
        colour = rng.integers(0, 256, 3)
        for n in range(4):
            folder = out / "data" / f"c{name}"
            folder.mkdir(parents=True, exist_ok=True)
            # images differ as much as classes: neither all nor none are found
            own = colour // 2 + rng.integers(0, 128, 3)
            pixels = np.clip(own + rng.integers(-60, 60, (20, 26, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    arguments = (
        "train --data-dir {0}/data --image-size 16 --resize-to 16 --embedding-size 8 --steps 4 "
        "--steps-per-epoch 2 --classes-per-batch 2 --images-per-class 2 --runs-folder {0}/runs "
        "--run-name run --validation-fraction 0.5"
    ).format(out).split()
    assert main([*arguments, "--export", ""]) == 0
    return out / "runs" / "run"


def test_report_of_a_run_has_the_figures_of_the_run(run, capsys):
    assert main(["report", str(run)]) == 0
    assert "Wrote" in capsys.readouterr().out
    text = (run / "report.html").read_text()
    page, data = checked_links(text)
    shown = [float(a["data-value"]) for a in page.all("td") if "data-value" in a]
    summary = json.loads((run / "summary.json").read_text())
    expected = list(summary["test_recall"]["best_on_validation"].values())
    np.testing.assert_allclose(shown[: len(expected)], expected, atol=1e-9)
    assert 0 < expected[0] < 1  # else the comparison says little
    assert len(data["x"]) == 16 and "multi similarity" in text
    assert str(run.parents[1]) not in text


def test_report_of_an_unfinished_run_takes_its_best_weights(run, tmp_path, capsys):
    copy = tmp_path / "unfinished"
    shutil.copytree(run, copy)
    for name in ("embedder.keras", "summary.json"):
        (copy / name).unlink()
    target = tmp_path / "page.html"
    assert main(["report", str(copy), "--to", str(target)]) == 0
    text = target.read_text()
    assert "not finished" in text
    assert main(["report", str(run), "--to", str(tmp_path / "finished.html")]) == 0
    values = [
        re.findall(r'data-value="([^"]*)"', path.read_text())
        for path in (target, tmp_path / "finished.html")
    ]
    assert values[0] == values[1]
    (copy / "best.weights.h5").unlink()
    assert "has no weights yet" in _refusal(capsys, copy)


def _refusal(capsys, *arguments):
    capsys.readouterr()
    assert main(["report", *map(str, arguments)]) == 1
    return capsys.readouterr().err


def test_report_of_saved_embeddings(run, tmp_path, capsys):
    data, file, target = run.parents[1] / "data", tmp_path / "e.npz", tmp_path / "page.html"
    labels = np.repeat(np.arange(4, 8), 4)
    embeddings = np.random.default_rng(0).normal(size=(16, 5))
    np.savez(file, embeddings=embeddings, labels=labels)
    more = ["--embeddings", file, "--data-dir", data, "--to", target]
    assert main(["report", *map(str, more)]) == 0
    shown = re.findall(r'data-value="([^"]*)"', target.read_text())
    assert float(shown[0]) == recall_at_k(embeddings, labels, ks=(1,))[1]
    target.unlink()
    for wrong, message in (
        ({"labels": labels[::-1], "embeddings": embeddings}, "in another order"),
        ({"labels": labels[:8], "embeddings": embeddings[:8]}, "Received: 8 labels"),
        ({"labels": labels}, "Reading it failed"),
        ({"labels": labels, "embeddings": labels}, "of shape"),
    ):
        np.savez(file, **wrong)
        assert message in _refusal(capsys, *more)
    assert "Nothing is at" in _refusal(capsys, "--embeddings", tmp_path / "none", *more[2:])
    assert "their images" in _refusal(capsys, "--embeddings", file)
    assert "either" in _refusal(capsys, run, *more)
    assert not target.exists()


def test_clear_errors(run, tmp_path, capsys):
    assert "Expected the folder of a run" in _refusal(capsys, tmp_path / "none")
    assert "file name such as report.html" in _refusal(capsys, run, "--to", tmp_path)
    assert "--map-images of at least 1" in _refusal(capsys, run, "--map-images", 0)
    assert "gone" in _refusal(capsys, run, "--data-dir", tmp_path / "gone")
    other = tmp_path / "data"
    shutil.copytree(run.parents[1] / "data", other)
    (other / "c7" / "0.png").unlink()
    assert "Expected the images of the run" in _refusal(capsys, run, "--data-dir", other)
    assert not (tmp_path / "data" / "report.html").exists()
