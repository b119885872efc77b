"""Trainings on Keras's JAX backend, from images to exported files, each in its own process."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from other_backends import command, environment_of, skip_without
from small_runs import (
    SMOOTH,
    assert_same_losses,
    assert_same_state,
    history,
    kill_9_in_an_epoch,
    train_words,
    write_gradients,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("runs on JAX")]


@pytest.fixture(scope="module", autouse=True)
def with_jax():
    skip_without("jax")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_gradients(tmp_path_factory.mktemp("data") / "gradients")


def on_jax(words):
    done = command(words, "jax")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """The folder of an uninterrupted run and what it printed."""
    out = tmp_path_factory.mktemp("finished")
    return out, on_jax(train_words(folder, out))


def summary_of(out):
    return json.loads((out / "runs" / "run" / "summary.json").read_text())


def test_a_run_trains_measures_chooses_and_exports(finished):
    out, printed = finished
    run, summary = out / "runs" / "run", summary_of(out)
    assert json.loads((run / "environment.json").read_text())["backend"] == "jax"
    rows = history(run)
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    # where no pair is mined any more it is 0
    assert all(float(row["loss"]) >= 0 and 0 <= float(row["val_recall@1"]) <= 1 for row in rows)
    assert float(rows[0]["loss"]) > 0
    assert (run / "curves.png").is_file()
    assert set(summary["exports"]) == {"saved_model", "onnx"}
    assert all(export["max_difference"] <= 1e-5 for export in summary["exports"].values())
    chosen = summary["test_recall"]["chosen"]
    assert summary["test_recall"]["exported"] == pytest.approx(chosen, abs=0.04)
    assert "in a process on the TensorFlow backend" in printed
    assert "embedder.onnx: differs from the model by at most" in printed


def test_killed_and_resumed_it_ends_as_uninterrupted(finished, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    # the tests' own code generation, which `finished` was made without
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    words, run = train_words(folder, tmp_path, "--export", ""), tmp_path / "runs" / "run"
    kill_9_in_an_epoch(words, run)
    on_jax(["train", "--resume", run])
    assert_same_state(run, finished[0] / "runs" / "run")
    assert (
        summary_of(tmp_path)["test_recall"]["chosen"]
        == (summary_of(finished[0])["test_recall"]["chosen"])
    )


def test_the_other_commands_take_what_it_left(finished, folder, tmp_path):
    out, _ = finished
    run, figures = out / "runs" / "run", tmp_path / "figures.json"
    model, settings = run / "embedder.keras", run / "settings.json"
    on_jax(["evaluate", model, "--config", settings, "--bootstrap", "0", "--to", figures])
    found = json.loads(figures.read_text())["values"]
    expected = summary_of(out)["test_recall"]["chosen"]
    assert {k: found[f"recall@{k}"] for k in expected} == pytest.approx(expected, abs=0.02)
    on_jax(["report", run, "--to", tmp_path / "page.html"])
    assert "<html" in (tmp_path / "page.html").read_text()[:200]
    on_jax(["export", model, "--to", tmp_path / "again", "--formats", "saved_model"])
    assert (tmp_path / "again" / "saved_model" / "saved_model.pb").is_file()


def test_folds_and_interpolation_choose_a_head(folder, tmp_path):
    more = ("--freeze-backbone", "--export", "", "--embedding-size", "8")
    on_jax(train_words(folder, tmp_path, *more))
    choice = json.loads((tmp_path / "runs" / "run" / "choice.json").read_text())
    assert {c["alpha"] for c in choice["candidates"]} >= {0.0, 0.5, 1.0}
    assert len({c["learning_rate"] for c in choice["candidates"]}) > 1
    assert summary_of(tmp_path)["test_recall"]["chosen"]["1"] >= 0


# How far two rates move the head of a fold. A step that JAX compiles knows the model's variables
# and the optimizer's; the value of any other stays what it was as the step was traced.
_RATES = """
import keras
import numpy as np
import keras_ms
from keras_ms.run.head_folds import HeadFolds

