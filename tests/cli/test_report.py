"""keras-ms report: the page of a run and of saved embeddings."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import report_pages
import small_runs
from PIL import Image
from report_pages import checked_links

from keras_ms.cli.main import main
from keras_ms.evaluation import recall_at_k
from keras_ms.run.settings import Settings
from keras_ms.run.start_folder import with_places_from_start

fast_map = report_pages.fast_map
small_is_tiny = small_runs.small_is_tiny


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
        f"train --data-dir {out}/data --image-size 16 --resize-to 16 --embedding-size 8 "
        f"--steps 4 --steps-per-epoch 2 --classes-per-batch 2 --images-per-class 2 "
        f"--runs-folder {out}/runs --run-name run --validation-fraction 0.5"
    ).split()
    assert main([*arguments, "--export", ""]) == 0
    return out / "runs" / "run"


def test_report_of_a_run_has_the_figures_of_the_run(run, capsys):
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert "Wrote" in out and "/step" not in out  # no line of Keras
    # the run has embedded them
    assert f"read from {run / 'embeddings'}" in out
    text = (run / "report.html").read_text()
    page, data = checked_links(text)
    shown = [float(a["data-value"]) for a in page.all("td") if "data-value" in a]
    summary = json.loads((run / "summary.json").read_text())
    expected = list(summary["test_recall"]["chosen"].values())
    np.testing.assert_allclose(shown[: len(expected)], expected, atol=1e-9)
    assert 0 < expected[0] < 1  # else the comparison says little
    assert len(data["x"]) == 16 and "multi similarity" in text
    assert str(run.parents[1]) not in text


def test_report_of_a_run_shows_its_choice(run, tmp_path, capsys):
    copy = tmp_path / "chosen"
    shutil.copytree(run, copy)
    candidates = [
        {"learning_rate": 1e-3, "steps": 4, "alpha": alpha, "recall": {"1": 0.2 + alpha / 8}}
        for alpha in (0, 0.5, 1)
    ]
    choice = {"by": "2 folds over 4 classes", "candidates": candidates, "chosen": 1,
              "pooled_features": {"1": 0.9}, "step_0": {"1": 0.2}}  # fmt: skip
    (copy / "choice.json").write_text(json.dumps(choice))
    baselines = {"validation": {"pooled_features": {"1": 0.8}, "step_0": {"1": 0.1}},
                 "test": {"raw_pixels": {"1": 0.125}, "step_0": {"1": 0.25}}}  # fmt: skip
    (copy / "baselines.json").write_text(json.dumps(baselines))
    target = tmp_path / "page.html"
    assert main(["report", str(copy), "--to", str(target)]) == 0
    text = target.read_text().replace("\u00a0", " ")
    page, _ = checked_links(text)
    assert "12.5 % raw pixels, 25.0 % before training" in text
    assert "chosen among 3" in text and "2 folds over 4 classes" in text
    assert "26.2 % against 90.0 % when it was chosen" in text
    # two lines in each of the two charts
    assert len(page.all("line", "level")) == 4 and "pooled features: 0.800" in text
    (copy / "choice.json").write_text("{}")
    assert "choice.json" in _refusal(capsys, copy)


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
    assert "names none" in _refusal(capsys, "--embeddings", file)
    for wrong, message in (
        ({"labels": labels[::-1], "embeddings": embeddings}, "in another order"),
        ({"labels": labels[:8], "embeddings": embeddings[:8]}, "Received: 8 labels"),
        ({"labels": labels}, "Missing: embeddings"),
        ({"labels": labels, "embeddings": labels}, "of shape"),
    ):
        np.savez(file, **wrong)
        assert message in _refusal(capsys, *more)
    assert "Nothing is at" in _refusal(capsys, "--embeddings", tmp_path / "none", *more[2:])
    assert "either" in _refusal(capsys, run, *more)
    assert not target.exists()


def test_saved_embeddings_say_of_which_images_they_are(run, tmp_path, capsys):
    data = run.parents[1] / "data"
    file, target = tmp_path / "e.npz", tmp_path / "page.html"
    more = ["--embeddings", file, "--to", target]
    arguments = [run / "embedder.keras", data, "--test-fraction", 0.25, "--save-embeddings", file]
    assert main(["evaluate", *map(str, arguments)]) == 0
    with np.load(file, allow_pickle=False) as arrays:
        saved = dict(arrays)
        recall = recall_at_k(saved["embeddings"], saved["labels"], ks=(1,))[1]
    assert len(saved["labels"]) == 8
    assert main(["report", *map(str, more)]) == 0
    shown = re.findall(r'data-value="([^"]*)"', target.read_text())
    assert float(shown[0]) == recall
    moved = tmp_path / "elsewhere"
    shutil.copytree(data, moved)
    assert main(["report", *map(str, more), "--data-dir", str(moved)]) == 0
    (moved / "c7" / "3.png").rename(moved / "c7" / "other.png")
    assert "row 7: 3.png, here other.png" in _refusal(capsys, *more, "--data-dir", moved)
    assert "give --data-dir" in _refusal(capsys, *more, "--data-dir", tmp_path / "gone").lower()
    np.savez(file, **saved | {"data": json.dumps({"of_later": 1})})
    assert "Unknown settings" in _refusal(capsys, *more)


def test_other_test_classes_of_equal_counts_are_refused(run, tmp_path, capsys):
    renamed, copy = tmp_path / "data", tmp_path / "unfinished"
    shutil.copytree(run.parents[1] / "data", renamed)
    (renamed / "c7").rename(renamed / "c9")
    shutil.copytree(run, copy)
    for name in ("embedder.keras", "summary.json"):
        (copy / name).unlink()
    for folder in (run, copy):
        message = _refusal(capsys, folder, "--data-dir", renamed)
        assert "as many, of other classes" in message
    target = tmp_path / "page.html"
    # a run of an earlier version knows its counts alone
    (copy / "data.json").unlink()
    assert main(["report", str(copy), "--data-dir", str(renamed), "--to", str(target)]) == 0


def test_moved_test_classes_and_weights_of_an_unfinished_run(run, tmp_path, capsys):
    copy = tmp_path / "unfinished"
    shutil.copytree(run, copy)
    for name in ("embedder.keras", "summary.json"):
        (copy / name).unlink()
    settings = json.loads((copy / "settings.json").read_text())
    settings["data"]["test_classes"] = str(tmp_path / "gone.txt")
    settings["model"] |= {"weights": str(tmp_path / "gone.h5"), "frozen_batch_norm": False}
    (copy / "settings.json").write_text(json.dumps(settings))
    message = _refusal(capsys, copy)
    assert "gone.txt" in message and "Give --data-dir" in message and "--test-classes" in message
    names = tmp_path / "names.txt"
    names.write_text("c4\nc5\nc6\nc7\n")
    target = tmp_path / "page.html"
    arguments = ["report", copy, "--test-classes", names, "--to", target]
    assert main(list(map(str, arguments))) == 0
    assert main(["report", str(run), "--to", str(tmp_path / "finished.html")]) == 0
    values = [
        re.findall(r'data-value="([^"]*)"', path.read_text())
        for path in (target, tmp_path / "finished.html")
    ]
    assert values[0] == values[1]


@pytest.mark.slow
def test_a_damaged_image_and_features_that_cannot_be_kept(tmp_path, capsys):
    files, lines = [], ["path,label,split"]
    for n in range(12):
        files.append(tmp_path / f"{n}.jpg")
        Image.fromarray(np.full((40, 40, 3), 20 * n, np.uint8)).save(files[-1])
        lines.append(f"{n}.jpg,{n // 2},{'train' if n < 8 else 'test'}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    arguments = (
        f"train --data-dir {tmp_path}/list.csv --image-size 32 --embedding-size 8 --steps 1 "
        f"--steps-per-epoch 1 --classes-per-batch 2 --images-per-class 2 "
        f"--runs-folder {tmp_path}/runs --run-name run --validation-fraction 0 "
        "--freeze-backbone --export"
    ).split()
    whole = files[9].read_bytes()
    # the first and the last bytes of a JPEG, and nothing that can be decoded between them
    files[9].write_bytes(b"\xff\xd8\xff" + b"nothing" * 9 + b"\xff\xd9")
    assert main([*arguments, ""]) == 1
    assert re.search(r"cannot be read:\s+.*9\.jpg", capsys.readouterr().err)
    files[9].write_bytes(whole)
    # it is found before anything is written
    assert not any((tmp_path / "runs").iterdir())
    assert main([*arguments, ""]) == 0
    run = tmp_path / "runs" / "run"
    # what a finished run keeps, else nothing would have to be computed
    shutil.rmtree(run / "embeddings")
    shutil.rmtree(tmp_path / "runs" / "features")
    (tmp_path / "runs" / "features").write_text("no folder can be here")
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert "computed once more and not kept" in capsys.readouterr().out
    files[9].write_bytes(b"\xff\xd8\xff" + b"nothing" * 9 + b"\xff\xd9")
    assert re.search(r"cannot be read:\s+.*9\.jpg", _refusal(capsys, run))


def test_a_run_is_found_from_another_folder(run, tmp_path, monkeypatch, capsys):
    root = run.parents[1]
    began = json.loads((run / "environment.json").read_text())
    assert began["folder"] == os.getcwd()
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report.html"))
    text = (copy / "settings.json").read_text()
    (copy / "settings.json").write_text(text.replace(f'"{root}/data"', '"data"'))
    monkeypatch.chdir(tmp_path)
    words = (
        ["report", str(copy)],
        ["evaluate", f"{copy}/embedder.keras", "--config", f"{copy}/settings.json", "--ks", "1",
         "--bootstrap", "0"],
    )  # fmt: skip
    for folder, code in ((root, 0), (tmp_path / "gone", 1), (None, 1)):
        told = began | {"folder": str(folder)} if folder else {}
        (copy / "environment.json").write_text(json.dumps(told))
        for one in words:
            assert main(one) == code
            error = capsys.readouterr().err
            if code:
                assert "Give --data-dir, where the images lie now" in error
    # settings.json says what was typed
    assert '"data_dir": "data"' in (copy / "settings.json").read_text()


def test_only_places_that_lead_nowhere_here_are_looked_for_where_the_run_began(
    tmp_path, monkeypatch
):
    (tmp_path / "begun" / "photos").mkdir(parents=True)
    (tmp_path / "begun" / "imagenet").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text(
        json.dumps({"folder": str(tmp_path / "begun")})
    )
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_values(
        dataset="folder", data_dir="photos", backbone="mobilenet_v2", weights="imagenet"
    )
    found = with_places_from_start(settings, tmp_path / "run")
    assert found.data.data_dir == str(tmp_path / "begun" / "photos")
    assert found.model.weights == "imagenet" and found.model.backbone == "mobilenet_v2"
    (tmp_path / "photos").mkdir()
    assert with_places_from_start(settings, tmp_path / "run") == settings


def test_clear_errors(run, tmp_path, capsys):
    assert "Expected the folder of a run" in _refusal(capsys, tmp_path / "none")
    assert "to be a file that ends in .html" in _refusal(capsys, run, "--to", tmp_path)
    assert "--map-images of at least 1" in _refusal(capsys, run, "--map-images", 0)
    assert "gone" in _refusal(capsys, run, "--data-dir", tmp_path / "gone")
    other = tmp_path / "data"
    shutil.copytree(run.parents[1] / "data", other)
    (other / "c7" / "0.png").unlink()
    assert "Expected the images of the run" in _refusal(capsys, run, "--data-dir", other)
    assert not (tmp_path / "data" / "report.html").exists()
