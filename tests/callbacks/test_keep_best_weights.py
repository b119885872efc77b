"""The best weights: kept at every measurement, restored, and known to a run that is continued."""

import types
import warnings

import keras
import numpy as np
import pytest

from keras_ms.callbacks import KeepBestWeights, RecallAtK
from keras_ms.callbacks.kept_weights import weights_of_file
from keras_ms.evaluation.retrieval import recall_at_k

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 5
IMAGES = (RNG.normal(size=(5, 12))[LABELS] + 2 * RNG.normal(size=(40, 12))).astype("float32")
OTHERS = IMAGES[:30], np.arange(30) % 5


def embedder(seed=1, rate=0.0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(6)])
    model.compile(keras.optimizers.SGD(rate), "mse", run_eagerly=True)
    return model


def fit(model, *callbacks, epochs=3, **options):
    """5 steps an epoch."""
    model.fit(
        IMAGES, np.zeros((40, 6)), batch_size=8, epochs=epochs, callbacks=list(callbacks),
        verbose=0, **options,
    )  # fmt: skip


def by_a_callback(path=None, dataset=(IMAGES, LABELS), *, in_memory=False, restore=False, **more):
    recall = RecallAtK(dataset, **more)
    best = KeepBestWeights(recall, path, in_memory=in_memory, restore=restore)
    return recall, best, [recall, best]


def by_arguments(path=None, dataset=(IMAGES, LABELS), *, in_memory=False, restore=False, **more):
    """As before there was a callback for it."""
    with pytest.warns(DeprecationWarning, match="put keras_ms.KeepBestWeights"):
        recall = RecallAtK(
            dataset, weights_path=path, restore_best_weights=restore,
            keep_best_weights=in_memory or path is None, **more,
        )  # fmt: skip
    best = types.SimpleNamespace(load=recall.load_best_weights)
    return recall, best, [recall]


both_ways = pytest.mark.parametrize("way", [by_a_callback, by_arguments])


def spoil(model, when):
    """A callback after whose epochs `when` all weights are 0."""

    def on_epoch_end(epoch, logs):
        if epoch in when:
            model.set_weights([np.zeros_like(value) for value in model.get_weights()])

    return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)


def recall_of(model):
    return recall_at_k(model(IMAGES, training=False), LABELS)[1]


@both_ways
@pytest.mark.parametrize("to_file", [False, True])
def test_the_best_weights_are_kept_and_restored(way, to_file, tmp_path):
    path = tmp_path / "weights" / "best.weights.h5" if to_file else None
    model = embedder(rate=0.05)
    recall, best, callbacks = way(path, restore=True, at_start=False)
    fit(model, spoil(model, {2}), *callbacks)
    assert recall.history[-1][1][1] == 0  # collapsed, yet the best comes back
    assert recall.best_value == max(recalls[1] for _, recalls in recall.history) > 0
    assert recall.best_step in (5, 10)
    assert recall_of(model) == recall.best_value
    weights = recall.best_weights if way is by_arguments else best.weights
    assert (weights is None) == to_file
    if to_file:
        assert [file.name for file in path.parent.iterdir()] == ["best.weights.h5"]


@both_ways
def test_the_start_can_be_the_best(way):
    model = embedder()
    start = recall_of(model)
    recall, _, callbacks = way(restore=True)
    fit(model, spoil(model, {0, 1, 2}), *callbacks)
    assert (recall.best_step, recall.best_value) == (0, start)
    assert recall_of(model) == start


