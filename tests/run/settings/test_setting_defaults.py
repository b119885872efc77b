"""What open settings become: from scratch, frozen, fine-tuned; and those of old run folders."""

import dataclasses
import json

import pytest

from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings
from keras_ms.run.settings.defaults import (
    DEFAULTS,
    UNTUNED_HEAD,
    classes_per_batch,
    missing_values,
    refuses_folds,
    situation,
    validation_fraction,
)
from keras_ms.run.settings.earlier import translated

SITUATIONS = {
    "scratch": {},
    "frozen": {"weights": "some.weights.h5", "freeze_backbone": True},
    "finetuned": {"weights": "some.weights.h5"},
}


@pytest.mark.parametrize("kind, given", SITUATIONS.items())
def test_every_default_is_that_of_the_situation(kind, given):
    settings = Settings.from_values(**given)
    assert situation(settings) == kind
    for name, value in DEFAULTS[kind].items():
        assert settings.values()[name] == value, name
    assert settings.training.tune == ("folds" if kind == "frozen" else "off")
    assert settings.training.steps_per_epoch == 100
    rate = 1e-4 if kind == "finetuned" else None
    assert settings.training.backbone_learning_rate == rate


def test_a_frozen_backbone_is_frozen_with_and_without_weights():
    assert situation(Settings.from_values(freeze_backbone=True)) == "frozen"


@pytest.mark.parametrize("kind, given", SITUATIONS.items())
def test_nothing_that_is_needed_stays_open(kind, given):
    """What is None after all is left to the data or to the folds, and documented as such."""
    left = {name for name, value in Settings.from_values(**given).values().items() if value is None}
    expected = {
        "class_depth", "validation_fraction", "validation_groups", "classes_per_batch",
        "raw_pixels", "frozen_batch_norm", "num_prefix_tokens",
    }  # fmt: skip
    if kind == "frozen":
        expected |= {"learning_rate", "head_initializer"}
    if kind != "finetuned":
        expected |= {"backbone_learning_rate"}
    if kind != "scratch":
        expected |= {"embedding_size"}
    assert left == expected


@pytest.mark.parametrize("given", SITUATIONS.values(), ids=SITUATIONS)
def test_what_is_given_wins(given):
    values = {
        "image_size": 48, "embedding_size": 24, "head_initializer": "official",
        "images_per_class": 3, "steps": 77, "steps_per_epoch": 11, "learning_rate": 0.5,
        "crop_scale": 0.9, "interpolate": False,
    }  # fmt: skip
    settings = Settings.from_values(**given, **values)
    assert {name: settings.values()[name] for name in values} == values


def test_completing_twice_changes_nothing():
    for given in SITUATIONS.values():
        settings = Settings.from_values(**given)
        assert missing_values(settings) == {}
        assert settings.with_values() == dataclasses.replace(settings) == settings


def test_a_head_without_folds_takes_the_untuned_start_and_rate():
    for more in ({"tune": "off"}, {"validation_fraction": 0.2}, {"hdml": "paper"}):
        settings = Settings.from_values(**SITUATIONS["frozen"], **more)
        assert settings.training.tune == "off"
        assert settings.model.head_initializer == UNTUNED_HEAD["head_initializer"]
        assert settings.training.learning_rate == UNTUNED_HEAD["learning_rate"]


def test_the_backbone_follows_the_rate_of_the_head():
    settings = Settings.from_values(**SITUATIONS["finetuned"], learning_rate=0.02)
    assert settings.training.backbone_learning_rate == 0.02
    for backbone in ("mine.keras", "hub:dinov2_small"):  # perhaps a transformer
        settings = Settings.from_values(weights="", backbone=backbone, learning_rate=0.02)
        assert settings.training.backbone_learning_rate == pytest.approx(0.002)
    still = Settings.from_values(weights="a.weights.h5", backbone_learning_rate=0.0)
    assert still.training.backbone_learning_rate == 0


