"""Runs of the command line whose backbone is a file or a preset, not a name."""

import json

import keras
import numpy as np
import pytest
import small_hub_networks as of_hub
from small_networks import IMAGES, SIDE, Subclassed, functional
from small_runs import assert_same_state, kill_9_in_an_epoch, train_words, write_gradients

from keras_ms.cli.main import main
from keras_ms.models.pooling import GeneralizedMean
from keras_ms.run.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_gradients(tmp_path_factory.mktemp("data") / "gradients")


def short(words):
    return [*words, "--steps", "4", "--steps-per-epoch", "4", "--export", ""]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "mine.keras"
    functional(sides=(SIDE, SIDE)).save(path)
    return path


@pytest.mark.slow
@pytest.mark.release
def test_a_file_is_fine_tuned_and_its_run_is_evaluated(file, folder, tmp_path, capsys):
    options = ["--backbone", str(file), "--normalisation", "zero_to_one", "--pooling", "gem"]
    assert main(short(train_words(folder, tmp_path, *options))) == 0
    run = tmp_path / "runs" / "run"
    # what is pretrained is measured before training, and trained at its own rates
    summary = json.loads((run / "summary.json").read_text())
    assert {"pooled_features", "step_0", "last"} <= set(summary["test_recall"])
    settings = json.loads((run / "settings.json").read_text())
    assert settings["training"]["backbone_learning_rate"] == pytest.approx(1e-5)
    embedder = keras.saving.load_model(run / "embedder.keras", compile=False)
    assert isinstance(embedder.get_layer("pool"), GeneralizedMean)
    assert main(["report", str(run), "--to", str(tmp_path / "report.html")]) == 0
    assert "mine at 32 px" in (tmp_path / "report.html").read_text()


def test_settings_follow_what_the_file_is_made_for(file):
    settings = Settings.from_values(backbone=str(file))
    assert settings.images.image_size == SIDE
    assert settings.model.is_pretrained and settings.model.pooling is None
    assert settings.training.learning_rate == 1e-4
    assert Settings.from_values(backbone="hub:vit_base").images.image_size == 224


@pytest.mark.parametrize(
    "options, message",
    [
        (["--image-size", "48"], "takes images of 32 x 32 pixels. Received: image_size=48"),
        (["--pooling", "cls"], "gives a feature map.*Expected one of avg"),
        (["--weights", "imagenet"], "with a backbone that brings its own"),
        (["--output-layer", "norn"], "Nearest: norm"),
    ],
)
def test_what_does_not_fit_is_refused_before_data_are_read(
    options, message, file, tmp_path, capsys
):
    (tmp_path / "nowhere").mkdir()
    words = [*train_words(tmp_path / "nowhere", tmp_path), "--backbone", str(file), *options]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert any(part in said for part in (message, *message.split(".*"))), said
    assert "nowhere" not in said


def test_statistics_that_cannot_be_frozen_want_no_interpolation(tmp_path, capsys):
    path = tmp_path / "class.keras"
    network = Subclassed()
    network(IMAGES)
    network.save(path)
    (tmp_path / "nowhere").mkdir()
    words = [*train_words(tmp_path / "nowhere", tmp_path), "--backbone", str(path)]
    assert main(words) == 1
    assert "(1, the first is 'batch_normalization" in capsys.readouterr().err
    assert main([*words, "--no-interpolate"]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.release
def test_a_preset_is_trained_frozen_and_fine_tuned_killed_and_resumed(folder, tmp_path):
    hub, preset = of_hub.hub(), tmp_path / "tiny_dinov2"
    of_hub.dinov2().save_to_preset(str(preset))
    hub.layers.DINOV2ImageConverter(
        image_size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0
    ).save_to_preset(str(preset))
    words = ["--backbone", f"hub:{preset}"]

    frozen = train_words(folder, tmp_path / "frozen", *words, "--freeze-backbone")
    assert main(frozen) == 0

    tuned = train_words(folder, tmp_path / "tuned", *words, "--export-folder", str(tmp_path / "e"))
    assert main(tuned) == 0
    summary = json.loads((tmp_path / "tuned" / "runs" / "run" / "summary.json").read_text())
    assert all(one["max_difference"] <= 1e-5 for one in summary["exports"].values())
    killed = train_words(folder, tmp_path / "killed", *words)
    kill_9_in_an_epoch(killed, tmp_path / "killed" / "runs" / "run")
    resume = ["train", "--runs-folder", str(tmp_path / "killed" / "runs"), "--resume"]
    assert main(resume) == 0
    assert_same_state(tmp_path / "killed" / "runs" / "run", tmp_path / "tuned" / "runs" / "run")
    one, other = (
        keras.saving.load_model(tmp_path / name / "runs" / "run" / "embedder.keras", compile=False)
        for name in ("tuned", "killed")
    )
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
