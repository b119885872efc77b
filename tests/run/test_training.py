"""The training run end to end on a small folder of generated images."""

import json
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import small_runs
from PIL import Image
from small_runs import (
    assert_same_state,
    history,
    kill_9_in_an_epoch,
    train_words,
    write_gradients,
)

from keras_ms.cli.main import main
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import evaluation_batches
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.losses.pair_loss import PairLoss
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings
from keras_ms.run.training_state import SaveRun

small_is_tiny = small_runs.small_is_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_gradients(tmp_path_factory.mktemp("data") / "gradients")


def test_a_run_leaves_everything_and_its_figures_are_those_of_the_saved_model(
    folder, tmp_path, capsys, monkeypatch
):
    assert main(train_words(folder, tmp_path)) == 0
    run = tmp_path / "runs" / "run"
    names = {file.name for file in run.iterdir() if not file.name.startswith(".")}
    assert names == {
        "settings.json", "environment.json", "data.json", "baselines.json", "history.csv",
        "curves.png", "state.npz", "best.weights.h5", "last.weights.h5", "chosen.weights.h5",
        "embedder.keras", "choice.json", "summary.json", "embeddings",
    }  # fmt: skip
    rows = history(run)
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert {"loss", "mined_anchors", "val_recall@1", "val_recall@2"} <= set(rows[0])

    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["test_recall"]) == {
        "step_0", "last", "chosen", "exported",
    }  # fmt: skip
    # what no step reached before it; the start is a candidate too
    reached = {0: summary["validation_recall"]["step_0"]["1"]}
    reached |= {int(row["step"]): float(row["val_recall@1"]) for row in rows}
    assert summary["best_step"] == max(reached, key=reached.get)
    model = keras.saving.load_model(run / "embedder.keras", compile=False)
    images = ImageList.from_folder(folder).subset("test")
    batches = evaluation_batches(images, 32, resize_to=36)
    embeddings = model.predict(batches.map(lambda image, label: image), verbose=0)
    recalls = recall_at_k(embeddings, images.labels, ks=(1, 2))
    expected = summary["test_recall"]["chosen"]
    assert expected == pytest.approx({"1": recalls[1], "2": recalls[2]}, abs=1e-9)
    assert summary["test_recall"]["exported"] == pytest.approx(expected, abs=1e-3)
    assert (tmp_path / "exports" / "run" / "saved_model" / "saved_model.pb").is_file()
    assert (tmp_path / "exports" / "run" / "embedder.onnx").is_file()

    # of its own model the run has kept them
    words = [str(run / "embedder.keras"), "--config", str(run / "settings.json")]
    figures = tmp_path / "figures.json"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("keras_ms.export.embedder.embed_images", None)
        assert main(["evaluate", *words, "--to", str(figures)]) == 0
    assert f"read from {run / 'embeddings'}" in capsys.readouterr().out
    assert json.loads(figures.read_text())["values"]["recall@1"] == expected["1"]

    again = tmp_path / "again"
    assert main(["export", str(run / "embedder.keras"), "--to", str(again)]) == 0
    assert (again / "saved_model").is_dir() and (again / "embedder.onnx").is_file()


