"""A training on Keras's torch backend, from images to exported files."""

import json

import pytest
from other_backends import command, skip_without
from small_runs import history, train_words, write_gradients


@pytest.mark.slow
def test_a_run_trains_chooses_and_exports(tmp_path):
    skip_without("torch")
    folder = write_gradients(tmp_path / "gradients")
    words = train_words(folder, tmp_path, "--steps", "4", "--steps-per-epoch", "2")
    done = command([*words, "--export", "onnx"], "torch")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    run = tmp_path / "runs" / "run"
    assert json.loads((run / "environment.json").read_text())["backend"] == "torch"
    assert all(float(row["loss"]) > 0 for row in history(run))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["exports"]["onnx"]["max_difference"] <= 1e-5
    assert {"chosen", "exported"} <= set(summary["test_recall"])
