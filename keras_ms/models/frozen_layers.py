"""What is held while a network trains: batch statistics, dropout, its first blocks."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_ms.arguments import Tensor, whole_number
from keras_ms.models.blocks import backbone_blocks, walk_layers

# as Keras, keras.applications and KerasHub call the share that is dropped
_SHARES_DROPPED = ("rate", "drop_path_rate", "drop_prob")


@keras.saving.register_keras_serializable(package="keras_ms")
class FrozenStatisticsBatchNormalization(layers.BatchNormalization):
    """Batch normalisation by the running statistics, in training as in inference.

    A batch of 16 classes × 5 images is no fair sample of what pretrained statistics stand for, so
    the recipes of metric learning keep these and train the affine part only (said to give two
    points of Recall@1 on CUB). A layer of its own is needed, because the two usual ways fail:
    `layer.trainable = False` stops γ and β too, and a network called with `training=False` inside
    a functional model is called with `training=True` all the same by `fit`.

    Args: those of `keras.layers.BatchNormalization`.

    Shapes: as `keras.layers.BatchNormalization`; weights γ, β, moving mean, moving variance in the
        same order, so that `set_weights` carries them from one kind to the other. A `.weights.h5`
        file does not: it names each layer by its class.

    Example:
        >>> layer = FrozenStatisticsBatchNormalization()
        >>> layer(keras.ops.ones((2, 4)), training=True).shape
        (2, 4)
    """

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return super().call(inputs, training=False, mask=mask)


@keras.saving.register_keras_serializable(package="keras_ms")
class NetworkCall(layers.Layer):
    """A network as a layer that says itself whether it trains.

    Keras's layers of image preprocessing train unless they are told not to, and what they decide
    holds for all layers behind them: a network that begins with one normalises by the statistics
    of the batch when an embedder is called without `training`. Here the default is inference. And
    `fit` tells every layer to train, dropout inside of other layers included: held, none does.

    Args:
        network: a built `keras.Model`; its variables are those of this layer.
        held: whether it is always in inference mode. Defaults to False: if it is not told to train.

    Shapes: those of the network.

    Example:
        >>> layer = NetworkCall(keras.Sequential([keras.layers.RandomFlip()]))
        >>> layer(keras.ops.ones((1, 4, 4, 3))).shape
        (1, 4, 4, 3)
    """

    def __init__(self, network: keras.Model, held: bool = False, **kwargs: Any):
        # the layers of the network have precisions of their own
        super().__init__(autocast=False, **kwargs)
        self.network = network
        self.held = held

    def build(self, input_shape: Any) -> None:
        pass  # the network is built

    def call(self, inputs: Any, training: bool = False) -> Tensor:
        return self.network(inputs, training=bool(training) and not self.held)

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network, "held": self.held}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NetworkCall":
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})


def with_frozen_batch_norm(network: keras.Model) -> keras.Model:
    """A copy of a functional network, weights included, whose batch statistics stay as they are.

    Args:
        network: a functional `keras.Model` without nested models.

    Returns:
        A new `keras.Model` with the same name, layer names and weight values. Layers other than
        batch normalisation are plain copies.

    Example:
        >>> network = with_frozen_batch_norm(keras.applications.MobileNetV2(weights=None))
    """
    return _copy(network, _frozen_statistics)


def has_folded_statistics(network: keras.Model) -> bool:
    """Whether batch normalisation does nothing but scale and shift: means 0, variances 1 − ε.

    So it is in files for inference, whose convolutions hold the normalisation. False for a network
    as it is built, with variances of 1, and for one without batch normalisation.

    Example:
        >>> has_folded_statistics(keras.applications.MobileNetV2(weights=None))
        False
    """
    found = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]

    def is_folded(layer):
        mean, variance = (
            ops.convert_to_numpy(part) for part in (layer.moving_mean, layer.moving_variance)
        )
        # far less than ε off, which tells it from the variance that a network is built with
        return not mean.any() and (np.abs(variance + layer.epsilon - 1) < layer.epsilon / 10).all()

    return bool(found) and all(is_folded(layer) for layer in found)


def without_dropout(network: keras.Model) -> keras.Model:
    """A copy of a functional network, weights included, whose dropout layers drop nothing.

    `trainable = False` puts batch normalisation into inference mode, but not dropout.
    """
    return _copy(network, _no_dropout)


def freeze_blocks(backbone: keras.Model, count: int) -> None:
    """Holds the stem and the first blocks of a backbone as they are, in place.

    Nothing in them is trained, batch normalisation takes its running statistics, and dropout and
    stochastic depth drop nothing. Call it before `compile`.

    Args:
        backbone: as in `backbone_blocks`.
        count: how many blocks, 1 or more, fewer than there are.

    Raises:
        ValueError: no blocks are found, or another number.

    Example:
        >>> embedder = keras_ms.build_embedder("small")
        >>> freeze_blocks(embedder.get_layer("backbone"), 1)
    """
    blocks = backbone_blocks(backbone)
    most = len(blocks) - 3
    why = f"{backbone.name} has {most + 1} blocks, and to hold all of them is freeze_backbone"
    count = whole_number("freeze_blocks", count, most=most, reason=why)
    for block in blocks[: count + 1]:
        for layer in block.layers:
            layer.trainable = False
            for inner, name in random_layers(layer):
                setattr(inner, name, 0.0)
        for variable in block.variables:
            variable.trainable = False


def random_layers(layer: keras.Layer) -> list[tuple[keras.Layer, str]]:
    """The layers within one that drop at random while training, and their attribute of how much."""
    return [
        (inner, name)
        for inner in walk_layers(layer)
        for name in _SHARES_DROPPED
        if isinstance(getattr(inner, name, None), float) and getattr(inner, name) > 0
    ]


def _frozen_statistics(layer):
    if isinstance(layer, layers.BatchNormalization):
        return FrozenStatisticsBatchNormalization.from_config(layer.get_config())
    return layer.__class__.from_config(layer.get_config())


def _no_dropout(layer):
    config = layer.get_config()
    if isinstance(layer, layers.Dropout):
        config["rate"] = 0.0
    return layer.__class__.from_config(config)


def _copy(network, clone_function):
    copy = keras.models.clone_model(network, clone_function=clone_function)
    copy.set_weights(network.get_weights())
    return copy
