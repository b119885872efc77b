"""Callbacks with averaged weights: what they see, and that training does not notice."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_ms import GroupedAdam, MultiSimilarityLoss
from keras_ms.callbacks import KeepBestWeights, RecallAtK, WithAveragedWeights

RNG = np.random.default_rng(0)
LABELS = np.arange(24) % 6
IMAGES = (RNG.normal(size=(6, 10))[LABELS] + RNG.normal(size=(24, 10))).astype("float32")


class Remember(keras.callbacks.Callback):
    """The weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append([np.array(w) for w in self.model.get_weights()])


def fitted(*callbacks, precision="float32", epochs=3, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((10,)), layers.Dense(8, dtype=precision), layers.Dense(4, dtype="float32")]
    )
    optimizer = GroupedAdam(0.05, **options)
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, MultiSimilarityLoss(), run_eagerly=True)
    model.fit(IMAGES, LABELS, batch_size=12, epochs=epochs, callbacks=list(callbacks), verbose=0,
              shuffle=False)  # fmt: skip
    return model


def literal_averages(momentum):
    """The average at the end of each epoch, by the weights of a plain training."""

    class EachStep(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.weights = []

        def on_train_batch_end(self, batch, logs=None):
            self.weights.append([np.array(w, "float64") for w in self.model.get_weights()])

    steps = EachStep()
    fitted(steps)
    averages = [steps.weights[0]]
    for weights in steps.weights[1:]:
        last = averages[-1]
        averages.append([momentum * a + (1 - momentum) * w for a, w in zip(last, weights)])
    return averages[1::2]


@pytest.mark.slow
def test_callbacks_within_see_the_average_and_training_goes_on_with_the_weights():
    within, behind, plain = Remember(), Remember(), Remember()
    model = fitted(WithAveragedWeights([within]), behind, use_ema=True, ema_momentum=0.7)
    fitted(plain)
    for expected, found in zip(plain.weights, behind.weights):
        assert all(np.array_equal(a, b) for a, b in zip(expected, found))
    for expected, found in zip(literal_averages(0.7), within.weights, strict=True):
        for a, b in zip(expected, found):
            np.testing.assert_allclose(b, a, atol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(within.weights[-1], model.get_weights()))


def test_the_best_weights_are_those_of_the_average():
    recall = RecallAtK((IMAGES, LABELS), ks=(1,))
    best, within = KeepBestWeights(recall), Remember()
    averaged = WithAveragedWeights([recall, best, within])
    model = fitted(averaged, use_ema=True, ema_momentum=0.5)
    assert [step for step, _ in recall.history] == [0, 2, 4, 6]
    best.load()
    assert recall.recalls()[1] == recall.best_value
    if recall.best_step:
        kept = within.weights[recall.best_step // 2 - 1]
        assert all(np.array_equal(a, b) for a, b in zip(kept, model.get_weights()))


def test_an_optimizer_that_scales_the_loss_has_its_average_too():
    within, behind = Remember(), Remember()
    averaged = WithAveragedWeights([within])
    fitted(averaged, behind, precision="mixed_float16", use_ema=True, ema_momentum=0.9)
    assert not np.array_equal(within.weights[-1][0], behind.weights[-1][0])


def test_what_has_no_average_is_refused():
    with pytest.raises(ValueError, match="use_ema=True"):
        fitted(WithAveragedWeights([Remember()]))
    with pytest.raises(ValueError, match="leave every_steps out"):
        WithAveragedWeights([RecallAtK((IMAGES, LABELS), every_steps=2)])


HOOKS = [
    f"on_{what}_{when}"
    for what in ("train", "epoch", "train_batch", "test", "test_batch", "predict", "predict_batch")
    for when in ("begin", "end")
]


def test_every_hook_is_called_as_it_is_beside():
    """In `fit` with validation data, and the number of the batch with it."""

    def noting(calls):
        def note(name):
            return lambda self, *arguments, **logs: calls.append((name, *arguments[:-1]))

        return type("Notes", (keras.callbacks.Callback,), {name: note(name) for name in HOOKS})()

    within, beside = [], []
    averaged = WithAveragedWeights([noting(within)])
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((10,)), layers.Dense(4)])
    model.compile(GroupedAdam(0.05, use_ema=True), MultiSimilarityLoss(), run_eagerly=True)
    calls = [averaged, noting(beside)]
    model.fit(IMAGES, LABELS, batch_size=12, epochs=2, callbacks=calls, verbose=0,
              validation_data=(IMAGES, LABELS))  # fmt: skip
    model.predict(IMAGES, callbacks=calls, verbose=0)
    assert within == beside and {name for name, *_ in within} == set(HOOKS)


def test_callbacks_of_the_first_kind_and_of_functions_have_their_batches():
    batches = []

    class OfTheFirstKind(keras.callbacks.Callback):
        def on_batch_end(self, batch, logs=None):
            batches.append(batch)

    of_functions = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(batch)
    )
    fitted(WithAveragedWeights([OfTheFirstKind(), of_functions]), epochs=1, use_ema=True)
    assert batches == [0, 0, 1, 1]


def test_keras_need_not_wait_for_each_batch_where_no_callback_does():
    averaged = WithAveragedWeights([RecallAtK((IMAGES, LABELS)), Remember()])
    assert not any(name in vars(averaged) for name in HOOKS)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RecallAtK((IMAGES, LABELS)), r"a list.*\[recall, best\].*give a list"),
        (lambda: [3], "keras.callbacks.Callback. It holds 3"),
        (lambda: 3, "give a list"),
        (lambda: [keras.callbacks.ModelCheckpoint("x.keras", save_freq=2)],
         "a ModelCheckpoint with save_freq=2.*save_freq='epoch'"),
        (lambda: [keras.callbacks.BackupAndRestore("backup")], "BackupAndRestore.*beside"),
        (lambda: [keras.callbacks.BackupAndRestore("backup", save_freq=2)], "beside"),
        (lambda: [keras.callbacks.SwapEMAWeights()], "SwapEMAWeights.*beside"),
        (lambda: [WithAveragedWeights([])], "beside"),
    ],
)  # fmt: skip
def test_what_would_do_something_else_within_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        WithAveragedWeights(make())


def test_a_checkpoint_of_each_epoch_holds_the_average(tmp_path):
    file = tmp_path / "{epoch}.weights.h5"
    saved = keras.callbacks.ModelCheckpoint(file, save_weights_only=True)
    remember = Remember()
    model = fitted(WithAveragedWeights([saved, remember]), epochs=2, use_ema=True)
    for epoch in (1, 2):
        model.load_weights(tmp_path / f"{epoch}.weights.h5")
        expected = remember.weights[epoch - 1]
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), expected))
