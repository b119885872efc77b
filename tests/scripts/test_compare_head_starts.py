"""scripts/compare_head_starts.py: what it trains is what train.py trains, and its tables."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_ms
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.run.choice import MeasuredWeights
from keras_ms.run.head_folds import ALPHAS, HeadFolds, class_folds

_FILE = Path(__file__).resolve().parents[2] / "scripts" / "compare_head_starts.py"


@pytest.fixture(scope="module")
def script():
    # beside it lies comparison.py, which it imports as a script does
    sys.path.insert(0, str(_FILE.parent))
    try:
        spec = importlib.util.spec_from_file_location("compare_head_starts", _FILE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(_FILE.parent))


@pytest.fixture(scope="module")
def experiment(script):
    return sys.modules["head_start_experiment"]


def _arrays(num_classes=18, images=6, channels=8):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), images)
    features = random.normal(size=(num_classes, channels))[labels]
    features = (features + 0.7 * random.normal(size=features.shape)).astype("float32")
    return features, labels, labels >= 12


def _comparison(script, folder, features=None, steps=4):
    own, labels, is_test = _arrays()
    plan = script.Plan(size=4, steps=steps, classes=3, seeds=(0,), all_steps=(2,), sizes=(2, 4))
    feature_set = script.FeatureSet("tiny", own if features is None else features, labels, is_test)
    return script.Comparison([feature_set], folder, plan), feature_set


@pytest.mark.slow
@pytest.mark.release
def test_a_fold_trains_the_weights_that_train_py_trains(script, experiment):
    features, labels, is_test = _arrays()
    rows, ids = features[~is_test], labels[~is_test]
    folds, steps = class_folds(ids, 0), 8
    feature_set = script.FeatureSet("tiny", features, labels, is_test)
    ours = experiment.Heads(feature_set, rows, ids, folds, seed=0, size=4, steps=steps, classes=3)
    # as keras_ms.run.training builds it from the settings of a run
    theirs = HeadFolds(
        rows[None], ids, folds, embedding_size=4, loss=keras_ms.MultiSimilarityLoss(),
        normalize=True, optimizer=keras_ms.GroupedAdam,
        schedule=keras.optimizers.schedules.CosineDecay(1.0, steps),
        batches=lambda x, y: balanced_batches(
            (x, y), classes_per_batch=3, images_per_class=5, seed=0
        ),
        steps=steps, starts=("pca",), rates=(1e-2,), alphas=(0.0, 1.0), random_start=None, ks=(1,),
    )  # fmt: skip
    ends = []
    for heads in (ours, theirs):
        heads.measure(1, "whitened", 1e-2)
        ends.append([keras.ops.convert_to_numpy(v) for v in heads._model.trainable_variables])
    begin = ours._start("whitened", ~folds[1])[0]
    assert np.abs(ends[0][0] - begin).max() > 0.01
    for our, their in zip(*ends):
        np.testing.assert_allclose(our, their, atol=1e-3)


def test_each_seed_has_a_random_start_and_batches_of_its_own(script, experiment):
    features, labels, is_test = _arrays()
    feature_set = script.FeatureSet("tiny", features, labels, is_test)
    starts = {}
    for seed in (0, 1):
        heads = experiment.Heads(
            feature_set, features, labels, [is_test], seed=seed, size=4, steps=2, classes=3
        )
        for name in script.RANDOM_STARTS:
            starts[name, seed] = heads._start(name, ~is_test)[0]
    assert all(kernel.shape == (8, 4) for kernel in starts.values())
    kernel = starts["orthogonal", 0]
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(4), atol=1e-5)
    for name in script.RANDOM_STARTS:
        assert np.abs(starts[name, 0] - starts[name, 1]).max() > 0.1


@pytest.mark.slow
@pytest.mark.release
def test_a_search_among_all_finds_what_a_literal_one_finds(script, tmp_path):
    comparison, feature_set = _comparison(script, tmp_path)
    run = comparison.run(feature_set, "folds", "pca", 1e-4)
    rows, ids = feature_set.train
    held = class_folds(ids, 0)[0]
    kernel, bias = comparison._heads[1]._start("pca", ~held)
    embeddings = rows @ kernel + bias
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarities = embeddings @ embeddings.T
    np.fill_diagonal(similarities, -2)
    within = np.where(held[None], similarities, -2)
    for name, found in (("among_all", similarities), ("recall", within)):
        right = ids[found.argmax(axis=1)] == ids
        assert run[name][0] == pytest.approx(right[held].mean()), name
    assert run["images"] == held.sum() and len(run["recall"]) == len(ALPHAS)


@pytest.mark.slow
@pytest.mark.release
def test_what_is_chosen_by_does_not_see_the_test_classes(script, tmp_path):
    features, _, is_test = _arrays()
    spoilt = np.where(is_test[:, None], np.nan, features).astype("float32")
    found = []
    for name, arrays in (("whole", features), ("spoilt", spoilt)):
        comparison, feature_set = _comparison(script, tmp_path / name, arrays)
        fifth = comparison.run(feature_set, "a fifth", "whitened", 1e-4, seed=1)
        by_folds = comparison.by_folds(feature_set, rates=(1e-4,), starts=("pca",))
        found.append([c.recall[1] for c in by_folds] + fifth["recall"])
    np.testing.assert_allclose(*found)


@pytest.mark.slow
@pytest.mark.release
def test_tables_of_a_quick_run_which_is_not_repeated(script, tmp_path, monkeypatch, capsys):
    features, labels, is_test = _arrays()
    np.savez(
        tmp_path / "a.npz", features=features, labels=labels,
        split=np.where(is_test, "test", "train"),
    )  # fmt: skip
    parts = "acceptance,protocols"
    arguments = [str(tmp_path / "a.npz"), "--to", str(tmp_path / "to"), "--quick"]
    monkeypatch.setattr(
        sys, "argv", ["compare_head_starts.py", *arguments, "--parts", parts, "--seeds", "1"]
    )
    monkeypatch.setattr(script, "SHARES", {"a fifth": (5, 1)})
    script.main()
    assert "| a | 12 |" in capsys.readouterr().out
    tables = {part: (tmp_path / "to" / f"{part}.md").read_text() for part in parts.split(",")}
    assert [len(table.splitlines()) for table in tables.values()] == [3, 2 + 3]
    for table in tables.values():
        assert len({line.count("|") for line in table.splitlines()}) == 1
    done = (tmp_path / "to" / "results.jsonl").read_text()
    script.main()
    assert (tmp_path / "to" / "results.jsonl").read_text() == done
    assert {json.loads(line)["division"] for line in done.splitlines()} == {
        "folds", "test", "a fifth",
    }  # fmt: skip


def test_sizes_starts_and_others_have_a_row_for_each_training(script, tmp_path, monkeypatch):
    comparison, feature_set = _comparison(script, tmp_path)
    runs = []

    def run(feature_set, division, start, rate, *, seed=0, fold=0, **changes):
        runs.append((division, start, rate, changes))
        reached = 0.5 + (start == "whitened") * 0.1
        return {"recall": [reached] * len(ALPHAS), "images": 3, "steps": changes.get("steps", 4)}

    monkeypatch.setattr(comparison, "run", run)
    assert "| tiny | whitened | 60.0 → 60.0 | 60.0 → 60.0 |" in list(script.sizes(comparison))
    # four starts at one length each, two rates
    assert len(list(script.starts(comparison))) == 2 + 8
    runs.clear()
    header, _, row = script.others(comparison)
    assert header.count("|") == row.count("|") and row.startswith("| tiny | 60.00, 0.0001 α 0 |")
    assert {division for division, *_ in runs} == {"folds"}


def test_few_images_are_drawn_from_the_training_classes(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "FEW", ((3, 2), (30, 2)))
    monkeypatch.setattr(script, "HELD_OUT", 4)
    monkeypatch.setattr(script, "DRAWS", 2)
    comparison, _ = _comparison(script, tmp_path)
    header, _, row = script.few(comparison)  # thirty classes are more than there are
    assert header.count("|") == row.count("|") and row.startswith("| tiny | 3 | 2 |")
    recalls = [float(cell) for cell in row.split("|")[4:-1]]
    assert len(recalls) == 10 and min(recalls) > 25
    # all dimensions along principal axes: the features, but for their mean
    assert recalls[3] == pytest.approx(recalls[0], abs=20)


def test_the_divisions_hold_out_whole_classes(experiment):
    labels = np.repeat(np.arange(12), 4)
    assert [held.sum() for held in experiment.divisions("a fifth", labels, 0)] == [8]
    # two classes at least
    assert [held.sum() for held in experiment.divisions("a tenth", labels, 0)] == [8]
    draws = [experiment.divisions("a fifth", labels, draw)[0] for draw in range(3)]
    assert len({draw.tobytes() for draw in draws}) > 1
    folds = np.stack(experiment.divisions("folds", labels, 0))
    assert (folds.sum(axis=0) == 1).all()


def test_correlation_pairs_equal_candidates(script):
    def candidates(values, reverse=False):
        found = [MeasuredWeights(4, alpha, {1: v}, "pca", 1e-4) for alpha, v in zip(ALPHAS, values)]
        return found[::-1] if reverse else found

    tested = candidates([0.1, 0.3, 0.2], reverse=True)
    assert script.correlation(candidates([0.2, 0.6, 0.4]), tested) == pytest.approx(1.0)
    assert script.correlation(candidates([0.6, 0.2, 0.4]), tested) == pytest.approx(-1.0)
    assert np.isnan(script.correlation(candidates([0.5, 0.5, 0.5]), tested))


def test_a_file_says_which_classes_are_for_testing_or_the_second_half_are(script, tmp_path, capsys):
    features, labels, _ = _arrays()
    parser = argparse.ArgumentParser()
    np.savez(tmp_path / "half.npz", features=features, labels=labels)
    assert (script.FeatureSet.read(parser, tmp_path / "half.npz").is_test == (labels >= 9)).all()
    np.savez(tmp_path / "none.npz", features=features, labels=labels, split=["train"] * len(labels))
    with pytest.raises(SystemExit):
        script.FeatureSet.read(parser, tmp_path / "none.npz")
    assert "none.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("--parts", "starts,gallery", "gallery"), ("--seeds", "0", "at least 1")],
)
def test_senseless_options_are_refused(script, monkeypatch, capsys, option, value, expected):
    monkeypatch.setattr(sys, "argv", ["compare_head_starts.py", "a.npz", option, value])
    with pytest.raises(SystemExit):
        script.main()
    assert expected in capsys.readouterr().err