@both_ways
def test_a_step_within_an_epoch_can_be_the_best(way):
    model = embedder()
    good, steps = model.get_weights(), []

    def on_train_batch_end(batch, logs):
        steps.append(batch)
        is_good = len(steps) == 4
        model.set_weights([value * is_good for value in good])

    recall, best, callbacks = way(every_steps=2, at_start=False)
    change = keras.callbacks.LambdaCallback(on_train_batch_end=on_train_batch_end)
    fit(model, change, *callbacks)
    assert recall.best_step == 4
    best.load()
    for value, expected in zip(model.get_weights(), good, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_what_was_not_measured_is_not_kept(tmp_path):
    model = embedder()
    recall = RecallAtK((IMAGES, LABELS), at_start=False)
    recall.best_value, recall.best_step = 2.0, 3  # of weights that nobody has any more
    best = KeepBestWeights(recall, restore=True)
    fit(model, recall, best, epochs=1)
    assert best.weights is None and not best.has_weights
    with pytest.raises(ValueError, match="nothing was measured"):
        best.load()


def test_a_callback_before_its_recall_or_without_it_is_refused():
    recall = RecallAtK((IMAGES, LABELS))
    for callbacks in ([KeepBestWeights(recall), recall], [KeepBestWeights(recall)]):
        with pytest.raises(ValueError, match=r"callbacks=\[recall, best\]"):
            fit(embedder(), *callbacks)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_ending_is_refused():
    recall = RecallAtK((IMAGES, LABELS))
    with pytest.raises(ValueError, match="ends in '.weights.h5'. Received: best.h5"):
        KeepBestWeights(recall, "best.h5")
    with pytest.raises(ValueError, match="ends in '.weights.h5'. Received: best.h5"):
        RecallAtK((IMAGES, LABELS), weights_path="best.h5")
    with pytest.raises(ValueError, match="keeps no weights: put keras_ms.KeepBestWeights"):
        recall.load_best_weights()


# --- a run that is continued in another process


def interrupted(way, folder, at=None, spoiled=(), dataset=(IMAGES, LABELS), **options):
    """A fit with BackupAndRestore that stops in epoch `at`; its weights are lost in `spoiled`."""
    model = embedder()
    recall, _, callbacks = way(folder / "best.weights.h5", dataset, **options)

    def on_epoch_end(epoch, logs):
        if epoch == at:
            raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    try:
        fit(model, *callbacks, spoil(model, spoiled), stop, backup, epochs=5)
    except KeyboardInterrupt:
        pass
    return recall


def kept_value(folder):
    model = embedder(seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an optimizer's state that this one lacks
        model.load_weights(folder / "best.weights.h5")
    return recall_of(model)


@both_ways
def test_better_weights_outlive_a_restart(way, tmp_path):
    before = interrupted(way, tmp_path, at=3, spoiled={1})
    assert before.best_value == kept_value(tmp_path) > 0
    after = interrupted(way, tmp_path)
    assert (after.best_value, after.best_step) == (before.best_value, before.best_step)
    assert (after.best_value, after.best_step) == (kept_value(tmp_path), 0)
    # the epoch that was cut short is trained again; what it begins with may be measured once more
    steps = [step for step, _ in after.history]
    assert steps == ([15, 20, 25] if way is by_a_callback else [20, 25])
    assert after.history[-1][1][1] < after.best_value


@both_ways
def test_a_fit_that_begins_anew_replaces_the_file(way, tmp_path):
    interrupted(way, tmp_path, ks=(5,))
    again = interrupted(way, tmp_path, ks=(1,))  # another K: no matter, nothing is continued
    assert again.best_step == 0
    assert again.best_value == kept_value(tmp_path)


@both_ways
@pytest.mark.parametrize(
    "changed", [{"ks": (2, 1)}, {"dataset": OTHERS}], ids=["another K", "other images"]
)
def test_a_file_of_another_measure_is_refused_before_training_goes_on(way, changed, tmp_path):
    interrupted(way, tmp_path, at=2)
    bytes_before = (tmp_path / "best.weights.h5").read_bytes()
    with pytest.raises(ValueError, match=r"recall@1.*cannot be compared.*remove the file"):
        interrupted(way, tmp_path, **changed)
    assert (tmp_path / "best.weights.h5").read_bytes() == bytes_before


@both_ways
def test_a_file_without_a_value_is_said_and_replaced(way, tmp_path):
    interrupted(way, tmp_path, at=2)
    embedder().save_weights(tmp_path / "best.weights.h5")
    with pytest.warns(UserWarning, match="does not say which recall"):
        recall = interrupted(way, tmp_path)
    assert recall.best_value == kept_value(tmp_path)


@both_ways
def test_a_continued_run_has_its_best_weights_in_memory_too(way, tmp_path):
    for epoch in (0, 1):
        model = embedder()
        recall, best, callbacks = way(tmp_path / "best.weights.h5", in_memory=True)
        fit(model, *callbacks, initial_epoch=epoch, epochs=epoch + 1)
    weights = recall.best_weights if way is by_arguments else best.weights
    for value, expected in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_model_has_its_own_weights_again_whatever_happens(tmp_path):
    model, other = embedder(seed=1), embedder(seed=2)
    own = model.get_weights()
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(RuntimeError), weights_of_file(model, tmp_path / "other.weights.h5"):
        np.testing.assert_array_equal(model.get_weights()[0], other.get_weights()[0])
        raise RuntimeError
    np.testing.assert_array_equal(model.get_weights()[0], own[0])
    wide = keras.Sequential([keras.Input((12,)), keras.layers.Dense(7)])
    wide.save_weights(tmp_path / "wide.weights.h5")
    with pytest.raises(ValueError), weights_of_file(model, tmp_path / "wide.weights.h5"):
        pass
    for value, expected in zip(model.get_weights(), own, strict=True):
        np.testing.assert_array_equal(value, expected)
