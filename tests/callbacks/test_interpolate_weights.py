"""Weights between the start and the trained ones: bit for bit, in every kind of `fit`."""

import math
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers
from small_fits import eagerly_unless

from keras_ms import HDML, CrossBatchMemory, MultiSimilarityLoss, Proxies, ProxyNCALoss
from keras_ms.callbacks import InterpolateWeights, KeepBestWeights, RecallAtK
from keras_ms.callbacks.interpolate_weights import interpolated
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.models.embedding import build_embedder

RNG = np.random.default_rng(0)
LABELS = np.arange(48) % 6
IMAGES = (RNG.normal(size=(6, 10))[LABELS] + 1.5 * RNG.normal(size=(48, 10))).astype("float32")
OTHERS = (RNG.normal(size=(4, 10))[np.arange(24) % 4] + RNG.normal(size=(24, 10))).astype("float32")
HELD_OUT = (OTHERS, np.arange(24) % 4)


def embedder(seed=1, dropout=0.2):
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(12, "relu"), layers.Dropout(dropout)] if dropout else []
    last = layers.Dense(4, name="embedding")
    return keras.Sequential([keras.Input((10,), name="image"), *hidden, last])


def compiled(model, rate=0.05, **options):
    options = eagerly_unless(options)
    model.compile(keras.optimizers.Adam(rate), MultiSimilarityLoss(), **options)
    return model


def fitted(model, *callbacks, epochs=2, **options):
    model.fit(IMAGES, LABELS, batch_size=16, epochs=epochs, callbacks=list(callbacks), verbose=0,
              shuffle=False, **options)  # fmt: skip
    return model


class Remember(keras.callbacks.Callback):
    """The weights at the first and at the last moment of training."""

    def on_train_begin(self, logs=None):
        self.start = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.end = self.model.get_weights()


def expected_weights(remember, alpha):
    mixed = [
        ((1 - alpha) * s.astype("float64") + alpha * e.astype("float64")).astype(e.dtype)
        for s, e in zip(remember.start, remember.end)
    ]
    return {0: remember.start, 1: remember.end}.get(alpha, mixed)


def assert_same(values, expected):
    assert len(values) == len(expected)
    for value, other in zip(values, expected):
        np.testing.assert_array_equal(value, other)
        assert value.dtype == other.dtype


# --- the formula ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_interpolated_is_exact_at_the_ends_and_rounds_once_in_between(dtype):
    dtype = keras.ops.convert_to_numpy(keras.ops.zeros((1,), dtype)).dtype
    # with 3e-4 and 1e4, a mean in the dtype itself would lose the small one
    start = np.array([0.1, -3.0, 3e-4, np.inf, 1e4]).astype(dtype)
    end = np.array([0.3, 5.0, 1e4, 1.0, np.nan]).astype(dtype)
    assert interpolated(start, end, 0.0).tobytes() == start.tobytes()
    assert interpolated(start, end, 1.0).tobytes() == end.tobytes()
    mixed = interpolated(start, end, 0.25)
    assert mixed.dtype == dtype
    literal = np.array([0.75 * float(s) + 0.25 * float(e) for s, e in zip(start, end)])
    literal = literal.astype(dtype).astype("float64")
    np.testing.assert_array_equal(mixed.astype("float64"), literal)
    # 0.75 and 0.25 are exact: weights that did not move do not move
    assert interpolated(start, start, 0.25).tobytes() == start.tobytes()


def test_what_is_no_float_is_that_of_the_end():
    seeds = np.array([3, 4], "uint32"), np.array([3, 9], "uint32")
    for alpha in (0.0, 0.5, 1.0):
        assert interpolated(*seeds, alpha) is seeds[1]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.7, 1.0])
def test_the_model_ends_at_the_share_that_is_left_to_choose_from(alpha):
    remember, recall = Remember(), RecallAtK(HELD_OUT, ks=(1, 2))
    between_weights = InterpolateWeights(recall, alphas=(alpha,))
    model = fitted(compiled(embedder()), recall, remember, between_weights)
    # of the dropout only its count goes on, which is no weight
    assert_same(model.get_weights(), expected_weights(remember, alpha))
    assert between_weights.chosen.alpha == alpha
    assert between_weights.chosen.step == 6
    embedded = model.predict(OTHERS, verbose=0)
    assert between_weights.chosen.recalls == recall_at_k(embedded, HELD_OUT[1], (1, 2))


