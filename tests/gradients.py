"""Values and gradients, of losses and of any function of embeddings."""

import warnings

import numpy as np
import tensorflow as tf


def function_and_gradient(function, embeddings, unconnected="none"):
    """A function of embeddings, a float, and its gradient, float64.

    `unconnected="zero"` is for functions that may not depend on them.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        value = function(embeddings)
    gradient = tape.gradient(value, embeddings, unconnected_gradients=unconnected)
    return float(value), np.asarray(tf.convert_to_tensor(gradient), np.float64)


def value_and_gradient(loss, labels, embeddings, sample_weight=None):
    """A loss of a batch, a float, and its gradient by the embeddings, float64."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*No anchor of this batch")
        return function_and_gradient(
            lambda rows: loss(np.asarray(labels), rows, sample_weight), embeddings
        )
