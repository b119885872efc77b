"""What HDML trains beside the embedder, what it remembers between steps, what it is told."""

import math
from numbers import Integral

import keras
import numpy as np
from keras import layers, ops

MODES = ("paper", "official")

# official code: hidden units of the generator
_GENERATOR_UNITS = 512

# official code: both averages before the first are known; lambda and the real share start near 1
_UNKNOWN_AVERAGE = 1e6


def features_and_embeddings_model(embedder):
    """From an embedder's input to the feature y, the embedding z and what the embedder gives, z
    after the L2 normalisation if there is one.

    Args:
        embedder: model of `keras_ms.build_embedder`, or the head of one.

    Returns:
        A functional `keras.Model` that shares the embedder's layers, with the outputs
        [(batch, channels), (batch, dimension), (batch, dimension)].

    Raises:
        ValueError: for anything else.
    """
    names = [layer.name for layer in getattr(embedder, "layers", [])]
    if not isinstance(embedder, keras.Model) or "embedding" not in names:
        raise ValueError(
            "Expected as `embedder` a model of keras_ms.build_embedder or the head of "
            "split_embedder, with a linear layer 'embedding' on a layer 'pool' or on the input. "
            f"Received: {embedder!r} with the layers {', '.join(names) or 'none'}"
        )
    if "pool" not in names and len(embedder.inputs[0].shape) != 2:
        raise ValueError(
            "Expected an embedder with a layer 'pool', whose output is the feature, or with inputs "
            f"of shape (batch, channels). Received: inputs of shape {embedder.inputs[0].shape} and "
            f"the layers {', '.join(names)}"
        )
    features = embedder.get_layer("pool").output if "pool" in names else embedder.inputs[0]
    embeddings = embedder.get_layer("embedding")(features)
    output = embedder.get_layer("l2")(embeddings) if "l2" in names else embeddings
    return keras.Model(embedder.inputs, [features, embeddings, output])


def build_generator(dimension, channels, dtype="float32"):
    """The network from embeddings back to features, as in the official code.

    Linear, ReLU, batch normalisation, linear: in that order.

    Args:
        dimension: size of the embeddings.
        channels: size of the features.
        dtype: "float32" or "float64".

    Returns:
        `keras.Model` from (rows, dimension) to (rows, channels).
    """
    return keras.Sequential(
        [
            keras.Input((dimension,), dtype=dtype),
            layers.Dense(_GENERATOR_UNITS, activation="relu", dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Dense(channels, dtype=dtype),
        ],
        name="generator",
    )


def build_classifier(channels, num_classes, dtype="float32"):
    """The softmax classifier of features, a linear layer: (rows, channels) to logits."""
    return keras.Sequential(
        [keras.Input((channels,), dtype=dtype), layers.Dense(num_classes, dtype=dtype)],
        name="classifier",
    )


class LossAverages(layers.Layer):
    """Mean metric and generator loss of the last whole window of steps; state, saved as weights.

    Args:
        steps: length of a window.
        dtype: "float32" or "float64".

    Attributes:
        metric, generator: scalar variables, J_avg and the average J_gen; 1e6 before the first
            window is full, as in the official code.
    """

    def __init__(self, steps, dtype="float32", name="averages"):
        super().__init__(dtype=dtype, name=name)
        self.steps = steps
        self.metric = self._variable("metric", _UNKNOWN_AVERAGE)
        self.generator = self._variable("generator", _UNKNOWN_AVERAGE)
        self.metric_sum = self._variable("metric_sum", 0.0)
        self.generator_sum = self._variable("generator_sum", 0.0)
        self.number = self._variable("number", 0.0)
        self.built = True

    def _variable(self, name, value):
        return self.add_weight(
            name=name,
            shape=(),
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
        )

    def record(self, metric, generator):
        """Takes the losses of a step, two scalars; one that is not finite leaves both out."""
        finite = ops.logical_and(ops.isfinite(metric), ops.isfinite(generator))
        number = self.number + ops.cast(finite, self.number.dtype)
        full = number >= self.steps
        for value, total, average in (
            (metric, self.metric_sum, self.metric),
            (generator, self.generator_sum, self.generator),
        ):
            value = ops.cast(value, total.dtype)
            so_far = total + ops.where(finite, value, ops.zeros_like(value))
            mean = so_far / ops.maximum(number, ops.ones_like(number))
            average.assign(ops.where(full, mean, average))
            total.assign(ops.where(full, ops.zeros_like(so_far), so_far))
        self.number.assign(ops.where(full, ops.zeros_like(number), number))


class ClassIndex:
    """Which row of the classifier belongs to a class id.

    Args:
        classes: number of classes, or the class ids, repeated or not.

    Attributes:
        ids: int64 (classes,), sorted.

    Raises:
        ValueError: no class, or ids that are not integers.
    """

    def __init__(self, classes):
        given = np.asarray(classes)
        if not np.issubdtype(given.dtype, np.integer) or given.size == 0 or given.ndim > 1:
            raise ValueError(
                "Expected `classes` to be a number of classes or integer class ids, such as "
                f"images.labels. Received: {classes!r}"
            )
        if given.ndim == 0 and given < 1:
            raise ValueError(f"Expected at least one class. Received: classes={classes!r}")
        self.ids = (np.arange(given) if given.ndim == 0 else np.unique(given)).astype(np.int64)

    def __call__(self, labels):
        """Labels (batch,) or (batch, 1) -> (batch, classes) bool; no True for an unknown class."""
        labels = ops.cast(ops.reshape(labels, (-1, 1)), "int64")
        return ops.equal(labels, ops.expand_dims(ops.convert_to_tensor(self.ids), 0))


def check_settings(mode, alpha, beta, lambda_g, average_steps):
    """Raises ValueError for a setting of HDML that is out of range."""
    if mode not in MODES:
        raise ValueError(
            f"Invalid value for argument `mode`. Expected one of {MODES}. Received: mode={mode!r}"
        )
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"Expected `{name}` >= 0. Received: {name}={value}")
    if not 0 <= lambda_g <= 1:
        raise ValueError(f"Expected `lambda_g` within [0, 1]. Received: lambda_g={lambda_g}")
    if not isinstance(average_steps, Integral) or average_steps < 1:
        raise ValueError(
            f"Expected `average_steps` to be an integer >= 1. Received: {average_steps!r}"
        )


def check_one_replica(number):
    """Raises ValueError for several replicas under tf.distribute."""
    if number > 1:
        raise ValueError(
            "HDML works on one replica: its tuples and averages are those of one batch. Build and "
            f"fit it outside the scope of tf.distribute strategies. Received: {number} replicas"
        )