def test_every_candidate_is_measured_with_its_own_weights_and_the_best_is_kept():
    alphas = (0.75, 0.0, 1.0, 0.5, 0.5, 0.25)
    remember, recall = Remember(), RecallAtK(HELD_OUT, ks=(1, 4))
    chooser = InterpolateWeights(recall, alphas=alphas)
    model = fitted(compiled(embedder()), recall, remember, chooser)
    kept = model.get_weights()
    assert [c.alpha for c in chooser.candidates] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for candidate in chooser.candidates:
        model.set_weights(expected_weights(remember, candidate.alpha))
        embedded = model.predict(OTHERS, verbose=0)
        assert candidate.recalls == recall_at_k(embedded, HELD_OUT[1], (1, 4))
    best = max(candidate.recalls[1] for candidate in chooser.candidates)
    first = next(c for c in chooser.candidates if c.recalls[1] == best)
    assert chooser.chosen == first  # of equals the smallest alpha
    assert_same(kept, expected_weights(remember, first.alpha))


def test_of_equals_the_start_is_kept():
    alone = (OTHERS, np.repeat(np.arange(12), 2))
    recall = RecallAtK((np.zeros_like(OTHERS), alone[1]), ks=(1,))
    remember, chooser = Remember(), InterpolateWeights(recall)
    model = fitted(compiled(embedder()), recall, remember, chooser)
    assert len({candidate.recalls[1] for candidate in chooser.candidates}) == 1
    assert chooser.chosen.alpha == 0.0
    assert_same(model.get_weights(), remember.start)


def test_take_sets_a_share_without_measuring():
    remember, recall = Remember(), RecallAtK(HELD_OUT, ks=(1,))
    chooser = InterpolateWeights(recall)
    model = compiled(embedder())
    chooser.set_model(model)
    recall.set_model(model)
    chooser.keep_start()
    fitted(model, remember)
    chooser.take(0.5)
    assert_same(model.get_weights(), expected_weights(remember, 0.5))
    assert recall.history == [] and chooser.candidates == []


# --- the best step -------------------------------------------------------------------------------


@pytest.mark.parametrize("to_file", [False, True])
def test_a_step_on_the_way_can_be_the_best(tmp_path, to_file):
    """Weights that were perfect after the first epoch, and spoiled afterwards."""
    path = tmp_path / "best.weights.h5" if to_file else None
    recall = RecallAtK(HELD_OUT, ks=(1,))
    best = KeepBestWeights(recall, path)
    # constant weights see nothing: the step before is better than all that lies between
    spoil = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (
            epoch and model.set_weights([np.zeros_like(w) for w in model.get_weights()])
        )
    )
    model = compiled(keras.Sequential([keras.Input((10,)), layers.Dense(4)]))
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    lift = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (
            epoch or model.set_weights([np.eye(10, 4, dtype="float32"), np.zeros(4, "float32")])
        )
    )
    chooser = InterpolateWeights(recall, best=best)
    fitted(model, lift, spoil, recall, best, chooser)
    assert chooser.chosen.step == recall.best_step == 3
    assert chooser.chosen.alpha == 1.0
    assert chooser.chosen.recalls[1] == recall.best_value
    np.testing.assert_array_equal(model.layers[-1].kernel, np.eye(10, 4))
    # one candidate more than the grid, and it is said which
    assert [(c.step, c.alpha) for c in chooser.candidates[-2:]] == [(6, 1.0), (3, 1.0)]


