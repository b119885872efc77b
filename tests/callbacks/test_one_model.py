"""Callbacks that keep something of a model refuse another one, and go on with the same one."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_ms
from keras_ms.callbacks import (
    ExplainZeroLoss,
    InterpolateWeights,
    KeepBestWeights,
    RecallAtK,
    WithAveragedWeights,
)

RNG = np.random.default_rng(0)
LABELS = np.arange(24) % 6
IMAGES = (RNG.normal(size=(6, 10))[LABELS] + RNG.normal(size=(24, 10))).astype("float32")
ANOTHER = "another model.*Make new ones for each model"


def network(seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((10,)), layers.Dense(4)])


def compiled(model, rate=0.01):
    optimizer = keras_ms.GroupedAdam(rate, use_ema=True)
    model.compile(optimizer, keras_ms.MultiSimilarityLoss(), run_eagerly=True)
    return model


def fit(model, callbacks, **options):
    model.fit(IMAGES, LABELS, batch_size=12, callbacks=callbacks, verbose=0, **options)


def the_recall():
    return [RecallAtK((IMAGES, LABELS), ks=(1,))]


def the_recall_alone():
    return [RecallAtK((IMAGES, LABELS), ks=(1,), at_start=False)]


def the_best():
    recall = RecallAtK((IMAGES, LABELS), ks=(1,))
    return [recall, KeepBestWeights(recall, restore=True)]


def between():
    recall = RecallAtK((IMAGES, LABELS), ks=(1,))
    return [recall, InterpolateWeights(recall)]


def averaged():
    return [WithAveragedWeights(the_best())]


every_kind = pytest.mark.parametrize(
    "make", [the_recall, the_recall_alone, the_best, between, averaged]
)


@every_kind
def test_a_second_model_is_refused_and_stays_as_it_was(make):
    callbacks = make()
    fit(compiled(network()), callbacks)
    second = compiled(network(seed=2))
    before = second.get_weights()
    with pytest.raises(ValueError, match=ANOTHER):
        fit(second, callbacks)
    assert all(np.array_equal(a, b) for a, b in zip(before, second.get_weights()))


@every_kind
def test_the_same_model_goes_on_compiled_again_too(make):
    callbacks, model = make(), compiled(network())
    fit(model, callbacks)
    fit(model, callbacks)
    fit(compiled(model, rate=0.001), callbacks)


def test_each_keeper_refuses_by_itself():
    """Where the RecallAtK may go on: it measures an embedder that both models have."""
    embedder = network()
    recall = RecallAtK((IMAGES, LABELS), ks=(1,), embedder=embedder)
    best, start = KeepBestWeights(recall), InterpolateWeights(recall)
    first = compiled(keras.Sequential([embedder, layers.Dense(4)]))
    second = compiled(keras.Sequential([embedder, layers.Dense(3)]))
    fit(first, [recall, best, start])
    with pytest.raises(ValueError, match="KeepBestWeights holds the best weights.*" + ANOTHER):
        best.set_model(second)
    start.set_model(second)
    fit(second, [recall])
    alone = InterpolateWeights(RecallAtK((IMAGES, LABELS), ks=(1,)))
    alone.set_model(first)
    alone.keep_start()
    with pytest.raises(ValueError, match="InterpolateWeights holds the start.*" + ANOTHER):
        alone.set_model(second)


def test_an_embedder_goes_on_in_a_model_that_trains_it():
    embedder, callbacks = compiled(network()), between()
    fit(embedder, callbacks)
    memory = keras_ms.CrossBatchMemory(embedder, keras_ms.MultiSimilarityLoss(), memory_size=24)
    memory.compile("adam")
    fit(memory, callbacks)


def test_steps_of_a_fit_that_measured_nothing_are_not_those_of_the_next_model():
    recall = RecallAtK((IMAGES, LABELS), ks=(1,), at_start=False, every_steps=100)
    interrupt = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(compiled(network()), [recall, interrupt])
    fit(compiled(network(seed=2)), [recall])
    assert [step for step, _ in recall.history] == [2]


def test_a_zero_loss_is_explained_of_each_model():
    explain = ExplainZeroLoss()
    for _ in range(2):
        explain.set_model(network())
        with pytest.warns(UserWarning, match="exactly 0"):
            explain.on_epoch_end(0, {"loss": 0.0})


@pytest.mark.parametrize("margins", ["latest", "first"])
def test_only_a_first_class_tree_keeps_something_of_a_model(margins):
    loss = keras_ms.HierarchicalTripletLoss()
    rebuild = keras_ms.RebuildClassTree(loss, IMAGES, LABELS, margins=margins)
    models = [network(), network(seed=2)]
    for model in models:
        model.compile("adam", loss, run_eagerly=True)
    fit(models[0], [rebuild])
    fit(models[0], [rebuild])
    first = rebuild.tree
    if margins == "latest":
        fit(models[1], [rebuild])
        classes = np.arange(6)
        assert (first.distances(0, classes) != rebuild.tree.distances(0, classes)).any()
        return
    with pytest.raises(ValueError, match="first class tree of another model"):
        fit(models[1], [rebuild])