# --- folds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, reason",
    [
        ({"freeze_backbone": False}, "folds need freeze_backbone"),
        ({"validation_fraction": 0.1}, "no validation_fraction"),
        ({"loss": "hierarchical_triplet"}, "class tree"),
        ({"neighbour_classes": 2}, "class tree"),
        ({"hdml": "official"}, "hdml"),
        ({"curriculum": "table.csv"}, "curriculum"),
    ],
)
def test_folds_are_refused_with_the_reason(more, reason):
    given = {**SITUATIONS["frozen"], **more}
    with pytest.raises(ValueError, match=f"tune.*off: .*{reason}"):
        Settings.from_values(**given, tune="folds")
    settings = Settings.from_values(**given)  # unasked, they are not tried
    assert settings.training.tune == "off"
    assert reason in refuses_folds(settings)


def test_folds_of_a_run_that_held_out_nothing_else():
    frozen = {**SITUATIONS["frozen"], "validation_fraction": 0.0}
    assert Settings.from_values(
        **frozen, tune="folds"
    ).training.interpolate  # as settings.json of such a run says
    assert (
        Settings.from_values(**frozen).training.tune == "off"
    )  # unasked, no held-out classes means no choice


def test_folds_are_not_refused_for_a_plain_head():
    settings = Settings.from_values(**SITUATIONS["frozen"], loss="n_pair", feature_views=2)
    assert refuses_folds(settings) == "" and settings.training.tune == "folds"


# --- interpolation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, False),
        ({"weights": "a.weights.h5"}, True),
        ({"freeze_backbone": True}, True),
        ({"weights": "a.weights.h5", "frozen_batch_norm": False}, False),
        ({"weights": "a.weights.h5", "validation_fraction": 0.0}, False),
        # with a frozen backbone folds choose; without them there is nothing to choose by
        ({"freeze_backbone": True, "tune": "off", "validation_fraction": 0.0}, False),
        ({"freeze_backbone": True, "tune": "off"}, True),
    ],
)
def test_interpolation_is_on_where_it_means_something(given, expected):
    assert Settings.from_values(**given).training.interpolate is expected
    if not expected:
        with pytest.raises(ValueError, match="--interpolate out"):
            Settings.from_values(**given, interpolate=True)


def test_a_network_from_scratch_with_frozen_statistics_may_be_interpolated():
    settings = Settings.from_values(interpolate=True, frozen_batch_norm=True)
    assert settings.training.interpolate is True
    assert Settings.from_values(frozen_batch_norm=True).training.interpolate is False


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps, expected",
    [
        (600, 100),
        (300, 100),
        (250, 50),
        (77, 77),
        (12, 12),
        (130, 65),
        (1, 1),
        (202, 202),
        (601, 601),
    ],
)
def test_steps_per_epoch_divide_the_steps(steps, expected):
    assert Settings.from_values(steps=steps).training.steps_per_epoch == expected


def test_steps_below_1_are_refused_and_not_divided():
    for steps in (0, -5):
        with pytest.raises(ValueError, match="steps.*at least 1"):
            Settings.from_values(steps=steps)


@pytest.mark.parametrize(
    "given, num_classes, expected",
    [
        ({}, 50, 0.1),
        ({}, 8, 0.1),
        ({"weights": "a.weights.h5"}, 100, 0.2),
        ({"weights": "a.weights.h5"}, 40, 0.25),  # 10 classes
        ({"weights": "a.weights.h5"}, 12, 1 / 3),
        ({"freeze_backbone": True}, 40, 0.0),  # every class is held out in a fold
        ({"freeze_backbone": True, "tune": "off"}, 40, 0.25),
        ({"weights": "a.weights.h5", "validation_fraction": 0.4}, 100, 0.4),
        ({"validation_fraction": 0.0}, 100, 0.0),
    ],
)
def test_the_share_of_held_out_classes(given, num_classes, expected):
    assert validation_fraction(Settings.from_values(**given), num_classes) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    "given, num_classes, expected",
    [
        ({}, 100, 32),
        ({}, 20, 20),
        ({}, 1, 2),  # too few: the batches say so
        ({"weights": "a.weights.h5"}, 100, 16),
        ({"weights": "a.weights.h5", "classes_per_batch": 9}, 100, 9),
        ({"weights": "a.weights.h5", "neighbour_classes": 3}, 100, 15),
        ({"neighbour_classes": 4}, 11, 8),
    ],
)
def test_classes_in_a_batch(given, num_classes, expected):
    assert classes_per_batch(Settings.from_values(**given), num_classes) == expected


