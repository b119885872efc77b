"""Settings as earlier versions wrote them: values packed in text, all by flat names."""

import json
from pathlib import Path

import pytest

from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings
from keras_ms.run.settings.earlier import translated

# settings.json as the version before the groups wrote them
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
WRITTEN_WITH = {
    "default": {},
    "options": {
        "data_dir": "photos", "loss_options": {"alpha": 3.0, "epsilon": None, "jit_compile": False},
        "hdml": "paper",
        "hdml_options": {"alpha": 0.5, "beta": 1000.0, "generator_learning_rate": 0.001},
        "schedule": "step", "steps": 800, "decay_steps": (300, 600), "ks": (1, 10, 100),
        "export": ("onnx",),
    },
    "triplet": {
        "weights": "a.weights.h5", "freeze_backbone": True, "loss": "triplet",
        "loss_options": {"margin": 0.2, "mining": "hard"}, "export": (),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_WITH)
def test_files_of_the_version_before_give_the_same_settings(name, tmp_path):
    file = FIXTURES / f"settings_before_groups_{name}.json"
    expected = Settings.from_values(**WRITTEN_WITH[name])
    assert Settings.read(file) == expected
    run = RunFolder(tmp_path)
    run.settings_file.write_bytes(file.read_bytes())
    assert run.read_settings() == expected


def test_what_is_given_wins_over_an_earlier_file():
    file = FIXTURES / "settings_before_groups_triplet.json"
    settings = Settings.read(file, {"loss_options": {"margin": 0.4}, "steps": 200})
    assert settings.loss.options == {"margin": 0.4, "mining": "hard"}
    assert settings.training.steps == 200
    other = Settings.read(file, {"loss": "contrastive"})
    assert (other.loss.name, other.loss.options) == ("contrastive", {})


def test_python_takes_the_keys_of_before():
    settings = Settings.from_values(
        loss="triplet", loss_settings="margin=0.2, mining=hard,jit_compile=False", ks="10, 4,100"
    )
    assert settings.loss.options == {"margin": 0.2, "mining": "hard", "jit_compile": False}
    assert settings.evaluation.ks == (1, 4, 10, 100)
    assert Settings.from_values(beta=50.0).loss.options == {"beta": 50.0}
    # as files held it, whatever the loss
    assert Settings.from_values(loss="triplet", beta=40.0).loss.options == {}


def test_groups_and_flat_names_may_be_mixed():
    values = {"training": {"seed": 1}, "steps": 30, "loss": {"name": "triplet"}}
    assert translated(values) == {"steps": 30, "seed": 1, "loss": "triplet"}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"loss": "triplet", "alpha": 1.0}, "alpha.*multi_similarity.*loss_options"),
        ({"alpha": 1.0, "loss_settings": "alpha=2"}, "alpha once"),
        ({"loss": "triplet", "loss_settings": "margin=1,margin=2"}, "margin is there twice"),
        ({"loss": "triplet", "loss_settings": "margin"}, "loss_settings.*name=value"),
        ({"loss_settings": 3}, "loss_settings.*text"),
        ({"ks": "1,two"}, "ks.*whole numbers"),
        ({"schedule": "step", "decay_steps": "half"}, "decay_steps.*whole numbers"),
        ({"export": "coreml"}, "export.*saved_model, onnx"),
    ],
)
def test_text_that_says_nothing_is_refused_by_name(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Settings.from_values(**values)
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"{message}.*settings.json"):
        Settings.read(file)
