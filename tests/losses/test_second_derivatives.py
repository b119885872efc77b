"""Derivatives of the losses' gradients, against finite differences of those gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_every_loss import FLOAT64, LOSSES, build

import keras_ms
from keras_ms.losses.angular import angular_weights, differentiable_angular_weights
from keras_ms.pairs.pairs import Pairs

RNG = np.random.default_rng(0)
LABELS = RNG.integers(4, size=14)
EMBEDDINGS = RNG.normal(size=(4, 5))[LABELS] + RNG.normal(size=(14, 5))
WEIGHTS = RNG.uniform(0.2, 2.0, size=14)
DIRECTION = RNG.normal(size=EMBEDDINGS.shape)


def slope(function, embeddings):
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        value = function(embeddings)
    return tape.gradient(value, embeddings)


def by_differences(function, step=1e-6):
    """The derivative of the gradient along DIRECTION."""
    ends = [slope(function, tf.constant(EMBEDDINGS + sign * step * DIRECTION)) for sign in (1, -1)]
    return (ends[0] - ends[1]).numpy() / (2 * step)


def forwards(function, embeddings):
    with tf.autodiff.ForwardAccumulator(embeddings, tf.constant(DIRECTION)) as forward:
        gradient = slope(function, embeddings)
    return forward.jvp(gradient)


def backwards(function, embeddings, weights):
    """The derivative of the sum of weights times gradient: of a gradient that is the slope of no
    value (circle, margin) the matrix of second derivatives is not symmetric."""
    return slope(lambda rows: tf.reduce_sum(weights * slope(function, rows)), embeddings)


def assert_second_derivatives(function):
    expected = by_differences(function)
    largest = np.abs(expected).max()
    given = tf.constant(EMBEDDINGS)
    np.testing.assert_allclose(forwards(function, given), expected, atol=1e-6 * largest)
    weights = np.random.default_rng(1).normal(size=EMBEDDINGS.shape)
    along = float((weights * expected).sum())
    for step in (backwards, tf.function(backwards, autograph=False)):
        found = step(function, given, tf.constant(weights)).numpy()
        bound = 1e-6 * largest * np.abs(weights).sum()
        assert float((found * DIRECTION).sum()) == pytest.approx(along, abs=bound)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=()
            if name in ("multi_similarity", "triplet")
            else [pytest.mark.slow, pytest.mark.release],
        )
        for name in LOSSES
    ],
)
def test_of_every_loss(name):
    loss = build(name, **FLOAT64)
    assert_second_derivatives(lambda rows: loss(LABELS, rows, WEIGHTS))


@pytest.mark.slow
@pytest.mark.release
def test_of_the_hierarchical_triplet_loss():
    tree = keras_ms.ClassTree.build(EMBEDDINGS, LABELS)
    loss = keras_ms.HierarchicalTripletLoss(tree, **FLOAT64)
    assert_second_derivatives(lambda rows: loss(LABELS, rows, WEIGHTS))


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("kind", [keras_ms.ProxyNCALoss, keras_ms.ProxyAnchorLoss])
def test_of_proxies(kind):
    proxies, loss = keras_ms.Proxies(4, dtype="float64"), kind(dtype="float64")
    proxies.build((None, 5))
    proxies.set_weights([RNG.normal(size=(4, 5))])
    assert_second_derivatives(lambda rows: loss(LABELS, proxies(rows), WEIGHTS))


@pytest.mark.slow
@pytest.mark.release
def test_in_blocks():
    loss = build("multi_similarity", **FLOAT64, block_size=4)
    assert_second_derivatives(lambda rows: loss(LABELS, rows, WEIGHTS))


@pytest.mark.slow
@pytest.mark.release
def test_against_a_memory():
    loss = build("supervised_contrastive", **FLOAT64)
    memory = loss.label_keys(LABELS[:6], EMBEDDINGS[:6]), tf.constant(EMBEDDINGS[:6] + 0.1)
    assert_second_derivatives(
        lambda rows: tf.reduce_sum(loss.per_anchor(loss.label_keys(LABELS, rows), rows, memory))
    )


@pytest.mark.parametrize(
    "name",
    [
        "multi_similarity",
        pytest.param("angular", marks=[pytest.mark.slow, pytest.mark.release]),
        pytest.param("n_pair one_pair_per_class", marks=[pytest.mark.slow, pytest.mark.release]),
    ],
)
def test_under_xla_and_as_a_jacobian(name):
    loss = build(name, **FLOAT64)
    given, weights = tf.constant(EMBEDDINGS), tf.constant(DIRECTION)

    def function(rows):
        return loss(LABELS, rows)

    compiled = tf.function(backwards, jit_compile=True, autograph=False)
    with tf.GradientTape() as tape:
        tape.watch(given)
        gradient = slope(function, given)
    hessian = tape.jacobian(gradient, given)
    expected = by_differences(function)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(
        tf.tensordot(hessian, weights, 2), expected, atol=1e-6 * largest
    )  # these are symmetric
    np.testing.assert_allclose(compiled(function, given, weights), expected, atol=1e-6 * largest)


def test_a_gradient_penalty_trains_as_its_slope_says():
    @keras.saving.register_keras_serializable(package="keras_ms_tests")
    class Penalised(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = self.loss(y, y_pred)
            return value + tf.reduce_sum(tape.gradient(value, y_pred) ** 2)

    source = keras.Input((5,), dtype="float64")
    model = Penalised(source, keras.layers.Dense(3, use_bias=False, dtype="float64")(source))
    model.compile(keras.optimizers.SGD(1.0), keras_ms.CircleLoss(gamma=8, **FLOAT64))
    kernel = model.get_weights()[0]

    def penalised(kernel):
        rows = tf.constant(EMBEDDINGS @ kernel)
        value = model.loss(LABELS, rows)
        by_rows = slope(lambda rows: model.loss(LABELS, rows), rows)
        # the loss's own gradient is a definition, only the penalty is the slope of a value
        return float(tf.reduce_sum(by_rows**2)), EMBEDDINGS.T @ by_rows.numpy(), float(value)

    step, expected = 1e-6, np.zeros_like(kernel)
    for index in np.ndindex(kernel.shape):
        moved = np.zeros_like(kernel)
        moved[index] = step
        ends = penalised(kernel + moved)[0], penalised(kernel - moved)[0]
        expected[index] = (ends[0] - ends[1]) / (2 * step)
    penalty, own, value = penalised(kernel)
    logged = model.fit(EMBEDDINGS, LABELS, batch_size=14, shuffle=False, verbose=0).history["loss"]
    assert logged[0] == pytest.approx(value + penalty)
    change = model.get_weights()[0] - kernel
    np.testing.assert_allclose(change, -(own + expected), atol=1e-5 * np.abs(change).max())


def test_an_accumulator_inside_a_graph_is_refused():
    """TensorFlow passes by every custom gradient there."""
    loss = build("multi_similarity", **FLOAT64)

    @tf.function(autograph=False)
    def inside(rows):
        return forwards(lambda rows: loss(LABELS, rows), rows)

    with pytest.raises(ValueError, match="around the call of the tf.function"):
        inside(tf.constant(EMBEDDINGS))


def test_angular_weights_in_products_are_those_of_the_loop():
    similarity = tf.constant(np.clip(EMBEDDINGS @ EMBEDDINGS.T / 20, -1, 1))
    same = LABELS[:, None] == LABELS
    pairs = Pairs(similarity, tf.constant(same & ~np.eye(14, dtype=bool)), tf.constant(~same))
    for squared_tangent in (0.3, 3.0):
        expected = angular_weights(pairs, tf.constant(WEIGHTS), squared_tangent)
        found = differentiable_angular_weights(pairs, tf.constant(WEIGHTS), squared_tangent)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
