"""What HDML trains beside the embedder, what it remembers between steps, what it is told."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_ms.arguments import Tensor, real_number, whole_number
from keras_ms.pairs.class_ids import checked_class_ids

MODES = ("paper", "official")

# official code: hidden units of the generator
_GENERATOR_UNITS = 512

# official code: both averages before the first are known; lambda and the real share start near 1
_UNKNOWN_AVERAGE = 1e6


def features_and_embeddings_model(embedder: keras.Model) -> keras.Model:
    """From an embedder's input to the feature y, the embedding z and what the embedder gives, z
    after the L2 normalisation if there is one.

    Args:
        embedder: model of `keras_ms.build_embedder`, or the head of one.

    Returns:
        A functional `keras.Model` that shares the embedder's layers, with the outputs
        [(batch, channels), (batch, dimension), (batch, dimension)].

    Raises:
        ValueError: for anything else, such as a layer between "embedding" and the output that is
            not "l2".
    """
    names = [layer.name for layer in getattr(embedder, "layers", [])]
    if not isinstance(embedder, keras.Model) or "embedding" not in names:
        raise ValueError(
            "Expected as `embedder` a model of keras_ms.build_embedder or the head of "
            "split_embedder, with a linear layer 'embedding' on a layer 'pool' or on the input. "
            f"Received: {embedder!r} with the layers {', '.join(names) or 'none'}"
        )
    # Back from the output, through the embedder's own calls: `layer.input` is that of the first
    # call, which may be another model's, where models share the layer.
    embeddings = output = embedder.outputs[0]
    layer, inputs = _made_by(output)
    if layer.name == "l2":
        embeddings = inputs[0]
        layer, inputs = _made_by(embeddings)
    if layer.name != "embedding" or len(inputs[0].shape) != 2:
        raise ValueError(
            "Expected an embedder whose output is that of its layer 'embedding', or of 'l2' on "
            "it, with features of shape (batch, channels) as input of 'embedding'. Received: the "
            f"layers {', '.join(names)}, of which '{layer.name}' made the embeddings from "
            f"{', '.join(str(tensor.shape) for tensor in inputs) or 'nothing'}"
        )
    return keras.Model(embedder.input, [inputs[0], embeddings, output])


def _made_by(tensor):
    """The layer whose output a symbolic tensor is, and the tensors it was called on."""
    layer, call, _ = tensor._keras_history
    return layer, layer._inbound_nodes[call].input_tensors


def build_generator(dimension: int, channels: int, dtype: str = "float32") -> keras.Model:
    """The network from embeddings back to features, as in the official code.

    Linear, ReLU, batch normalisation, linear: in that order.

    Args:
        dimension: size of the embeddings.
        channels: size of the features.
        dtype: "float32" or "float64".

    Returns:
        `keras.Model` from (rows, dimension) to (rows, channels).
    """
    generator = keras.Sequential(
        [
            keras.Input((dimension,), dtype=dtype),
            layers.Dense(_GENERATOR_UNITS, activation="relu", dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Dense(channels, dtype=dtype),
        ],
        name="generator",
    )
    generator.supports_masking = True  # its layers do, and Keras warns where the model does not
    return generator


def build_classifier(channels: int, num_classes: int, dtype: str = "float32") -> keras.Model:
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

    def __init__(self, steps: int, dtype: str = "float32", name: str = "averages"):
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

    def record(self, metric: Tensor, generator: Tensor) -> None:
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

    def __init__(self, classes: Any):
        given = np.asarray(classes)
        if not np.issubdtype(given.dtype, np.integer) or given.size == 0 or given.ndim > 1:
            raise ValueError(
                "Expected `classes` to be a number of classes or integer class ids, such as "
                f"images.labels. Received: {classes!r}"
            )
        if given.ndim == 0 and given < 1:
            raise ValueError(f"Expected at least one class. Received: classes={classes!r}")
        self.ids = (np.arange(int(given)) if given.ndim == 0 else np.unique(given)).astype(np.int64)

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels (batch,) or (batch, 1) -> (batch, classes) bool; no True for an unknown class."""
        labels = ops.cast(ops.reshape(labels, (-1, 1)), "int64")
        return ops.equal(labels, ops.expand_dims(ops.convert_to_tensor(self.ids), 0))


def check_settings(
    mode: str, alpha: float, beta: float, lambda_g: float, average_steps: int
) -> None:
    """Raises ValueError for a setting of HDML that is out of range."""
    if mode not in MODES:
        raise ValueError(
            f"Invalid value for argument `mode`. Expected one of {MODES}. Received: mode={mode!r}"
        )
    real_number("alpha", alpha, least=0)
    real_number("beta", beta, least=0)
    real_number("lambda_g", lambda_g, least=0, most=1)
    whole_number("average_steps", average_steps)


def images_and_labels(data: Any) -> tuple[Any, Tensor]:
    """The two parts of a batch as Keras passes it, the labels as (batch,).

    Raises:
        ValueError: labels that are missing or not integer class ids, or sample weights.
    """
    inputs, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if sample_weight is not None:
        raise ValueError(
            "HDML takes no sample weights: a synthetic tuple is made of several images. "
            "Received: data with three parts. Yield (images, labels) only"
        )
    return inputs, checked_class_ids(labels, keras.tree.flatten(inputs)[0])


def check_strategy(strategy: Any) -> None:
    """Raises ValueError for a tf.distribute strategy that HDML cannot train under.

    Several replicas: its tuples and averages are those of one batch. Strategies for several that
    have one only: optimizers merge replicas there, which TensorFlow refuses within the condition
    that keeps steps with non-finite gradients out.
    """
    number = getattr(strategy, "num_replicas_in_sync", 1)
    kind = type(strategy).__name__
    # without a scope TensorFlow has a default strategy, other backends have none
    is_plain = strategy is None or "Default" in kind or "OneDevice" in kind
    if number > 1 or not is_plain:
        raise ValueError(
            "HDML works on one replica, outside the scope of tf.distribute strategies or in that "
            f"of OneDeviceStrategy. Received: {kind}, replicas: {number}"
        )
