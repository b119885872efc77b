"""Exports of a model on another backend: the saved file, read and written by another process."""

import subprocess

import numpy as np
import pytest
from small_exports import small_embedder

from keras_ms.export import (
    ExportMismatchError,
    Preprocessing,
    read_preprocessing,
    tensorflow_process,
)
from keras_ms.export.runner import load_runner
from keras_ms.export.tensorflow_process import export_in_a_process


@pytest.fixture
def saved(tmp_path):
    model = small_embedder()
    model.save(tmp_path / "embedder.keras")
    return model, tmp_path / "embedder.keras"


@pytest.fixture
def in_this_process(monkeypatch):
    """What the other process would answer, without the seconds that its start takes."""

    def run(exchange, log):
        return tensorflow_process._answer(tensorflow_process.Path(exchange))

    monkeypatch.setattr(tensorflow_process, "_run", run)


def test_the_file_is_written_with_what_was_asked_for(saved, tmp_path, in_this_process):
    model, file = saved
    rule = Preprocessing(image_size=(16, 16), resize_to=18, exif_orientation=False)
    written = export_in_a_process(
        model, file, tmp_path / "to", ["onnx"], metadata={"recall_at_1": "0.5"}, preprocessing=rule
    )
    assert set(written) == {"onnx"} and written["onnx"]["max_difference"] <= 1e-5
    path = written["onnx"]["path"]
    assert read_preprocessing(path) == rule
    runner = load_runner(path)
    assert runner.facts["recall_at_1"] == "0.5"
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(runner.run(images), model(images, training=False), atol=1e-5)


def test_a_file_of_other_embeddings_is_not_exported(saved, tmp_path, in_this_process):
    model, file = saved
    model.layers[-2].bias.assign(model.layers[-2].bias + 1.0)
    with pytest.raises(ExportMismatchError, match="embedder.keras.*does not give the embeddings"):
        export_in_a_process(model, file, tmp_path / "to", ["saved_model"])
    assert not (tmp_path / "to").exists()


def test_an_embedder_that_diverged_is_not_exported(saved, tmp_path, in_this_process):
    model, _ = saved
    model.layers[-2].bias.assign(model.layers[-2].bias * np.nan)
    model.save(tmp_path / "nan.keras")
    with pytest.raises(ExportMismatchError, match="largest difference is nan"):
        export_in_a_process(model, tmp_path / "nan.keras", tmp_path / "to", ["saved_model"])
    assert not (tmp_path / "to").exists()


def test_errors_of_the_other_process_are_raised_here(saved, tmp_path, in_this_process):
    model, file = saved
    with pytest.raises(FileNotFoundError, match="Nothing is at .*gone.keras"):
        export_in_a_process(model, tmp_path / "gone.keras", tmp_path / "to", ["onnx"])
    (tmp_path / "to" / "saved_model").mkdir(parents=True)
    (tmp_path / "to" / "saved_model" / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="holds something else than a SavedModel"):
        export_in_a_process(model, file, tmp_path / "to", ["saved_model"])


def test_a_process_without_an_answer_says_how_to_go_on(saved, tmp_path, monkeypatch):
    model, file = saved
    monkeypatch.setattr(tensorflow_process, "_run", lambda exchange, log: -9)
    with pytest.raises(RuntimeError, match="code -9.*keras-ms export .*embedder.keras --to"):
        export_in_a_process(model, file, tmp_path / "to", ["onnx"])


@pytest.mark.slow
def test_another_process_writes_the_files_and_its_lines_come_through(saved, tmp_path, monkeypatch):
    model, file = saved
    # as if this were another backend: the other process has its own
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    lines = []
    written = export_in_a_process(
        model, file, tmp_path / "to", ["saved_model", "onnx"], log=lines.append
    )
    assert all(export["max_difference"] <= 1e-5 for export in written.values())
    assert [str(written[kind]["path"]) in line for kind, line in zip(written, lines)] == [True] * 2
    assert "saved_model: differs from the model by at most" in lines[0]


@pytest.mark.slow
def test_an_interruption_ends_both_and_leaves_nothing_in_part(saved, tmp_path, monkeypatch):
    model, file = saved
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)

    def interrupted(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_in_a_process(model, file, tmp_path / "to", ["saved_model", "onnx"], log=interrupted)
    (process,) = started
    assert process.poll() is not None
    # the first file was whole before its line came; a fast process has written the second one too
    names = {path.name for path in (tmp_path / "to").iterdir()}
    assert {"saved_model"} <= names <= {"saved_model", "embedder.onnx"}
