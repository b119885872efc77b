"""HDML on degenerate batches, unknown classes and steps that are not finite."""

import numpy as np
import pytest
from keras import ops
from small_hdml import CHANNELS, DIMENSION, TUPLES, data, model_of

from keras_ms.hdml.model import LOGGED


def degenerate_batches():
    features, labels = data(2)
    same = np.repeat(features[:1], len(labels), axis=0)
    yield "identical images", same, labels
    yield "collapsed", features, labels
    yield "one class", features, np.ones_like(labels)
    yield "no positives", features[:4], np.arange(4)
    yield "one image", features[:1], labels[:1]


@pytest.mark.parametrize(
    "kind, mode",
    [
        ("n_pair", "paper"),
        ("n_pair", "official"),
        *(
            pytest.param(kind, mode, marks=[pytest.mark.slow, pytest.mark.release])
            for kind in TUPLES
            if kind != "n_pair"
            for mode in ("paper", "official")
        ),
    ],
)
def test_degenerate_batches_and_averages_stay_finite(kind, mode):
    model = model_of(kind, mode)
    start = model.get_weights()
    for case, features, labels in degenerate_batches():
        for average in (0.0, np.nan):  # weights of 0 and of 1
            model.set_weights(start)
            if case == "collapsed":
                embedding = model.embedder.get_layer("embedding")
                embedding.kernel.assign(np.zeros((CHANNELS, DIMENSION)))
            model.averages.metric.assign(average)
            model.averages.generator.assign(average)
            logs = model.train_on_batch(features, labels, return_dict=True)
            assert np.isfinite([float(logs[name]) for name in ("loss", *LOGGED)]).all(), case
            for part in (model.embedder, model.generator, model.classifier):
                assert all(np.isfinite(weights).all() for weights in part.get_weights()), case
            model.reset_metrics()


def test_an_unknown_class_shows_and_breaks_nothing():
    features, labels = data(2)
    model = model_of()
    history = model.fit(features, labels + 1, batch_size=8, verbose=0).history
    assert np.isnan(history["generator_loss"][0]) and np.isnan(history["classifier_loss"][0])
    assert np.isfinite(history["loss"][0])
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def trained_parts(model):
    parts = [model.embedder, model.generator, model.classifier, *model.optimizers]
    return [ops.convert_to_numpy(v) for part in parts for v in part.variables]


def test_a_step_that_is_not_finite_changes_no_part_and_the_next_ones_learn():
    features, labels = data(2)
    model = model_of()
    model.compile(run_eagerly=True)
    before = trained_parts(model)
    model.train_on_batch(np.full_like(features, 1e30), labels)
    for old, new in zip(before, trained_parts(model)):
        np.testing.assert_array_equal(old, new)
    model.train_on_batch(features, labels)
    after = trained_parts(model)
    assert all(np.isfinite(values).all() for values in after)
    for part in (model.generator, model.classifier, model.embedder):
        assert ops.convert_to_numpy(part.trainable_variables[0]).tolist() not in [
            values.tolist() for values in before if values.ndim == 2
        ]
