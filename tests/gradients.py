"""The value and the gradient of a loss."""

import warnings

import numpy as np
import tensorflow as tf


def value_and_gradient(loss, labels, embeddings, sample_weight=None):
    """A loss of a batch, a float, and its gradient by the embeddings, float64."""
    embeddings = tf.convert_to_tensor(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*No anchor of this batch")
            value = loss(np.asarray(labels), embeddings, sample_weight)
    return float(value), np.asarray(tape.gradient(value, embeddings), np.float64)
