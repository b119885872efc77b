"""Whole steps of HDML: the literal ones, compiled or not, and what they log."""

import keras
import numpy as np
import oracles_hdml as oracle
import pytest
import tensorflow as tf
from keras import ops
from small_hdml import TUPLES, data, data_of, head, model_of

from keras_ms.hdml.model import LOGGED

PARTS = {
    "embed": ("embed_kernel", "embed_bias"),
    "generator": (
        "generator_kernel",
        "generator_bias",
        "generator_gamma",
        "generator_beta",
        "generator_kernel2",
        "generator_bias2",
    ),
    "classifier": ("classifier_kernel", "classifier_bias"),
}


def parameters_of(model):
    groups = [model.embedder, model.generator, model.classifier]
    return {
        name: ops.convert_to_numpy(variable)
        for group, names in zip(groups, PARTS.values())
        for name, variable in zip(names, group.trainable_variables)
    }


@pytest.mark.parametrize(
    "kind, mode, labels",
    [
        ("n_pair", "paper", [0, 0, 1, 1, 2, 2, 3, 3]),
        # with triplets that only fill up the static shape: classes of 1, 3 and 4 images, anchors
        # without a positive, fewer negatives than are asked for
        ("n_pair", "paper", [0, 0, 0, 1, 1, 1, 1, 2, 3]),
        ("n_pair", "official", [0, 0, 0, 1, 1, 1, 1, 2, 3]),
        ("triplet", "official", [0, 0, 0, 1, 1, 2, 3]),
        ("triplet", "paper", [0, 0, 0, 1, 1, 2, 3]),
        ("pairs", "official", [0, 0, 0, 0, 0, 1, 2]),
        ("pairs", "paper", [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
    ],
)
def test_one_step_is_the_literal_one(kind, mode, labels):
    """Values, and the change of every part: the gradient of its own loss, and of no other, at the
    weights before the step."""
    features, labels = data_of(labels, dtype="float64", seed=3)
    options = {"alpha": 2.0, "lambda_g": 0.3, "average_steps": 5}
    model = model_of(kind, mode, dtype="float64", **options)
    for optimizer in model.optimizers:
        optimizer.learning_rate = 1e-3
    model.averages.metric.assign(1.5)
    model.averages.generator.assign(120.0)
    before = parameters_of(model)
    history = model.fit(features, labels, batch_size=len(labels), shuffle=False, verbose=0).history

    weight, share = np.exp(-2.0 / 1.5), np.exp(-50.0 / 120.0)
    settings = features, labels.tolist(), kind, mode, weight, share, 0.3, TUPLES[kind][1]
    values = oracle.step(before, *settings)
    logged = [history[name][0] for name in ("loss", "generator_loss", "classifier_loss")]
    np.testing.assert_allclose(logged, values, rtol=1e-6)  # metrics are in float32
    assert history["lambda"][0] == pytest.approx(weight, rel=1e-6)
    assert history["synthetic_share"][0] == pytest.approx(1 - share, rel=1e-6)
    recorded = history["metric_loss"][0] * (share if mode == "official" else 1.0)
    assert float(model.averages.metric_sum.numpy()) == pytest.approx(recorded, rel=1e-6)

    after, rng = parameters_of(model), np.random.default_rng(0)
    for which, names in enumerate(PARTS.values()):
        for name in names:
            gradient = (before[name] - after[name]) / np.float32(1e-3)
            everything = list(np.ndindex(gradient.shape))
            chosen = [everything[i] for i in rng.permutation(len(everything))[:8]]
            expected = oracle.slopes(before, name, chosen, which, settings)
            found = np.array([gradient[index] for index in chosen])
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6 * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("kind, mode", list(zip(TUPLES, ["official", "paper", "official"])))
def test_steps_are_the_same_compiled_or_not(kind, mode):
    """With a shorter last batch; eager steps are those of the literal test."""
    features, labels = data_of([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])
    ends = []
    for jit_compile in (True, False):
        model = model_of(kind, mode, "float64", average_steps=2, rate=1e-3, jit_compile=jit_compile)
        history = model.fit(
            features, labels.astype("uint8"), batch_size=8, shuffle=False, verbose=0, epochs=3
        ).history
        assert set(history) == {"loss", *LOGGED}
        assert np.isfinite([history[name] for name in LOGGED]).all()
        ends.append([*history["loss"], *(np.sum(w) for w in model.get_weights())])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.release
def test_logged_means_count_images():
    features, labels = data_of([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])
    labels[-2:] = labels[-3]  # a pair in the last batch
    found = []
    for part in (slice(None), slice(8), slice(8, None)):
        model = model_of("triplet", rate=0.0)
        history = model.fit(
            features[part], labels[part], batch_size=8, shuffle=False, verbose=0
        ).history
        held = model.evaluate(features[part], labels[part], batch_size=8, verbose=0)
        found.append([history["loss"][0], history["generator_loss"][0], held])
    expected = (8 * np.array(found[1]) + 3 * np.array(found[2])) / 11
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", list(TUPLES))
def test_beta_0_trains_as_the_metric_loss_alone(kind):
    """Whatever the generator makes."""
    features, labels = data(2)
    model = model_of(kind, beta=0.0)
    model.generator.set_weights([np.full_like(w, np.nan) for w in model.generator.get_weights()])
    start = model.embedder.get_weights()
    model.fit(features, labels, batch_size=8, shuffle=False, verbose=0)
    plain = head()
    plain.set_weights(start)
    unscaled = keras.Model(plain.inputs, plain.get_layer("embedding").output)
    with tf.GradientTape() as tape:
        value = TUPLES[kind][0]().metric_loss(labels, unscaled(features))
    for variable, slope in zip(
        plain.trainable_variables, tape.gradient(value, plain.trainable_variables)
    ):
        variable.assign_sub(0.05 * slope)
    for found, expected in zip(model.embedder.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.release
def test_averages_are_renewed_after_a_window_and_used_from_then_on():
    features, labels = data(2)
    model = model_of(average_steps=3, alpha=5.0)
    history = model.fit(features, labels, batch_size=8, shuffle=False, verbose=0, epochs=7).history
    weights = np.array(history["lambda"])
    np.testing.assert_allclose(weights[:3], np.exp(-5.0 / 1e6), rtol=1e-6)
    for start in (0, 3):
        mean = np.mean(history["metric_loss"][start : start + 3])
        np.testing.assert_allclose(weights[start + 3 : start + 6], np.exp(-5 / mean), rtol=1e-5)
        mean = np.mean(history["generator_loss"][start : start + 3])
        share = np.array(history["synthetic_share"][start + 3 : start + 6])
        np.testing.assert_allclose(1 - share, np.exp(-50.0 / mean), rtol=1e-5)


def test_a_step_that_is_not_finite_does_not_enter_the_averages():
    averages = model_of(average_steps=2).averages
    for metric, generator in ((1.0, 10.0), (np.inf, 5.0), (3.0, np.nan), (2.0, 30.0)):
        averages.record(ops.convert_to_tensor(metric), ops.convert_to_tensor(generator))
    assert float(averages.metric.numpy()) == 1.5
    assert float(averages.generator.numpy()) == 20.0