random = np.random.default_rng(0)
labels = np.repeat(np.arange(4), 5)
features = random.normal(size=(1, 20, 6)).astype("float32") + labels[:, None]

def batches(features, labels):
    while True:
        yield features, labels

start = random.normal(size=(6, 3)).astype("float32")
heads = HeadFolds(
    features, labels, [labels < 2], embedding_size=3, loss=keras_ms.MultiSimilarityLoss(),
    normalize=True, optimizer=keras_ms.GroupedAdam, batches=batches, steps=3,
    schedule=keras.optimizers.schedules.CosineDecay(1.0, 3), starts=("orthogonal",),
    rates=(1e-3, 1e-2), alphas=(0.0, 1.0), random_start=lambda name: start, ks=(1,),
)
moved = []
for rate in heads.rates:
    heads.measure(0, "orthogonal", rate)
    moved.append(np.abs(np.asarray(heads._layer.kernel) - start).mean())
print(moved[1] / moved[0])
"""


def test_each_rate_of_the_folds_is_trained_with():
    done = subprocess.run(
        [sys.executable, "-c", _RATES],
        capture_output=True, text=True, timeout=600, env=environment_of("jax"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert 5 < float(done.stdout) < 20


def test_mixed_precision_is_exported_in_float32(folder, tmp_path):
    words = train_words(folder, tmp_path, "--precision", "mixed_bfloat16", "--export", "onnx")
    on_jax(words)
    assert summary_of(tmp_path)["exports"]["onnx"]["max_difference"] <= 1e-5


def test_what_jax_cannot_train_is_refused_before_anything_is_written(folder, tmp_path):
    words = train_words(folder, tmp_path, "--loss", "hierarchical_triplet", "--tree-levels", "4")
    done = command(words, "jax")
    assert done.returncode == 1
    assert "loss=hierarchical_triplet does not train on Keras's jax backend" in done.stderr
    assert not (tmp_path / "runs" / "run").exists()


# Ctrl-C as soon as the exporting process has written its first file
_INTERRUPTED = """
import sys
from keras_ms.export import tensorflow_process
from keras_ms.cli.main import main

export = tensorflow_process.export_in_a_process
def interrupted(*arguments, log, **options):
    def interrupt(line):
        log(line)
        raise KeyboardInterrupt
    return export(*arguments, log=interrupt, **options)

from keras_ms.run import exports
exports.export_in_a_process = interrupted
sys.exit(main(sys.argv[1:]))
"""


def test_interrupted_while_exporting_it_resumes_there(finished, folder, tmp_path):
    code = [sys.executable, "-c", _INTERRUPTED, *train_words(folder, tmp_path)]
    done = subprocess.run(
        code, capture_output=True, text=True, timeout=1800, env=environment_of("jax")
    )
    assert done.returncode == 128 + signal.SIGINT, done.stderr[-3000:]
    run = tmp_path / "runs" / "run"
    assert str(run) in done.stderr and "--resume" in done.stderr
    assert not (run / "summary.json").exists()
    on_jax(["train", "--resume", run])
    assert set(summary_of(tmp_path)["exports"]) == {"saved_model", "onnx"}
    with np.load(run / "state.npz") as found:
        with np.load(finished[0] / "runs" / "run" / "state.npz") as expected:
            assert all(np.array_equal(found[name], expected[name]) for name in expected.files)


def test_two_devices_equal_one_and_resume(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    on_jax(train_words(folder, tmp_path / "one", *SMOOTH, "--export", ""))
    words = {
        name: train_words(folder, tmp_path / name, *SMOOTH, "--devices", "2", "--export", formats)
        for name, formats in (("two", "onnx"), ("killed", ""))
    }
    on_jax(words["two"])
    runs = {name: tmp_path / name / "runs" / "run" for name in ("one", *words)}
    kill_9_in_an_epoch(words["killed"], runs["killed"])
    on_jax(["train", "--resume", runs["killed"]])
    assert_same_losses(runs["two"], runs["one"])
    assert_same_state(runs["killed"], runs["two"])
    assert summary_of(tmp_path / "two")["exports"]["onnx"]["max_difference"] <= 1e-5