def test_weights_that_another_callback_set_at_the_end_are_what_is_measured():
    """EarlyStopping restores its best weights: they, not the last ones, stand at alpha 1."""
    recall, remember = RecallAtK(HELD_OUT, ks=(1, 2)), Remember()
    stop = keras.callbacks.EarlyStopping(
        "val_recall@1", mode="max", patience=1, restore_best_weights=True, start_from_epoch=0
    )
    chooser = InterpolateWeights(recall)
    model = fitted(compiled(embedder(), rate=2.0), recall, stop, remember, chooser, epochs=6)
    for candidate in chooser.candidates:
        model.set_weights(expected_weights(remember, candidate.alpha))
        embedded = model.predict(OTHERS, verbose=0)
        assert candidate.recalls == recall_at_k(embedded, HELD_OUT[1], (1, 2)), candidate.alpha


def test_a_second_fit_with_a_new_start_measures_that_start():
    """The history of the shared RecallAtK begins with the start of the first fit."""
    recall = RecallAtK(HELD_OUT, ks=(1, 2))
    model = fitted(compiled(embedder(), rate=0.5), recall)
    remember, chooser = Remember(), InterpolateWeights(recall, alphas=(0, 1))
    fitted(model, recall, remember, chooser)
    for candidate in chooser.candidates:
        model.set_weights(expected_weights(remember, candidate.alpha))
        embedded = model.predict(OTHERS, verbose=0)
        assert candidate.recalls == recall_at_k(embedded, HELD_OUT[1], (1, 2))


# --- kinds of fit --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize(
    "options",
    [{"steps_per_execution": 2}, {"jit_compile": True}, {"jit_compile": False}],
    ids=lambda options: next(iter(options)),
)
def test_ways_to_compile(options):
    recall, remember = RecallAtK(HELD_OUT, ks=(1,)), Remember()
    chooser = InterpolateWeights(recall, alphas=(0.5,))
    model = fitted(compiled(embedder(), **options), recall, remember, chooser)
    assert_same(model.get_weights(), expected_weights(remember, 0.5))


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_precisions(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(embedder())
    finally:
        keras.config.set_dtype_policy("float32")
    recall, remember = RecallAtK(HELD_OUT, ks=(1,)), Remember()
    chooser = InterpolateWeights(recall, alphas=(0.25,))
    fitted(model, recall, remember, chooser)
    assert_same(model.get_weights(), expected_weights(remember, 0.25))
    assert math.isfinite(chooser.chosen.recalls[1])


def test_checkpoints_are_those_of_training(tmp_path):
    recall, remember = RecallAtK(HELD_OUT, ks=(1,)), Remember()
    last = keras.callbacks.ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", "val_recall@1", mode="max", save_best_only=True
    )
    chooser = InterpolateWeights(recall, alphas=(0.0,))
    model = fitted(compiled(embedder()), recall, last, best, remember, chooser)
    assert_same(model.get_weights(), remember.start)
    model.load_weights(tmp_path / "last.weights.h5")
    assert_same(model.get_weights(), remember.end)
    assert (tmp_path / "best.keras").is_file()


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("system", ["memory", "hdml", "proxies"])
def test_models_around_an_embedder_have_that_interpolated(system):
    inner = embedder()
    if system == "memory":
        model = CrossBatchMemory(inner, MultiSimilarityLoss(), memory_size=32)
        model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
        recall = RecallAtK(HELD_OUT, ks=(1,))
    elif system == "hdml":
        inner = embedder(dropout=0)
        model = HDML(inner, 6, MultiSimilarityLoss(), beta=50.0)
        model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
        recall = RecallAtK(HELD_OUT, ks=(1,))
    else:
        model = keras.Sequential([inner, Proxies(6)])
        model.compile(keras.optimizers.Adam(0.05), ProxyNCALoss(), run_eagerly=True)
        recall = RecallAtK(HELD_OUT, ks=(1,), embedder=inner)
    start = inner.get_weights()
    whole = []
    within = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: whole.append((inner.get_weights(), model.get_weights()))
    )
    chooser = InterpolateWeights(recall, alphas=(0.5,))
    fitted(model, recall, within, chooser)
    end, all_before = whole[0]
    mixed = [
        (0.5 * s.astype("float64") + 0.5 * e.astype("float64")).astype("float32")
        for s, e in zip(start, end)
    ]
    assert_same(inner.get_weights(), mixed)
    # what stands around the embedder stays as training left it
    embedder_weights = {id(v) for v in inner.weights}
    for variable, before in zip(model.weights, all_before):
        if id(variable) not in embedder_weights:
            np.testing.assert_array_equal(variable, before)


