"""What a run chooses, end to end: by folds with a frozen backbone, else by held-out classes."""

import json
import shutil

import keras
import numpy as np
import pytest
import report_pages
import small_runs
from PIL import Image
from small_runs import assert_same_state, history, kill_9_in_an_epoch, train_words

from keras_ms.callbacks.interpolate_weights import interpolated
from keras_ms.cli.main import main
from keras_ms.export.embedder import load_embedder, view_sizes
from keras_ms.models.backbones import build_backbone
from keras_ms.models.embedding import split_embedder
from keras_ms.run.choice import WeightsChoice, best_of
from keras_ms.run.embedder import embedder_of
from keras_ms.run.facts import unchosen_weights
from keras_ms.run.folder import RunFolder
from keras_ms.run.head_folds import ALPHAS, RATES
from keras_ms.run.settings import read_values
from keras_ms.run.settings.defaults import UNTUNED_HEAD
from keras_ms.run.training_state import SaveRun

fast_map = report_pages.fast_map
small_is_tiny = small_runs.small_is_tiny


def write_colours(root, classes):
    """Classes of 5 images: a colour, and noise in which it nearly drowns."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        folder = root / f"class_{number:02d}"
        folder.mkdir(parents=True)
        colour = rng.uniform(90, 160, 3)
        for image in range(5):
            tint = rng.normal(0, 14, 3)
            pixels = colour + tint + rng.normal(0, 60, (32, 32, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(folder / f"{image}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours", 20)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network, as a pretrained one has them in a file."""
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    build_backbone("small", input_shape=(32, 32, 3)).layers[-1].save_weights(path)
    return path


class Finished:
    """A run folder, read."""

    def __init__(self, out):
        self.run = RunFolder(out / "runs" / "run")
        self.summary = json.loads(self.run.summary_file.read_text())
        self.choice = self.summary["choice"] and WeightsChoice.from_json(self.summary["choice"])
        self.settings = self.run.read_settings()
        self.embedder = keras.saving.load_model(self.run.model_file, compile=False)
        self.exports = out / "exports" / "run"

    def layer(self):
        return self.embedder.get_layer("embedding").get_weights()


def ran(folder, out, *more):
    assert main(train_words(folder, out, *more)) == 0
    return Finished(out)


def assert_exported_as_chosen(finished):
    test = finished.summary["test_recall"]
    assert test["exported"] == pytest.approx(test["chosen"], abs=1e-3)


# --- a head, by folds ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("head")
    return ran(folder, out, "--freeze-backbone", "--steps", "8", "--export", "onnx")


def test_folds_try_every_start_rate_and_share_and_take_the_best(head):
    assert head.settings.training.tune == "folds"
    # what is not given stays open in the run's settings: the choice says what was taken
    assert (
        head.settings.model.head_initializer is None
        and head.settings.training.learning_rate is None
    )
    choice = head.choice
    assert choice.by == "3 folds over 10 training classes"
    tried = {(c.start, c.learning_rate, c.alpha) for c in choice.candidates}
    assert tried == {(s, r, a) for s in ("pca", "whitened") for r in RATES for a in ALPHAS}
    assert choice.chosen == best_of(choice.candidates)
    assert choice.chosen.recall[1] >= choice.at_start().recall[1]
    assert json.loads(head.run.choice_file.read_text()) == head.summary["choice"]
    assert head.summary["data"].keys() == {"train", "test"}  # no class is left out of training


def test_the_summary_has_every_stage(head):
    summary = head.summary
    stages = ["pooled_features", "step_0", "last", "chosen"]
    assert list(summary["validation_recall"]) == stages
    assert list(summary["test_recall"]) == [*stages, "exported"]
    found = {name: recall["1"] for name, recall in summary["validation_recall"].items()}
    assert found == {
        "pooled_features": head.choice.pooled_features[1],
        "step_0": head.choice.at_start().recall[1],
        "last": head.choice.last(8).recall[1],
        "chosen": head.choice.chosen.recall[1],
    }
    assert_exported_as_chosen(head)


