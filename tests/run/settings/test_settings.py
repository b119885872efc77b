"""Settings: defaults that work, groups and flat names, and refusals that say what to do."""

import dataclasses
import json

import pytest

from keras_ms.run.losses import loss_names
from keras_ms.run.settings import Settings
from keras_ms.run.settings.groups import GROUPS, SETTINGS
from keras_ms.run.settings.model import LossSettings
from keras_ms.run.settings.training import TrainingSettings


def test_defaults_are_valid_and_survive_json(tmp_path):
    settings = Settings.from_values(
        steps=50, steps_per_epoch=25, backbone_learning_rate=1e-5, schedule="step",
        decay_steps=(10, 20), ks=(1, 3), loss="triplet", loss_options={"margin": 0.2}, export=(),
    )  # fmt: skip
    file = tmp_path / "settings.json"
    file.write_text(settings.to_json())
    assert list(json.loads(file.read_text())) == list(GROUPS)
    assert Settings.read(file) == settings
    assert Settings.read(file) != Settings()


def test_groups_and_flat_names_make_the_same_settings():
    grouped = Settings(
        loss=LossSettings("triplet", {"margin": 0.2}), training=TrainingSettings(steps=20)
    )
    flat = Settings.from_values(loss="triplet", loss_options={"margin": 0.2}, steps=20)
    assert grouped == flat
    assert flat.values() == Settings.from_values(**flat.values()).values()


def test_every_flat_name_is_there_once():
    fields = [field for kind in GROUPS.values() for field in dataclasses.fields(kind)]
    assert len(SETTINGS) == len(fields)
    assert [field.name for field in dataclasses.fields(Settings)] == list(GROUPS)


def test_ks_are_sorted_and_hold_1():
    assert Settings.from_values(ks=(10, 4, 100)).evaluation.ks == (1, 4, 10, 100)


def test_options_are_added_to_those_of_the_same_loss_and_go_with_another():
    settings = Settings.from_values(loss="triplet", loss_options={"margin": 0.2})
    more = settings.with_values(loss_options={"mining": "hard"})
    assert more.loss.options == {"margin": 0.2, "mining": "hard"}
    assert settings.with_values(loss="margin").loss.options == {}
    given = {"margin": 0.2}
    settings = Settings.from_values(loss="triplet", loss_options=given)
    given["margin"] = -1
    assert settings.loss.options == {"margin": 0.2}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"steps": 0, "steps_per_epoch": 1}, "steps.*at least 1"),
        ({"steps": 150, "steps_per_epoch": 100}, "multiple of steps_per_epoch=100"),
        ({"images_per_class": 1}, "images_per_class.*at least 2"),
        ({"pooling": "mean"}, "pooling.*avg, max, avg"),
        ({"validation_fraction": 1.0}, "validation_fraction.*at least 0 and below 1"),
        ({"learning_rate": -1.0}, "learning_rate.*above 0"),
        ({"seed": 0.5}, "seed.*int"),
        ({"steps": {"a": 1}}, "steps.*int"),
        ({"steps": True}, "steps.*int"),
        ({"freeze_backbone": 1}, "freeze_backbone.*bool"),
        ({"data_dir": "a\0b"}, "data_dir.*zero byte"),
        ({"ks": (1, 0)}, "ks.*at least 1"),
        ({"ks": (1, "two")}, "ks.*int"),
        ({"ks": 3}, "ks.*tuple of int"),
        ({"loss": "triplets"}, "loss.*supervised_contrastive, triplet"),
        ({"loss_options": {"margin": 1.0}}, "multi_similarity has no option 'margin'.*epsilon"),
        ({"loss": "triplet", "loss_options": {"margin": "wide"}}, r"loss\.margin.*float"),
        ({"loss": "n_pair", "loss_options": {"one_pair_per_class": 1}}, "one_pair_per_class.*bool"),
        ({"loss_options": {"epsilon": float("nan")}}, r"loss\.epsilon.*finite"),
        ({"loss_options": "alpha=1"}, "loss_options.*mapping"),
        ({"hdml_options": {"alpha": 2.0}}, "hdml=off has no option 'alpha'.*leave it out"),
        ({"hdml": "paper", "hdml_options": {"gamma": 2.0}}, "no option 'gamma'.*lambda_g"),
        ({"hdml": "paper", "hdml_options": {"classifier_learning_rate": 0.0}}, "above 0"),
        ({"tree_levels": 4}, "tree_levels.*loss='hierarchical_triplet'.*--tree-levels"),
        ({"decay_steps": (10,)}, "decay_steps.*unset with schedule=cosine"),
        ({"schedule": "step", "decay_steps": (3, 2)}, "decay_steps.*ascending"),
        ({"schedule": "step", "decay_steps": (100, 600)}, "decay_steps.*steps=600"),
        ({"schedule": "step", "decay_steps": (0, 100)}, "decay_steps.*ascending"),
        ({"backbone_learning_rate": float("inf")}, "backbone_learning_rate.*finite"),
        ({"test_classes": "names.txt", "test_fraction": 0.3}, "test_fraction.*with test_classes"),
        ({"augmentation": "none", "crop_scale": 0.3}, "crop_scale.*with augmentation=none"),
        ({"freeze_backbone": True, "frozen_batch_norm": False}, "frozen_batch_norm.*with freeze"),
        ({"feature_views": 2}, "feature_views.*--freeze-backbone"),
        ({"resize_to": 32}, "resize_to.*at least image_size=64"),
        ({"classes_per_batch": 5, "neighbour_classes": 2}, "neighbour_classes.*divisor"),
        ({"export": ("coreml",)}, "export.*saved_model, onnx"),
    ],
)
def test_invalid_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        Settings.from_values(**values)