def test_an_end_of_nan_is_not_kept():
    recall, remember = RecallAtK(HELD_OUT, ks=(1,)), Remember()
    chooser = InterpolateWeights(recall)
    with pytest.warns(UserWarning, match="diverged"):
        model = fitted(compiled(embedder(), rate=math.nan), recall, remember, chooser)
    assert [math.isnan(c.recalls[1]) for c in chooser.candidates] == [False, *[True] * 4]
    assert chooser.chosen.alpha == 0.0
    assert_same(model.get_weights(), remember.start)


def test_verbose_tells_the_candidates_and_what_is_kept(capsys):
    recall = RecallAtK(HELD_OUT, ks=(1,))
    chooser = InterpolateWeights(recall, alphas=(0, 0.5), verbose=1)
    fitted(compiled(embedder()), recall, chooser)
    lines = capsys.readouterr().out.strip().splitlines()
    told = [line.split(":")[0] for line in lines]
    assert told == ["step 6, alpha 0", "step 6, alpha 0.5", "kept"]
    quiet = RecallAtK(HELD_OUT, ks=(1,))
    fitted(compiled(embedder()), quiet, InterpolateWeights(quiet, alphas=(0, 0.5)), epochs=1)
    assert capsys.readouterr().out == ""


# --- batch normalisation -------------------------------------------------------------------------


def test_statistics_that_move_are_refused_after_the_first_epoch():
    keras.utils.set_random_seed(0)
    model = compiled(
        keras.Sequential([keras.Input((10,)), layers.BatchNormalization(), layers.Dense(4)])
    )
    recall, count = RecallAtK(HELD_OUT, ks=(1,)), []
    epochs = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: count.append(epoch))
    with pytest.raises(ValueError, match="moving_mean changed.*frozen_batch_norm=True"):
        fitted(model, recall, epochs, InterpolateWeights(recall), epochs=5)
    assert count == [0]


def test_frozen_statistics_go_with_interpolation():
    images = np.random.default_rng(0).uniform(0, 255, (16, 32, 32, 3)).astype("float32")
    labels = np.arange(16) % 4
    model = build_embedder("small", image_size=32, embedding_size=4, frozen_batch_norm=True, seed=0)
    assert any("moving_mean" in v.path for v in model.non_trainable_variables)
    compiled(model)
    recall, remember = RecallAtK((images, labels), ks=(1,)), Remember()
    chooser = InterpolateWeights(recall, alphas=(0.5,))
    model.fit(images, labels, callbacks=[recall, remember, chooser], verbose=0)
    assert_same(model.get_weights(), expected_weights(remember, 0.5))


# --- a start on disk -----------------------------------------------------------------------------


def test_the_start_of_a_file_is_taken_by_a_second_model(tmp_path):
    path = tmp_path / "made" / "start.weights.h5"
    recall, remember = RecallAtK(HELD_OUT, ks=(1,)), Remember()
    fitted(compiled(embedder()), recall, remember, InterpolateWeights(recall, start_path=path))
    assert [file.name for file in path.parent.iterdir()] == ["start.weights.h5"]
    # another process: a model of the same layers with weights of its own
    later, second = Remember(), RecallAtK(HELD_OUT, ks=(1,))
    chooser = InterpolateWeights(second, alphas=(0.5,), start_path=path)
    model = fitted(compiled(embedder(seed=7)), second, later, chooser)
    later.start = remember.start
    assert_same(model.get_weights(), expected_weights(later, 0.5))