def test_the_head_is_that_share_between_its_start_and_the_last_weights(head):
    _, model = split_embedder(embedder_of(head.settings, num_images=24))
    model.load_weights(head.run.start_weights_file)
    start = model.get_weights()
    model.load_weights(head.run.last_weights_file)
    for s, e, found in zip(start, model.get_weights(), head.layer()):
        assert not np.array_equal(s, e)
        np.testing.assert_array_equal(found, interpolated(s, e, head.choice.chosen.alpha))


@pytest.mark.slow
@pytest.mark.release
def test_what_is_given_is_not_chosen(folder, tmp_path):
    words = ("--freeze-backbone", "--steps", "4", "--export", "", "--learning-rate", "0.02",
             "--head-initializer", "orthogonal", "--no-interpolate")  # fmt: skip
    candidates = ran(folder, tmp_path, *words).choice.candidates
    tried = [(c.start, c.learning_rate, c.alpha) for c in candidates]
    # the start can be kept without weights in between
    assert tried == [("orthogonal", 0.02, 0.0), ("orthogonal", 0.02, 1.0)]


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.xdist_group("killed heads")
@pytest.mark.parametrize("after", ["folds.json", "state.npz"])
def test_kill_9_then_resume_gives_the_same_choice_and_weights(
    folder, tmp_path, whitened_head, after
):
    words, whole = whitened_head
    run = tmp_path / "runs" / "run"
    kill_9_in_an_epoch(train_words(folder, tmp_path, *words), run, after)
    assert main(["train", "--resume", str(run)]) == 0
    resumed = Finished(tmp_path)
    assert resumed.summary["choice"] == whole.summary["choice"]
    assert_same_state(run, whole.run.path)
    for value, expected in zip(resumed.layer(), whole.layer()):
        np.testing.assert_array_equal(value, expected)


@pytest.fixture(scope="module")
def whitened_head(folder, tmp_path_factory):
    words = ("--freeze-backbone", "--export", "", "--steps", "20", "--steps-per-epoch", "10",
             "--head-initializer", "whitened")  # fmt: skip
    return words, ran(folder, tmp_path_factory.mktemp("whitened"), *words)


@pytest.mark.parametrize(
    "start", ["whitened", pytest.param("orthogonal", marks=[pytest.mark.slow, pytest.mark.release])]
)
def test_with_too_few_classes_for_folds_a_head_stays_at_a_start_that_loses_nothing(
    start, tmp_path, capsys
):
    few = write_colours(tmp_path / "few", 6)
    words = ("--freeze-backbone", "--steps", "4", "--export", "", "--classes-per-batch", "3")
    finished = ran(few, tmp_path, *words, "--head-initializer", start)
    said, recall = capsys.readouterr().out, finished.summary["test_recall"]
    assert "Fewer than 4 training classes of 2 images" in said
    assert finished.choice is None and finished.summary["best_step"] is None
    if start == "whitened":
        assert "the head stays at its start" in said
        assert recall["chosen"] == recall["step_0"]
        assert "Training changed nothing: the weights of the start are kept, as no classes" in said
        assert unchosen_weights(finished.run).startswith("those of the start, as no classes")
        # its page needs no embedding, and names the rate that was used
        assert len(list((finished.run.path / "embeddings").glob("*.npy"))) == 1
        assert finished.run.read_settings().training.learning_rate is None
        used = finished.run.settled_settings().training.learning_rate
        assert used == finished.summary["kept"]["learning_rate"] == UNTUNED_HEAD["learning_rate"]
    else:
        assert unchosen_weights(finished.run) == "the last ones"
        assert "the last weights count" in said
        assert "chosen" not in recall


# --- by held-out classes -------------------------------------------------------------------------


def assert_chosen_among_steps_and_shares(finished, last, steps):
    choice, alphas = finished.choice, (0.0, 0.25, 0.5, 0.75, 1.0)
    found = {(c.steps, c.alpha) for c in choice.candidates}
    assert found == {*((step, 1.0) for step in steps), *((last, alpha) for alpha in alphas)}
    assert choice.chosen.recall[1] == max(c.recall[1] for c in choice.candidates)
    validation = finished.summary["validation_recall"]
    assert choice.at_start().recall[1] == pytest.approx(validation["step_0"]["1"], abs=1e-9)
    assert validation["chosen"]["1"] == choice.chosen.recall[1]
    assert finished.summary["best_step"] == choice.chosen.step


