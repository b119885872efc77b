"""The comparison of losses on whole networks: its options, its choices and its tables."""

import pytest

from keras_ms.cli.train import _given, _with_options
from keras_ms.run.settings import Settings

WORDS = ["--data-dir", "birds", "--weights", "mobilenet_v2.weights.h5", "--steps", "100"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend("scripts")
    import compare_whole_networks

    return compare_whole_networks


@pytest.fixture
def comparison(script, tmp_path):
    return script.Comparison(script.parsed([*WORDS, "--to", str(tmp_path)]))


def test_every_trial_has_options_of_train(script, comparison):
    parts = [
        {**script.TRIALS["multi_similarity"][0], **change, "embedding_size": 64}
        for change in script.PARTS.values()
    ]
    for trials in [*script.TRIALS.values(), parts]:
        assert len(trials) == 3 or trials is parts
        for setting in trials:
            given = []
            for name, value in comparison.words(setting, 1).items():
                given += [f"--{name.replace('_', '-')}", str(value)]
            settings = Settings.from_values(**_with_options(_given(given)[1]))
            assert settings.loss.name == setting["loss"]
            for name, value in setting.items():
                if name.startswith("loss."):
                    assert settings.loss.options[name.removeprefix("loss.")] == value
            assert settings.hdml.mode == setting.get("hdml", "off")


def test_the_setting_with_the_best_held_out_classes_is_measured_from_three_seeds(
    script, comparison, monkeypatch
):
    asked = []

    def run(setting, seed):
        asked.append((setting, seed))
        margin = setting.get("loss.margin", setting.get("loss.threshold"))
        # the best on the test classes is not the best on the held-out ones
        return {
            "validation": {0.05: 0.5, 0.1: 0.7, 0.2: 0.6}.get(margin, 0.4),
            "test": {0.05: 0.9, 0.1: 0.3 + 0.01 * seed, 0.2: 0.8}.get(margin, 0.5),
            "last": 0.25,
            "start": 0.2,
            "features": 0.1,
        }

    monkeypatch.setattr(comparison, "_run", run)
    names = ["triplet, semi-hard", "contrastive"]
    lines = script.tables(comparison, names, losses_only=True)
    rows = [line.split(" | ") for line in lines if line.startswith(("| triplet", "| contr"))]
    assert [row[0] for row in rows] == ["| contrastive", "| triplet, semi-hard"]
    assert rows[1][1:4] == ["margin=0.1", "70.0 ± 0.0", "31.0 ± 1.0"]
    assert lines[-1] == "Pooled features 10.0, start 20.0."
    assert len(asked) == 10
    script.tables(comparison, names, losses_only=True)
    assert len(asked) == 10


def test_another_precision_is_another_network(script, tmp_path):
    seen = []
    for precision in ("float32", "mixed_bfloat16"):
        words = [*WORDS, "--to", str(tmp_path), "--precision", precision]
        comparison = script.Comparison(script.parsed(words))
        comparison._run = lambda setting, seed: seen.append(precision) or {"test": 0.5}
        setting = script.TRIALS["contrastive"][0]
        assert comparison.words(setting, 0)["precision"] == precision
        comparison.trained(setting, 0)
        comparison.trained(setting, 0)
    assert seen == ["float32", "mixed_bfloat16"]