# --- files of settings ---------------------------------------------------------------------------

# every key of a run's settings.json before the choice of weights, with the defaults of then
BEFORE = {
    "dataset": "auto", "data_dir": "", "check_counts": True, "test_fraction": 0.5,
    "test_classes": "", "validation_fraction": 0.1, "validation_groups": None,
    "rotated_classes": False, "framed_drawings": False, "skip_unreadable": False,
    "skip_small_classes": False, "image_size": 64, "resize_to": 0, "augmentation": "auto",
    "distortion": 1.0, "crop_scale": 0.16, "backbone": "small", "weights": "",
    "output_layer": "", "pooling": "avg", "embedding_size": 128, "freeze_backbone": False,
    "feature_views": 1, "frozen_batch_norm": None, "head_initializer": "orthogonal",
    "loss": "multi_similarity", "loss_settings": "", "alpha": 2.0, "beta": 40.0,
    "threshold": 0.5, "epsilon": 0.1, "tree_levels": 16, "tree_linkage": "average",
    "tree_margins": "latest", "hdml": "off", "hdml_settings": "", "classes_per_batch": 32,
    "images_per_class": 4, "neighbour_classes": 1, "curriculum": "", "steps": 600,
    "steps_per_epoch": 100, "learning_rate": 0.002, "backbone_learning_rate": None,
    "coupled_l2": 0.0, "schedule": "cosine", "decay_steps": "", "precision": "float32",
    "devices": 1, "seed": 0, "ks": "1,2,4,8", "evaluation_batch_size": 64,
    "runs_folder": "runs", "export_folder": "saved_models", "run_name": "",
    "export": "saved_model,onnx",
}  # fmt: skip


def read_old(folder, **changes):
    (folder / "settings.json").write_text(json.dumps({**BEFORE, **changes}))
    return RunFolder(folder).read_settings()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weights": "a.weights.h5"},
        {"weights": "a.weights.h5", "freeze_backbone": True},
        {"weights": "a.weights.h5", "freeze_backbone": True, "validation_fraction": 0.0},
        {"weights": "a.weights.h5", "augmentation": "none"},
        {"weights": "a.weights.h5", "augmentation": "distort", "crop_scale": 0.16},
        {"weights": "a.weights.h5", "backbone_learning_rate": 1e-5},
        {"weights": "a.weights.h5", "backbone_learning_rate": 0.0},
    ],
    ids=lambda changes: ", ".join(changes) or "scratch",
)
def test_a_run_of_the_version_before_goes_on_as_it_began(tmp_path, changes):
    settings = read_old(tmp_path, **changes)
    assert (settings.training.tune, settings.training.interpolate) == ("off", False)
    values = settings.values()
    expected = translated({**BEFORE, **changes})
    if settings.model.weights and not settings.model.freeze_backbone:
        # the backbone trained at the rate of the head where none was given
        rate = expected["backbone_learning_rate"]
        expected["backbone_learning_rate"] = 0.002 if rate is None else rate
    assert {name: values[name] for name in expected} == expected


def test_a_new_run_goes_on_with_its_own(tmp_path):
    for number, given in enumerate(SITUATIONS.values()):
        run = RunFolder(tmp_path / str(number))
        settings = Settings.from_values(**given, classes_per_batch=4)
        run.create(settings)
        assert run.read_settings() == settings