@pytest.mark.slow
@pytest.mark.release
def test_a_head_without_folds_is_chosen_by_held_out_classes(folder, tmp_path):
    words = ("--freeze-backbone", "--tune", "off", "--steps", "6", "--steps-per-epoch", "2",
             "--export", "")  # fmt: skip
    finished = ran(folder, tmp_path, *words)
    assert finished.settings.model.head_initializer == "whitened"
    assert finished.settings.training.interpolate is True
    assert finished.choice.by == "3 held-out classes"  # a third of 10
    assert_chosen_among_steps_and_shares(finished, 6, (2, 4))
    assert not finished.run.folds_file.exists()


_FINETUNE = ("--steps", "6", "--steps-per-epoch", "2", "--learning-rate", "0.003")


@pytest.fixture(scope="module")
def finetuned(folder, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetuned")
    return ran(folder, out, "--weights", str(weights), *_FINETUNE, "--export", "onnx")


def test_a_finetuned_network_is_chosen_by_held_out_classes(finetuned):
    assert (finetuned.settings.training.tune, finetuned.settings.training.interpolate) == (
        "off",
        True,
    )
    assert finetuned.settings.training.backbone_learning_rate == 0.003
    assert_chosen_among_steps_and_shares(finetuned, 6, (2, 4))
    assert_exported_as_chosen(finetuned)
    model = embedder_of(finetuned.settings, num_images=24)
    model.load_weights(finetuned.run.chosen_weights_file)
    for value, expected in zip(model.get_weights(), finetuned.embedder.get_weights()):
        np.testing.assert_array_equal(value, expected)


def test_a_run_that_ended_before_its_choice_goes_by_its_steps_not_by_those_of_an_optimizer(
    finetuned, tmp_path, monkeypatch
):
    run = RunFolder(shutil.copytree(finetuned.run.path, tmp_path / "runs" / "run"))
    for file in (run.choice_file, run.chosen_weights_file, run.summary_file):
        file.unlink()
    # as where float16 left steps out
    for module in ("recall_at_k", "training_steps"):
        monkeypatch.setattr(f"keras_ms.callbacks.{module}.optimizer_steps", lambda model: 1)
    assert main(["train", "--resume", str(run.path)]) == 0
    assert Finished(tmp_path).summary["choice"] == finetuned.summary["choice"]


@pytest.mark.slow
@pytest.mark.release
def test_an_interrupted_finetuning_chooses_as_the_whole_one(
    folder, weights, finetuned, tmp_path, monkeypatch
):
    def interrupt(self, batch, logs=None):
        if len(self.history) == 1 and batch == 1:
            raise KeyboardInterrupt

    words = ("--weights", str(weights), *_FINETUNE, "--export", "")
    with monkeypatch.context() as patched:
        patched.setattr(SaveRun, "on_train_batch_end", interrupt)
        assert main(train_words(folder, tmp_path, *words)) == 130
    run = tmp_path / "runs" / "run"
    assert len(history(run)) == 1
    assert main(["train", "--resume", str(run)]) == 0
    resumed = Finished(tmp_path)
    assert resumed.summary["choice"] == finetuned.summary["choice"]
    for value, expected in zip(resumed.embedder.get_weights(), finetuned.embedder.get_weights()):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.slow
@pytest.mark.release
def test_a_run_folder_of_the_version_before_resumes_as_it_began(
    folder, weights, tmp_path, monkeypatch
):
    words = ("--weights", str(weights), *_FINETUNE, "--export", "", "--no-interpolate",
             "--backbone-learning-rate", "0.003", "--head-initializer", "orthogonal",
             "--validation-fraction", "0.3")  # fmt: skip
    whole = ran(folder, tmp_path / "whole", *words)

    def interrupt(self, batch, logs=None):
        if len(self.history) == 1 and batch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SaveRun, "on_train_batch_end", interrupt)
        assert main(train_words(folder, tmp_path / "old", *words)) == 130
    run = RunFolder(tmp_path / "old" / "runs" / "run")
    # as it was written: no choice of weights, one rate for all unless given, baselines unsplit
    values = read_values(run.settings_file)
    for name in ("tune", "interpolate", "raw_pixels"):
        del values[name]
    run.write_json(run.settings_file, {**values, "backbone_learning_rate": None})
    run.write_json(run.baselines_file, {"before_training": {"1": 0.5, "2": 0.6}})
    assert main(["train", "--resume", str(run.path)]) == 0
    assert_same_state(run.path, whole.run.path)
    resumed = Finished(tmp_path / "old")
    assert resumed.summary["choice"] == whole.summary["choice"]
    assert {c.alpha for c in resumed.choice.candidates if c.steps} == {1.0}


