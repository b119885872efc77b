"""The General Pair Weighting theorem: a weighting is the derivative of its loss with respect to
the similarities."""

import numpy as np
import oracles
import pytest
import tensorflow as tf

from keras_ms.losses.multi_similarity import PRESETS, multi_similarity, multi_similarity_weights
from keras_ms.pairs.labels import label_keys
from keras_ms.pairs.mining import mine_all, mine_multi_similarity
from keras_ms.pairs.pairs import Pairs, pair_masks

SCALES = [
    {name: preset[name] for name in ("alpha", "beta", "threshold")} for preset in PRESETS.values()
] + [{"alpha": 0.5, "beta": 3.0, "threshold": -0.2}]


def mined_pairs(seed, epsilon):
    rng = np.random.default_rng(seed)
    labels = rng.integers(6, size=20)
    similarity = oracles.similarities(rng.normal(size=(20, 4)))
    pairs = Pairs(similarity, *pair_masks(label_keys(labels)))
    pairs = mine_all(pairs) if epsilon is None else mine_multi_similarity(pairs, epsilon=epsilon)
    return labels, Pairs(similarity, pairs.positive.numpy(), pairs.negative.numpy())


def plain_rows(similarity, positive, negative, alpha, beta, threshold):
    """Eq. 15 as it stands, in float64 TensorFlow."""
    positive, negative = tf.cast(positive, "float64"), tf.cast(negative, "float64")
    pull = tf.reduce_sum(positive * tf.exp(-alpha * (similarity - threshold)), 1)
    push = tf.reduce_sum(negative * tf.exp(beta * (similarity - threshold)), 1)
    return tf.math.log(1 + pull) / alpha + tf.math.log(1 + push) / beta


@pytest.mark.parametrize("epsilon", [0.1, None])
@pytest.mark.parametrize("scales", SCALES)
def test_weights_are_eqs_13_and_14(scales, epsilon):
    labels, pairs = mined_pairs(1, epsilon)
    kept = oracles.mine(pairs.similarity, labels, epsilon)
    expected = oracles.multi_similarity_weights(pairs.similarity, kept, **scales)
    np.testing.assert_allclose(multi_similarity_weights(pairs, **scales), expected, atol=1e-13)


@pytest.mark.parametrize("epsilon", [0.1, None])
@pytest.mark.parametrize("scales", SCALES)
def test_weights_are_the_derivative_of_the_loss(scales, epsilon):
    _, pairs = mined_pairs(2, epsilon)
    similarity = tf.constant(pairs.similarity)
    with tf.GradientTape() as tape:
        tape.watch(similarity)
        rows = plain_rows(similarity, pairs.positive, pairs.negative, **scales)
    weights = multi_similarity_weights(pairs, **scales).numpy()
    np.testing.assert_allclose(weights, tape.gradient(rows, similarity), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(multi_similarity(pairs, **scales), rows, rtol=1e-12)

    step = 1e-5
    for i, j in [(0, 1), (3, 17), (19, 4), (7, 7)]:
        values = []
        for sign in (1, -1):
            moved = pairs.similarity.copy()
            moved[i, j] += sign * step
            values.append(float(plain_rows(moved, *pairs[1:], **scales)[i]))
        slope = (values[0] - values[1]) / (2 * step)
        assert weights[i, j] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_signs_and_bounds():
    _, pairs = mined_pairs(3, None)
    weights = multi_similarity_weights(pairs).numpy()
    assert (weights[pairs.positive] < 0).all() and (weights[pairs.negative] > 0).all()
    assert (weights[~(pairs.positive | pairs.negative)] == 0).all()
    assert (np.where(pairs.positive, -weights, 0).sum(1) < 1).all()
    assert (np.where(pairs.negative, weights, 0).sum(1) < 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_scales_stay_finite(dtype):
    similarity = np.array([[1.0, 1.0, -1.0, 1.0]], dtype)
    positive = np.array([[False, True, True, False]])
    negative = np.array([[False, False, False, True]])
    weights = multi_similarity_weights(
        Pairs(similarity, positive, negative), alpha=1e4, beta=1e4, threshold=0.0
    ).numpy()
    np.testing.assert_allclose(weights, [[0, 0, -1, 1]], atol=1e-6)
