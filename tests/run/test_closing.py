"""The closing words of a run."""

from pathlib import Path

import pytest

from keras_ms.run.closing import (
    KeptWeights,
    closing_table,
    closing_words,
    finite_recall,
    kept_weights,
    next_words,
    shortfall,
)
from keras_ms.run.settings import Settings

RESULTS = {
    "validation": {
        "pooled_features": {"1": 0.6, "2": 0.7}, "step_0": {"1": 0.61, "2": 0.7},
        "last": {"1": 0.55, "2": 0.66}, "chosen": {"1": 0.64, "2": 0.75},
    },
    "test": {
        "exported": {"1": 0.53, "2": 0.66}, "pooled_features": {"1": 0.5, "2": 0.6},
        "step_0": {"1": 0.51, "2": 0.6}, "last": None, "chosen": {"1": 0.53, "2": 0.66},
    },
}  # fmt: skip


def test_the_table_has_the_stages_in_their_order():
    lines = closing_table(RESULTS, (1, 2)).splitlines()
    assert lines[0].split() == ["validation", "test", "(unseen)"]
    assert lines[1].split() == ["Recall@K", "@1", "@1", "@2"]
    assert [line.split() for line in lines[2:]] == [
        ["pooled", "features", "0.600", "0.500", "0.600"],
        ["step", "0", "0.610", "0.510", "0.600"],
        ["last", "0.550", "NaN", "NaN"],
        ["chosen", "0.640", "0.530", "0.660"],
        ["exported", "files", "0.530", "0.660"],
    ]
    assert len({len(line) for line in lines}) == 1  # every column ends below its head


def test_what_a_run_lacks_is_left_out():
    results = {"validation": {}, "test": {"raw_pixels": {"1": 0.12}, "last": {"1": 0.9}}}
    lines = closing_table(results, (1,)).splitlines()
    assert [line.split() for line in lines[2:]] == [["raw", "pixels", "0.120"], ["last", "0.900"]]


def test_the_next_commands_can_be_pasted(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])
    run, exports = Path("my runs/a"), {"onnx": {"path": "saved_models/a/embedder.onnx"}}
    report, embed = next_words(run, "my photos", exports)
    assert report.endswith(": keras-ms report 'my runs/a'")
    assert embed.endswith(": keras-ms embed saved_models/a/embedder.onnx 'my photos' --to rows")
    assert next_words(run, "", exports) == next_words(run, "my photos", {}) == [report]
    # of an environment that is not activated the shell finds no program
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert next_words(run, "", exports) == [report]  # nor is it beside Python
    (tmp_path / "keras-ms").touch()
    assert next_words(run, "", exports)[0].endswith(f": {tmp_path / 'keras-ms'} report 'my runs/a'")
    monkeypatch.setattr("sys.argv", [".venv/bin/keras-ms", "train"])
    assert next_words(run, "", exports)[0].endswith(": .venv/bin/keras-ms report 'my runs/a'")


def below(classes, chosen, pooled=0.5):
    results = {"validation": {}, "test": {}}
    results[classes] = {"chosen": {"1": chosen}, "pooled_features": {"1": pooled}}
    return results


def test_a_shortfall_is_told_with_its_numbers():
    sentence = shortfall(below("test", 0.48))
    assert "0.480 against 0.500 on the test classes" in sentence
    assert "validation" not in sentence
    both = below("test", 0.48) | {"validation": below("validation", 0.1)["validation"]}
    assert "validation classes, 0.480 against" in shortfall(both)


START = KeptWeights(True, "as no classes could be held out to choose by", "whitened", 1e-3)


def test_of_a_head_that_stayed_at_its_start_no_other_training_is_advised():
    results = below("test", 0.48)
    assert "a smaller --learning-rate" in shortfall(results, START._replace(is_start=False))
    assert "learning-rate" not in shortfall(results, START)
    results["test"]["last"] = {"1": 0.4}
    table, said, advice = closing_words(results, (1,), START)
    assert said.startswith("Training changed nothing: the weights of the start are kept, as no")
    assert advice == shortfall(results, START)


def test_what_was_kept_is_told_by_what_was_measured():
    usual = Settings.from_values(
        dataset="folder", data_dir="photos", backbone="mobilenet_v2", weights="imagenet",
        freeze_backbone=True, tune="off",
    )  # fmt: skip
    moved, idle = [{"mined_anchors": 0.5}, {"mined_anchors": 0.0}], [{"mined_anchors": 0.0}] * 2
    assert not kept_weights(usual, None, moved).is_start
    assert not kept_weights(usual, None, []).is_start
    assert not kept_weights(usual, None, [{"loss": 0.1}]).is_start
    assert "anything left to learn" in kept_weights(usual, None, idle).why
    # statistics of batches move without a loss
    whole = usual.with_values(freeze_backbone=False)
    assert not kept_weights(whole, None, idle).is_start


@pytest.mark.parametrize("classes", ["validation", "test"])
def test_no_shortfall_no_words(classes):
    assert shortfall(below(classes, 0.5)) == ""
    assert shortfall(below(classes, 0.6)) == ""
    assert shortfall({"validation": {}, "test": {"last": {"1": 0.1}}}) == ""
    assert shortfall(RESULTS) == ""


def test_without_a_choice_the_last_weights_count():
    results = {"validation": {}, "test": {"last": {"1": 0.4}, "pooled_features": {"1": 0.5}}}
    assert "0.400 against 0.500" in shortfall(results)


def test_what_counts_is_the_chosen_weights_then_the_last_ones():
    last = {"1": 0.4, "2": 0.5}
    assert finite_recall(RESULTS, Path("last.weights.h5")) == RESULTS["test"]["chosen"]
    assert finite_recall({"test": {"last": last}}, Path("last.weights.h5")) == last
    for test in ({"last": None}, {"last": last, "chosen": None}):
        with pytest.raises(ValueError, match="nothing to export.*last.weights.h5.*float32"):
            finite_recall({"test": test}, Path("last.weights.h5"))


def test_a_training_whose_last_weights_diverged_is_told():
    table, diverged = closing_words(RESULTS, (1, 2))
    assert table == closing_table(RESULTS, (1, 2))
    assert "earlier ones were kept. Lower the learning rate" in diverged