def test_a_run_is_exported_again_as_it_was_shown_its_photos(finetuned, tmp_path):
    assert (
        main(["export", str(finetuned.run.path), "--to", str(tmp_path), "--formats", "onnx"]) == 0
    )
    exported = finetuned.run.path.parents[1] / "exports" / "run"
    again, first = (load_embedder(path / "embedder.onnx") for path in (tmp_path, exported))
    assert view_sizes(again) == view_sizes(first)
    assert again.fingerprint == first.fingerprint


def test_another_folder_is_no_run_to_export(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "out")]) == 1
    assert "the folder of a run, with settings.json in it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_rate_for_a_frozen_backbone_is_refused_with_both_ways_out(folder, tmp_path, capsys):
    words = ("--freeze-backbone", "--backbone-learning-rate", "0.1")
    assert main(train_words(folder, tmp_path, *words)) == 1
    error = capsys.readouterr().err
    assert "--freeze-backbone" in error and "--backbone-learning-rate" in error
    assert not (tmp_path / "runs").exists()


# --- what comes after ----------------------------------------------------------------------------


def test_a_run_chosen_by_folds_is_reported_with_what_was_chosen(head, tmp_path):
    page = tmp_path / "report.html"
    assert main(["report", str(head.run.path), "--to", str(page)]) == 0
    text = page.read_text()
    assert f"learning rate {head.choice.chosen.learning_rate:g}" in text
    assert "16 dimensions" in text and "None dimensions" not in text


@pytest.mark.parametrize("kind", ["head", "finetuned"])
def test_its_settings_serve_to_evaluate_it(kind, request, tmp_path):
    run = request.getfixturevalue(kind).run
    reached = json.loads(run.summary_file.read_text())["test_recall"]["chosen"]["1"]
    result = tmp_path / "result.json"
    words = [str(run.model_file), "--config", str(run.settings_file), "--metrics", "recall",
             "--bootstrap", "0", "--to", str(result)]  # fmt: skip
    assert main(["evaluate", *words]) == 0
    assert json.loads(result.read_text())["values"]["recall@1"] == pytest.approx(reached, abs=0.05)


@pytest.mark.slow
@pytest.mark.release
def test_folds_train_in_float16_as_well(folder, tmp_path):
    words = ("--freeze-backbone", "--steps", "4", "--export", "", "--precision", "mixed_float16")
    for candidate in ran(folder, tmp_path, *words).choice.candidates:
        assert np.isfinite(candidate.recall[1])


@pytest.mark.slow
@pytest.mark.release
def test_a_start_that_the_features_do_not_allow_is_left_out(folder, tmp_path, capsys):
    # 128 features: their axes are no more
    words = ("--freeze-backbone", "--steps", "4", "--export", "", "--embedding-size", "200")
    assert {c.start for c in ran(folder, tmp_path, *words).choice.candidates} == {"orthogonal"}
    more = ("--tune", "off", "--run-name", "untuned")
    assert main(train_words(folder, tmp_path, *words, *more)) == 0
    assert "cannot start whitened on these features (128 of an image)" in capsys.readouterr().out