@pytest.mark.slow
def test_a_frozen_backbone_trains_its_head_on_cached_features(folder, tmp_path, capsys):
    more = ("--freeze-backbone", "--validation-fraction", "0", "--export", "", "--learning-rate",
            "0.01", "--feature-views", "2", "--head-initializer", "orthogonal")  # fmt: skip
    assert main(train_words(folder, tmp_path, *more)) == 0
    assert "read from" not in capsys.readouterr().out
    assert main(train_words(folder, tmp_path, *more, "--run-name", "again", "--steps", "4")) == 0
    assert capsys.readouterr().out.count("read from") == 3
    # the plain test and training images, and one augmented view of the training images
    features = {file: np.load(file) for file in (tmp_path / "runs" / "features").iterdir()}
    assert sorted(len(array) for array in features.values()) == [64, 64, 64]
    assert len({array.tobytes() for array in features.values()}) == 3
    run = tmp_path / "runs" / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert "pooled_features" in summary["test_recall"]
    assert "chosen" not in summary["test_recall"] and summary["choice"] is None
    assert not (run / "best.weights.h5").exists()
    losses = [float(row["loss"]) for row in history(run)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "more",
    [(), ("--freeze-backbone", "--tune", "off")],
    ids=["whole", "head"],
)
@pytest.mark.slow
def test_another_loss_by_name(folder, tmp_path, more):
    """N-pair trains before the L2 normalisation; what is kept and exported has it."""
    words = ("--loss", "n_pair", "--loss.regularization", "0.01", *more)
    assert main(train_words(folder, tmp_path, *words, "--export", "onnx")) == 0
    run = tmp_path / "runs" / "run"
    rows = history(run)
    assert all(float(row["loss"]) > 0 for row in rows) and "mined_anchors" not in rows[0]
    embedder = keras.saving.load_model(run / "embedder.keras", compile=False)
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3))
    norms = np.linalg.norm(embedder.predict(images, verbose=0), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    assert (tmp_path / "exports" / "run" / "embedder.onnx").exists()


@pytest.mark.slow
def test_the_step_is_traced_once(folder, tmp_path, monkeypatch):
    """Where fit has to make the optimizer's variables, it traces it twice, which takes seconds."""
    traces, call = [], PairLoss.__call__

    def counted(self, *batch, **options):
        traces.append(self.name)
        return call(self, *batch, **options)

    monkeypatch.setattr(PairLoss, "__call__", counted)
    more = ("--freeze-backbone", "--tune", "off", "--validation-fraction", "0", "--export", "")
    assert main(train_words(folder, tmp_path, *more)) == 0
    assert traces == ["multi_similarity"]


@pytest.mark.slow
def test_mixed_precision_and_rate_groups(folder, tmp_path):
    more = ("--precision", "mixed_bfloat16", "--backbone-learning-rate", "1e-4", "--schedule",
            "step", "--coupled-l2", "5e-4", "--export", "onnx")  # fmt: skip
    assert main(train_words(folder, tmp_path, *more)) == 0
    assert keras.config.dtype_policy().name == "float32"
    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert summary["exports"]["onnx"]["max_difference"] <= 1e-5


@pytest.mark.slow
def test_kill_9_in_an_epoch_then_resume_gives_the_uninterrupted_result(folder, tmp_path):
    more = ("--export", "", "--steps", "9", "--steps-per-epoch", "3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(train_words(folder, whole, *more)) == 0
    run = killed / "runs" / "run"
    kill_9_in_an_epoch(train_words(folder, killed, *more), run)
    assert len(history(run)) < 3
    assert main(["train", "--resume", "--runs-folder", str(run.parent)]) == 0
    assert_same_state(run, whole / "runs" / "run")


_FEW = ("--steps", "6", "--steps-per-epoch", "2")
# float16 is slow on processors; its optimizer has the scale of the loss to restore
_FLOAT16 = ("--precision", "mixed_float16", "--image-size", "16", "--classes-per-batch", "2", *_FEW)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--freeze-backbone", "--tune", "off", *_FEW), _FLOAT16])
def test_an_interrupted_run_resumes_in_every_mode(folder, tmp_path, capsys, monkeypatch, more):
    more = (*more, "--export", "")
    assert main(train_words(folder, tmp_path / "whole", *more)) == 0

    def interrupt_the_second_epoch(self, batch, logs=None):
        if len(self.history) == 1 and batch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SaveRun, "on_train_batch_end", interrupt_the_second_epoch)
        assert main(train_words(folder, tmp_path / "cut", *more)) == 130
    run = tmp_path / "cut" / "runs" / "run"
    assert len(history(run)) == 1
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_state(run, tmp_path / "whole" / "runs" / "run")


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_classes_only(folder, tmp_path, capsys, monkeypatch):
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)

    def interrupt(self, batch, logs=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SaveRun, "on_train_batch_end", interrupt)
        assert main(train_words(photos, tmp_path, *_FEW, "--export", "")) == 130
    for name in ("0 new", "1 new"):
        shutil.copytree(next(path for path in photos.iterdir() if path.is_dir()), photos / name)
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "runs" / "run")]) == 1
    assert "Expected the classes that the run began with" in capsys.readouterr().err
    for name in ("0 new", "1 new"):
        shutil.rmtree(photos / name)
    assert main(["train", "--resume", str(tmp_path / "runs" / "run")]) == 0


@pytest.mark.slow
def test_interrupted_while_exporting_the_run_resumes_with_the_export(
    folder, tmp_path, monkeypatch, capsys
):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    more = ("--export", "onnx", "--steps", "4", "--image-size", "16")
    with monkeypatch.context() as patched:
        patched.setattr("keras_ms.export.formats.export_onnx", interrupt)
        assert main(train_words(folder, tmp_path, *more)) == 130
    run = tmp_path / "runs" / "run"
    assert f"Interrupted. Continue with: keras-ms train --resume {run}" in capsys.readouterr().err
    assert not (run / "summary.json").exists()
    left = tmp_path / "exports" / "run" / ".embedder.onnx.abc.part"
    left.mkdir(parents=True)
    (left / ".writing").touch()
    assert main(["train", "--resume", "--runs-folder", str(tmp_path / "runs")]) == 0
    assert "onnx" in json.loads((run / "summary.json").read_text())["exports"]
    assert not left.exists()


@pytest.mark.slow
def test_a_diverged_run_says_so_and_keeps_its_weights(folder, tmp_path, capsys):
    more = ("--learning-rate", "1e30", "--validation-fraction", "0", "--image-size", "16")
    assert main(train_words(folder, tmp_path, *more)) == 1
    assert "diverged" in capsys.readouterr().err
    assert (tmp_path / "runs" / "run" / "last.weights.h5").is_file()
    assert not (tmp_path / "exports" / "run").exists()


