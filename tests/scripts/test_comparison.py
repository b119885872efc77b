"""What the compare_*.py scripts share: runs that are kept, validation classes, the head."""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pytest

_FILE = Path(__file__).resolve().parents[2] / "scripts" / "comparison.py"
_SPEC = importlib.util.spec_from_file_location("comparison", _FILE)
comparison = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(comparison)


def _results(folder):
    return comparison.Results(folder, lambda run: [run["name"], run.get("size")], ("curve",))


def test_a_finished_run_is_not_repeated(tmp_path, capsys):
    calls = []

    def function():
        calls.append(1)
        return {"recall": 0.5, "curve": [0.1, 0.5]}

    first = _results(tmp_path).find_or_run({"name": "a"}, function)
    assert "recall" in capsys.readouterr().out
    again = _results(tmp_path).find_or_run({"name": "a"}, function)
    assert len(calls) == 1 and again == first and first["curve"] == [0.1, 0.5]
    _results(tmp_path).find_or_run({"name": "a", "size": 64}, function)
    assert len(calls) == 2 and "curve" not in capsys.readouterr().out


def test_a_line_that_was_cut_short_is_dropped_and_run_again(tmp_path):
    _results(tmp_path).find_or_run({"name": "a"}, lambda: {"recall": 0.5})
    file = tmp_path / "results.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"name": "b", "rec')
    results = _results(tmp_path)
    assert results.find_or_run({"name": "b"}, lambda: {"recall": 0.7})["recall"] == 0.7
    assert file.read_text().startswith(whole) and len(file.read_text().splitlines()) == 2
    assert _results(tmp_path).find_or_run({"name": "b"}, None)["recall"] == 0.7


def test_a_whole_line_without_its_end_is_kept(tmp_path):
    _results(tmp_path).find_or_run({"name": "a"}, lambda: {"recall": 0.5})
    file = tmp_path / "results.jsonl"
    file.write_text(file.read_text().rstrip())
    results = _results(tmp_path)
    assert results.find_or_run({"name": "a"}, None)["recall"] == 0.5
    results.find_or_run({"name": "b"}, lambda: {"recall": 0.7})
    assert _results(tmp_path).find_or_run({"name": "b"}, None)["recall"] == 0.7


def test_other_arrays_have_another_digest():
    rows, names = np.arange(6.0).reshape(2, 3), np.array(["train", "val"])
    found = [
        comparison.digest(rows, names),
        comparison.digest(rows + 1, names),
        comparison.digest(rows.astype("float32"), names),
        comparison.digest(rows.T, names),
        comparison.digest(rows, names[::-1]),
    ]
    assert len(set(found)) == 5 and found[0] == comparison.digest(rows.copy(), names.copy())


def test_a_failed_run_leaves_no_line(tmp_path):
    def function():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        _results(tmp_path).find_or_run({"name": "a"}, function)
    assert not (tmp_path / "results.jsonl").exists()


def test_halves_and_validation_classes():
    labels = np.repeat(np.arange(41), 2)
    features = np.arange(82.0)[:, None]
    train, test = comparison.zero_shot_halves(features, labels)
    assert set(train[1]) == set(range(20)) and set(test[1]) == set(range(20, 41))
    assert np.array_equal(np.concatenate([train[0], test[0]]), features)
    held_out = comparison.validation_images(train[1], draw=0)
    assert len(set(train[1][held_out])) == 4
    assert not set(train[1][held_out]) & set(train[1][~held_out])
    assert not np.array_equal(held_out, comparison.validation_images(train[1], draw=1))


def test_equal_seeds_give_equal_heads_with_orthogonal_columns():
    first, again, other = (
        comparison.linear_head(12, 4, seed).get_weights()[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    np.testing.assert_allclose(first.T @ first, np.eye(4), atol=1e-5)


def test_a_diverged_head_recalls_nothing():
    head = comparison.linear_head(3, 2, 0)
    features, labels = np.eye(3, dtype="float32")[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    assert comparison.recalls(head, features, labels)["recall"]["1"] == 1.0
    head.layers[-1].bias.assign([np.nan, 0.0])
    assert comparison.recalls(head, features, labels)["recall"]["1"] == 0.0


def test_a_missing_file_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        comparison.read_features(argparse.ArgumentParser(), tmp_path / "features.npz")
    assert "features.npz" in capsys.readouterr().err


def test_text():
    assert comparison.mean_and_spread([90.0, 92.0]) == "91.0 ± 1.4"
    assert comparison.mean_and_spread([90.0]) == "90.0"
    setting = {"mining": "all", "margin": 0.1, "tree": None}
    assert comparison.short(setting, without=("mining",)) == "margin=0.1"


def test_two_comparisons_do_not_work_in_one_folder(tmp_path):
    with comparison.alone_in(tmp_path / "runs"):
        with pytest.raises(BlockingIOError, match="Another comparison trains in .*runs"):
            with comparison.alone_in(tmp_path / "runs"):
                pass
    with comparison.alone_in(tmp_path / "runs"):
        pass


def test_names_are_looked_up(capsys):
    parser, known = argparse.ArgumentParser(), {"triplet, hard": 1, "margin": 2}
    assert comparison.names_of(parser, "--only", " margin ;", known) == ["margin"]
    assert comparison.names_of(parser, "--only", "", known) == list(known)
    assert comparison.names_of(parser, "--tasks", "b, a", ["a", "b"], ",") == ["b", "a"]
    with pytest.raises(SystemExit):
        comparison.names_of(parser, "--only", "margn", known)
    assert "expected some of triplet, hard; margin. Received: ['margn']" in capsys.readouterr().err
