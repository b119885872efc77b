"""HDML's formulas against literal ones, at their extremes too."""

import numpy as np
import oracles_hdml as oracle
import pytest
import tensorflow as tf
from keras import ops
from small_hdml import TUPLES, data

import keras_ms
from keras_ms.hdml import formulas
from keras_ms.hdml.tuples import NPairTuples


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_harden_is_the_literal_augmentor(weight):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 40, 4))
    rows[2, :10] = rows[0, :10] + 0.1 * rng.normal(size=(10, 4))  # nearer than the positive
    rows[2, 10] = rows[0, 10]
    rows[1, 11] = rows[0, 11]
    found = ops.convert_to_numpy(formulas.harden(*map(ops.convert_to_tensor, rows), weight))
    expected = [oracle.harden(a, p, n, weight) for a, p, n in zip(*rows)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_hardened_negatives_stand_between_where_they_were_and_the_positive():
    rng = np.random.default_rng(1)
    anchor, positive, negative = rng.normal(size=(3, 100, 4))
    far = np.linalg.norm(negative - anchor, axis=1) > np.linalg.norm(positive - anchor, axis=1)
    for weight in (0.0, 0.5, 1.0):
        moved = ops.convert_to_numpy(formulas.harden(anchor, positive, negative, weight))
        length = np.linalg.norm(moved - anchor, axis=1)
        bounds = [np.linalg.norm(other - anchor, axis=1) for other in (positive, negative)]
        expected = (1 - weight) * bounds[0] + weight * bounds[1]
        np.testing.assert_allclose(length[far], expected[far], rtol=1e-12)
        np.testing.assert_array_equal(moved[~far], negative[~far])


@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("same", ["anchor=negative", "anchor=positive", "all"])
def test_harden_has_finite_gradients_where_points_coincide(same, jit_compile):
    rng = np.random.default_rng(2)
    anchor, positive, negative = (tf.Variable(row) for row in rng.normal(size=(3, 4, 3)))
    if same != "anchor=positive":
        negative.assign(anchor)
    if same != "anchor=negative":
        positive.assign(anchor)

    @tf.function(jit_compile=jit_compile)
    def slopes():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(formulas.harden(anchor, positive, negative, 0.3) ** 2)
        return value, tape.gradient(value, [anchor, positive, negative])

    value, gradients = slopes()
    assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in gradients)
    if same != "anchor=positive":
        np.testing.assert_allclose(value, np.sum(negative.numpy() ** 2))


def test_weights_at_every_average():
    weight = [
        float(formulas.hardness_weight(7.0, value))
        for value in (0.0, 1e-30, 3.5, 1e30, np.inf, np.nan, -1.0)
    ]
    np.testing.assert_allclose(weight, [0, 0, np.exp(-2), 1, 1, 1, 0], rtol=1e-6)
    share = [float(formulas.real_share(1e4, value)) for value in (0.0, 1e4, np.inf, np.nan)]
    np.testing.assert_allclose(share, [0, np.exp(-1), 1, 1], rtol=1e-6)
    # a scale of 0 never hardens and never takes synthetic tuples
    assert float(formulas.real_share(0.0, 0.0)) == float(formulas.hardness_weight(0.0, 5.0)) == 1


def test_an_unknown_class_is_seen_and_leaves_gradients_finite():
    logits = tf.Variable([[1.0, 2.0], [3.0, 5.0]])
    with tf.GradientTape() as tape:
        values = formulas.cross_entropy(logits, tf.constant([[True, False], [False, False]]))
        kept = tf.reduce_sum(values)
    assert float(values[0]) == pytest.approx(np.log(1 + np.e), rel=1e-6) and np.isnan(values[1])
    assert np.isfinite(tape.gradient(kept, logits)).all()


@pytest.mark.parametrize("kind", list(TUPLES))
@pytest.mark.parametrize("per_class", [1, 2, 3])
def test_triplets_are_the_literal_ones(kind, per_class):
    features, labels = data(per_class, classes=5, seed=per_class)
    tuples, options = TUPLES[kind]
    found = tuples().triplets(labels * 10**12, ops.convert_to_tensor(features))
    valid = ops.convert_to_numpy(found.valid)
    listed = list(zip(*(ops.convert_to_numpy(part)[valid].tolist() for part in found[:3])))
    assert listed == oracle.TRIPLETS[kind](labels.tolist(), features, options)


def test_n_pair_is_that_of_the_library():
    """`NPairLoss` of one pair a class takes the mean over all items, of which half are anchors."""
    features, labels = data(2)
    own = NPairTuples(0.002).metric_loss(labels, ops.convert_to_tensor(features))
    loss = keras_ms.NPairLoss(one_pair_per_class=True)
    assert float(own) == pytest.approx(2 * float(loss(labels, features)), rel=1e-6)