def test_a_run_that_is_being_trained_is_not_resumed(folder, tmp_path, capsys):
    run = RunFolder(tmp_path / "runs" / "run")
    run.create(
        Settings.from_values(data_dir=str(folder), image_size=32, classes_per_batch=4, export="")
    )
    with run.lock():
        assert "another process" in _refusal(capsys, ["train", "--resume", str(run.path)])
        latest = ["train", "--resume", "--runs-folder", str(tmp_path / "runs")]
        assert "No unfinished run" in _refusal(capsys, latest)


def _refusal(capsys, arguments):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    return error


def test_bad_input_is_refused_with_a_message_and_leaves_nothing(folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong = tmp_path / "wrong.weights.h5"
    wrong.write_text("no HDF5")
    out = tmp_path / "out"
    for arguments, expected in [
        (train_words(tmp_path / "missing", out), "missing"),
        (train_words(empty, out), str(empty)),
        (train_words(folder, out, "--backbone", "resnet51"), "resnet50"),
        (train_words(folder, out, "--weights", str(wrong)), "wrong.weights.h5"),
        (train_words(folder, out, "--weights", str(tmp_path / "no.weights.h5")), "no.weights.h5"),
        (train_words(folder, out, "--backbone", "bn_inception", "--image-size", "200"), "198"),
        (train_words(folder, out, "--classes-per-batch", "40"), "40"),
        (train_words(folder, out, "--steps", "10"), "multiple"),
        (train_words(folder, out, "--resize-to", "16"), "resize_to"),
        (train_words(folder, out, "--loss.threshold", "nan"), "threshold"),
        (train_words(folder, out, "--feature-views", "2"), "feature_views"),
        (["train", "--skip-unreadable"], "image folders"),
        (["train", "--dataset", "omniglot"], "--data-dir"),
        (["train", "--config", str(tmp_path / "none.json")], "none.json"),
        (["train", "--resume", str(tmp_path)], "settings.json"),
        (["export", str(tmp_path / "none.keras"), "--to", str(out)], "none.keras"),
    ]:
        assert expected in _refusal(capsys, arguments), arguments
        leftovers = [path for path in out.rglob("*") if path.is_file()]
        assert leftovers == [], arguments


def _broken_copy(folder, target, break_it):
    shutil.copytree(folder, target)
    break_it(target / "class_03")
    return target


def _one_image(class_folder):
    for file in sorted(class_folder.iterdir())[1:]:
        file.unlink()


def _truncated(class_folder):
    picture = Image.open(class_folder / "0.png").convert("RGB").resize((200, 200))
    picture.save(class_folder / "cut.jpg", quality=95)
    content = (class_folder / "cut.jpg").read_bytes()
    (class_folder / "cut.jpg").write_bytes(content[: len(content) // 2])


def _text(class_folder):
    (class_folder / "notes.jpg").write_text("no picture")


def _only_class(class_folder):
    for other in class_folder.parent.iterdir():
        if other != class_folder:
            shutil.rmtree(other)


@pytest.mark.parametrize(
    "break_it, expected",
    [
        (_one_image, "class_03"),
        (_truncated, "cut.jpg"),
        (_text, "notes.jpg"),
        (_only_class, "at least 2"),
    ],
)
def test_bad_images_are_named_before_anything_is_written(
    folder, tmp_path, capsys, break_it, expected
):
    broken = _broken_copy(folder, tmp_path / "broken", break_it)
    assert expected in _refusal(capsys, train_words(broken, tmp_path))
    assert not list((tmp_path / "runs").glob("*/*"))


@pytest.mark.slow
def test_unreadable_images_are_skipped_and_counted_on_request(folder, tmp_path, capsys):
    broken = _broken_copy(folder, tmp_path / "broken", _truncated)
    more = ("--skip-unreadable", "--export", "", "--steps", "4", "--image-size", "16")
    assert main(train_words(broken, tmp_path, *more)) == 0
    captured = capsys.readouterr()
    assert "128 images" in captured.out
    assert "1 of 129 images cannot be read" in captured.err and "cut.jpg" in captured.err


def test_a_run_is_not_overwritten_and_an_unwritable_folder_is_named(folder, tmp_path, capsys):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "settings.json").write_text("{}")
    assert "--resume" in _refusal(capsys, train_words(folder, tmp_path))
    (tmp_path / "file").write_text("")
    assert "Choose a folder" in _refusal(capsys, train_words(folder, tmp_path / "file"))


def test_help_tells_each_default_once(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: 0.5)" in text and "default: None" not in text


def test_unknown_options_and_values_stop_at_the_command_line(capsys):
    for arguments, named in (
        (["train", "--los", "x", "--seeds", "1"], "--los"),
        (["train", "--pooling", "mean"], "--pooling"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert named in capsys.readouterr().err


def _as_in_a_terminal():
    # a shell starts background programs, and with them this test, deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_says_how_to_continue(folder, tmp_path):
    arguments = train_words(folder, tmp_path, "--steps", "4000", "--steps-per-epoch", "4")
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_ms.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_as_in_a_terminal,
    )
    try:
        while not (tmp_path / "runs" / "run" / "state.npz").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=1800)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("Interrupted. Continue with: ")
    assert said.strip().endswith(f"-m keras_ms.cli train --resume {tmp_path / 'runs' / 'run'}")
