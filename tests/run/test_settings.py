"""Settings: defaults that work, a JSON round trip, and refusals that say what to do."""

import json

import pytest

from keras_ms.run.losses import loss_names
from keras_ms.run.settings import LOSSES, Settings


def test_defaults_are_valid_and_survive_json(tmp_path):
    settings = Settings(steps=50, steps_per_epoch=25, backbone_learning_rate=1e-5)
    file = tmp_path / "settings.json"
    file.write_text(settings.to_json())
    assert Settings.read(file) == settings
    assert Settings.read(file) != Settings()


def test_ks_are_sorted_and_hold_1():
    assert Settings(ks="10, 4,100").recall_ks() == (1, 4, 10, 100)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"steps": 0, "steps_per_epoch": 1}, "steps.*at least 1"),
        ({"steps": 150, "steps_per_epoch": 100}, "multiple of steps_per_epoch=100"),
        ({"images_per_class": 1}, "images_per_class.*at least 2"),
        ({"pooling": "mean"}, "pooling.*avg, max, avg"),
        ({"validation_fraction": 1.0}, "validation_fraction.*below 1"),
        ({"learning_rate": -1.0}, "learning_rate.*above 0"),
        ({"seed": 0.5}, "seed.*int"),
        ({"freeze_backbone": 1}, "freeze_backbone.*bool"),
        ({"ks": "1,two"}, "ks.*whole numbers"),
        ({"loss": "triplets"}, "loss.*supervised_contrastive, triplet"),
        ({"loss": "triplet", "alpha": 1.0}, "alpha.*unset with loss=triplet.*loss_settings"),
        ({"alpha": 1.0, "loss_settings": "alpha=2"}, "alpha.*once"),
        ({"loss": "triplet", "loss_settings": "margin=1,margin=2"}, "margin is there twice"),
        ({"loss": "triplet", "loss_settings": "margin"}, "loss_settings.*name=value"),
        ({"decay_steps": "10"}, "decay_steps.*empty with schedule=cosine"),
        ({"schedule": "step", "decay_steps": "3,2"}, "decay_steps.*ascending"),
        ({"schedule": "step", "decay_steps": "100,600"}, "decay_steps.*steps=600"),
        ({"schedule": "step", "decay_steps": "0,100"}, "decay_steps.*ascending"),
        ({"schedule": "step", "decay_steps": "half"}, "decay_steps.*whole numbers"),
        ({"backbone_learning_rate": float("inf")}, "backbone_learning_rate.*finite"),
        ({"test_classes": "names.txt", "test_fraction": 0.3}, "test_fraction.*with test_classes"),
        ({"augmentation": "none", "crop_scale": 0.3}, "crop_scale.*with augmentation=none"),
        ({"freeze_backbone": True, "frozen_batch_norm": False}, "frozen_batch_norm.*with freeze"),
        ({"export": "coreml"}, "export.*saved_model, onnx"),
    ],
)
def test_invalid_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_unknown_keys_are_refused_with_the_nearest_known(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"learning_rat": 1}))
    with pytest.raises(ValueError, match="'learning_rat'.*'learning_rate'"):
        Settings.read(file)


@pytest.mark.parametrize("content, message", [("[1]", "JSON object"), ("{", "JSON file")])
def test_files_that_are_no_settings_are_refused(tmp_path, content, message):
    file = tmp_path / "settings.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        Settings.read(file)


def test_every_loss_can_be_chosen_with_its_settings():
    assert set(LOSSES) == set(loss_names())
    text = "margin=0.2, mining=hard,jit_compile=False"
    options = Settings(loss="triplet", loss_settings=text).loss_options()
    assert options == {"margin": 0.2, "mining": "hard", "jit_compile": False}
    assert Settings(beta=50.0).loss_options() == {
        "alpha": 2.0,
        "beta": 50.0,
        "threshold": 0.5,
        "epsilon": 0.1,
    }
    assert Settings(loss_settings="epsilon=None").loss_options()["epsilon"] is None


def test_the_learning_rate_falls_at_the_official_steps_or_the_given_ones():
    assert Settings(schedule="step", steps=3000).decay_boundaries() == (1200, 2400)
    given = Settings(schedule="step", steps=8000, decay_steps="3000, 6000")
    assert given.decay_boundaries() == (3000, 6000)
    assert Settings(schedule="step", steps=8000, decay_steps="2000").decay_boundaries() == (2000,)


def test_settings_of_runs_that_turned_no_photos_turn_none(tmp_path):
    """A run wrote all its settings: where this one is missing, there was no such thing yet."""
    values = json.loads(Settings(data_dir="photos").to_json())
    assert values["apply_exif_orientation"] is True
    del values["apply_exif_orientation"]
    (tmp_path / "settings.json").write_text(json.dumps(values))
    assert Settings.read(tmp_path / "settings.json").apply_exif_orientation is False
    (tmp_path / "few.json").write_text('{"steps": 10}')
    assert Settings.read(tmp_path / "few.json").apply_exif_orientation is True
