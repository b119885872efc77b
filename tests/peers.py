"""What the tests of parity with other libraries share: frozen values, batches, comparisons.

A peer divides by something else than the number of anchors, by the terms that are not 0 or by all
positive pairs; the tests weigh our anchors to the same end, with weights counted from the batch.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from gradients import function_and_gradient

from keras_ms.pairs.pairs import Pairs

each_batch = pytest.mark.parametrize("name", ["balanced", "random", "pairs", "trio"])


class Batch(NamedTuple):
    labels: np.ndarray
    embeddings: np.ndarray
    similarity: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


def frozen_by(name):
    with np.load(Path(__file__).parent / "fixtures" / f"{name}.npz") as frozen:
        return dict(frozen)


PEER = frozen_by("peer_values")


def batch(name):
    labels, embeddings = PEER[f"{name}/labels"], PEER[f"{name}/embeddings"]
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    same = labels[:, None] == labels
    return Batch(labels, embeddings, unit @ unit.T, same & ~np.eye(len(labels), dtype=bool), ~same)


def share(counts):
    return counts / max(counts.sum(), 1)


def cosine(embeddings):
    unit = tf.math.l2_normalize(embeddings, axis=1)
    return tf.matmul(unit, unit, transpose_b=True)


def minus_distance(embeddings):
    """The similarity of a peer that measures unsquared Euclidean distance."""
    squared = 2 - 2 * cosine(embeddings)
    apart = squared > 1e-12
    return -tf.where(apart, tf.sqrt(tf.where(apart, squared, 1.0)), 0.0)


def total(loss_class, settings, batch, weights):
    """Embeddings -> the sum of every anchor's loss times its weight."""
    loss = loss_class(**settings, reduction="sum", dtype="float64")
    weights = np.broadcast_to(np.asarray(weights, np.float64), len(batch.labels))
    return lambda embeddings: loss(batch.labels, embeddings, weights)


def total_of_pairs(pair_loss, similarity, positive, negative, weights):
    """The same of a function of Pairs and any similarity."""
    masks = tf.constant(positive), tf.constant(negative)
    return lambda x: tf.reduce_sum(weights * pair_loss(Pairs(similarity(x), *masks)))


def mean_of_paired(pair_loss, anchors, candidates, same, normalise=False):
    """Embeddings -> the mean loss of some items beside others, with dot products as similarity."""
    masks = tf.constant(same), tf.constant(~same)

    def function(x):
        x = tf.math.l2_normalize(x, axis=1) if normalise else x
        similarity = tf.matmul(tf.gather(x, anchors), tf.gather(x, candidates), transpose_b=True)
        return tf.reduce_mean(pair_loss(Pairs(similarity, *masks)))

    return function


def assert_agrees(function, embeddings, value, gradient, rtol=1e-6, gradient_rtol=None):
    """Value and gradient; an entry of the gradient is held to the gradient's largest."""
    own_value, own_gradient = function_and_gradient(function, embeddings, "zero")
    assert own_value == pytest.approx(float(value), rel=rtol)
    gradient_rtol = gradient_rtol or rtol
    largest = max(np.abs(gradient).max(), 1e-9)
    np.testing.assert_allclose(own_gradient, gradient, rtol=0, atol=gradient_rtol * largest)