def test_a_group_of_its_own_refuses_what_is_out_of_bounds():
    with pytest.raises(ValueError, match="coupled_l2.*at least 0"):
        TrainingSettings(coupled_l2=-1.0)


def test_unknown_keys_are_refused_with_the_nearest_known(tmp_path):
    with pytest.raises(ValueError, match="'learning_rat'.*'learning_rate'"):
        Settings.from_values(learning_rat=1)
    file = tmp_path / "settings.json"
    for values in ({"learning_rat": 1}, {"training": {"learning_rat": 1}}):
        file.write_text(json.dumps(values))
        with pytest.raises(ValueError, match="learning_rat'.*'learning_rate'.*settings.json"):
            Settings.read(file)


@pytest.mark.parametrize("content, message", [("[1]", "JSON object"), ("{", "JSON file")])
def test_files_that_are_no_settings_are_refused(tmp_path, content, message):
    file = tmp_path / "settings.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        Settings.read(file)


def test_every_loss_can_be_chosen():
    assert set(SETTINGS["loss"].declaration.choices) == set(loss_names())
    assert all(Settings.from_values(loss=name).loss.options == {} for name in loss_names())


def test_the_learning_rate_falls_at_the_official_steps_or_the_given_ones():
    official = Settings.from_values(schedule="step", steps=3000)
    assert official.training.decay_boundaries() == (1200, 2400)
    given = Settings.from_values(schedule="step", steps=8000, decay_steps=(3000, 6000))
    assert given.training.decay_boundaries() == (3000, 6000)
    assert given.training.decay_boundaries(7000) == (3000, 6000)
    with pytest.raises(ValueError, match="between 0 and 6000, the steps of a stage"):
        given.training.decay_boundaries(6000)


def test_settings_of_runs_that_turned_no_photos_turn_none(tmp_path):
    """A run wrote all its settings: where this one is missing, there was no such thing yet."""
    values = Settings.from_values(data_dir="photos").values()
    assert values.pop("apply_exif_orientation") is True
    (tmp_path / "settings.json").write_text(json.dumps(values))
    assert Settings.read(tmp_path / "settings.json").data.apply_exif_orientation is False
    (tmp_path / "few.json").write_text('{"steps": 10}')
    assert Settings.read(tmp_path / "few.json").data.apply_exif_orientation is True


def test_options_of_the_default_loss_are_nobody_elses():
    Settings().loss.options["alpha"] = 5  # pyright: ignore
    assert Settings().loss.options == {}


@pytest.mark.parametrize("wrong", [{"loss": "triplet"}, {"training": None}, {"data": {}}])
def test_what_is_no_group_is_refused(wrong):
    (group,) = wrong
    with pytest.raises(ValueError, match=f"Invalid type for {group}. Expected"):
        Settings(**wrong)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"training": {"stepz": 4}}, "Unknown setting 'stepz' in training. Did you mean 'steps'"),
        ({"traning": {"steps": 4}}, "Unknown setting 'traning'. Did you mean 'training'"),
        ({"loss": {"name": "triplet", "options": {"mining": "foo"}}}, "loss.mining.*hard, all"),
        ({"training": 4}, "Invalid type for training. Expected a mapping"),
        ({"training": {"steps": 6}, "steps": 4}, "each setting once. Received steps"),
        ({"loss_options": None, "alpha": 3}, "Invalid type for loss_options"),
        ({"loss": {"options": [1]}}, "Invalid type for loss_options"),
        ({"loss_options": {"alpha": 5}, "loss_settings": "alpha=3"}, "Expected alpha once"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, values, message):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        Settings.read(file)