def test_reading_the_start_leaves_the_training_state_as_it_is(tmp_path):
    """The file has an optimizer's state too: a continued run must not go back to it."""
    path = tmp_path / "start.weights.h5"
    recall = RecallAtK(HELD_OUT, ks=(1,))
    model = fitted(compiled(embedder()), recall, InterpolateWeights(recall, start_path=path))
    before = [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    again = InterpolateWeights(recall, start_path=path)
    again.set_model(model)
    again.keep_start()
    after = [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    assert_same(after, before)
    assert int(model.optimizer.iterations) == 6


@pytest.mark.slow
@pytest.mark.release
def test_a_run_continued_by_backup_and_restore_ends_as_the_whole_one(tmp_path):
    def run(folder, interrupt_at=None, seed=1):
        def stop(epoch, logs):
            if epoch == interrupt_at:
                raise KeyboardInterrupt

        model = compiled(embedder(seed, dropout=0))
        recall = RecallAtK(HELD_OUT, ks=(1,))
        # a backup every epoch; the interruption comes before that of the epoch
        backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
        chooser = InterpolateWeights(recall, start_path=folder / "start.weights.h5")
        interrupt = keras.callbacks.LambdaCallback(on_epoch_end=stop)
        fitted(model, recall, backup, interrupt, chooser, epochs=4)
        return model, chooser

    whole, expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", interrupt_at=1)
    continued, found = run(tmp_path / "cut", seed=5)
    assert int(continued.optimizer.iterations) == int(whole.optimizer.iterations) == 12
    assert found.chosen == expected.chosen
    assert found.candidates == expected.candidates
    assert_same(continued.get_weights(), whole.get_weights())


# --- two devices ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.release
def test_two_devices():
    script = """
        import keras
        import numpy as np
        import tensorflow as tf
        from keras_ms import InterpolateWeights, MultiSimilarityLoss, RecallAtK

        processor = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, logical)
        rng = np.random.default_rng(0)
        images = rng.standard_normal((48, 8)).astype("float32")
        labels = np.arange(48) % 6
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
            model.compile(keras.optimizers.Adam(0.1), MultiSimilarityLoss())
        start = model.get_weights()
        ends = []
        keep = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ends.extend(
            model.get_weights()))
        recall = RecallAtK((images, labels), ks=(1,))
        between = InterpolateWeights(recall, alphas=(0.5,))
        model.fit(images, labels, batch_size=24, callbacks=[recall, keep, between], verbose=0)
        expected = [(s / 2.0 + e / 2.0) for s, e in zip(start, ends)]
        for variable, value in zip(model.weights, expected):
            assert np.abs(value).max() > 0
            for replica in variable.value.values:
                np.testing.assert_array_equal(replica.numpy(), value)
        print("same")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip().endswith("same"), run.stderr[-2000:]


# --- bad arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize("alphas", [(), (0.5, 1.1), (-0.1,), "half", 0.5, (math.nan,), None])
def test_alphas_outside_are_refused(alphas):
    with pytest.raises(ValueError, match="alphas.*from 0 to 1"):
        InterpolateWeights(RecallAtK(HELD_OUT), alphas=alphas)


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="ends in '.weights.h5'.*start.npz"):
        InterpolateWeights(RecallAtK(HELD_OUT), start_path="start.npz")
    recall = RecallAtK(HELD_OUT)
    with pytest.raises(ValueError, match="leave restore=True out"):
        InterpolateWeights(recall, best=KeepBestWeights(recall, restore=True))
    with pytest.raises(ValueError, match="KeepBestWeights of another RecallAtK"):
        InterpolateWeights(recall, best=KeepBestWeights(RecallAtK(HELD_OUT)))


def test_a_start_that_is_not_the_runs_own_is_said(tmp_path):
    path = tmp_path / "start.weights.h5"
    recall = RecallAtK(HELD_OUT, ks=(1,))
    fitted(compiled(embedder()), recall, InterpolateWeights(recall, start_path=path))
    with pytest.warns(UserWarning, match="start is that of an earlier run.*Remove the file"):
        second = RecallAtK(HELD_OUT, ks=(1,))
        fitted(compiled(embedder(7)), second, InterpolateWeights(second, start_path=path), epochs=1)
    third = RecallAtK(HELD_OUT, ks=(1,))
    with pytest.warns(UserWarning, match="begins at epoch 2.*`start_path` from the first fit on"):
        fitted(compiled(embedder()), third, InterpolateWeights(third), initial_epoch=1)
