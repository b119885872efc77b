"""EfficientNet-Lite: EfficientNet for plain arithmetic, small enough for phones.

Without squeeze-and-excitation, with ReLU6 instead of swish; stem and head are those of the smallest
network in all sizes. The network takes images that are already normalised:
`keras_ms.models.backbones` puts that step before it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers


class Scaling(NamedTuple):
    """What a larger network multiplies: channels, and blocks of a stage."""

    width: float
    depth: float


# number of the network: how it is scaled; for images of 224, 240 and 260 pixels
SCALINGS = {0: Scaling(1.0, 1.0), 1: Scaling(1.0, 1.1), 2: Scaling(1.1, 1.2)}


class Stage(NamedTuple):
    """Blocks of one resolution; the first of them strides and changes the channels."""

    blocks: int
    kernel_size: int
    strides: int
    expansion: int
    channels: int


_STEM, _HEAD = 32, 1280
_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_SMALLEST_SIDE = 32

# a layer of the network: its tensors in the file; {} is the number of its block
_TENSORS = {
    "stem": "_conv_stem",
    "stem_bn": "_bn0",
    "block{}_expand": "_blocks.{}._expand_conv",
    "block{}_expand_bn": "_blocks.{}._bn0",
    "block{}_depthwise": "_blocks.{}._depthwise_conv",
    "block{}_depthwise_bn": "_blocks.{}._bn1",
    "block{}_project": "_blocks.{}._project_conv",
    "block{}_project_bn": "_blocks.{}._bn2",
    "head": "_conv_head",
    "head_bn": "_bn1",
}
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def efficientnet_lite(
    number: int, input_shape: tuple[int | None, int | None, int] = (224, 224, 3)
) -> keras.Model:
    """EfficientNet-Lite up to its last feature map, with random weights.

    A 3×3 convolution with stride 2, inverted residual blocks (1×1 to six times the channels, k×k in
    each channel, 1×1 back; the input is added where the shape stays), a 1×1 convolution; each
    followed by batch normalisation, and by ReLU6 but for the last of a block. No block is
    dropped at random.

    Paper: Tan, Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML
    2019; the Lite networks were published with its code in 2020.

    Args:
        number: 0, 1 or 2: 3.4, 4.2 or 4.9 million parameters.
        input_shape: `(height, width, 3)` of at least 32 pixels, fixed or None. Defaults to
            (224, 224, 3), at which the published weights of number 0 were trained.

    Returns:
        `keras.Model` from normalised images to a feature map
        `(batch, ceil(height / 32), ceil(width / 32), 1280)`. Its layers are called "stem",
        "block4_expand", "block4_depthwise", "block4_project", "block4_add" and "head", their batch
        normalisations "stem_bn" and so on.

    Raises:
        ValueError: an unknown number; images that are no colour images or too small.

    Example:

    >>> efficientnet_lite(0, (96, 96, 3)).output_shape
    (None, 3, 3, 1280)
    """
    if number not in SCALINGS:
        raise ValueError(
            f"There is EfficientNet-Lite {', '.join(map(str, SCALINGS))}. Received: {number!r}"
        )
    _check_input_shape(input_shape)
    scaling = SCALINGS[number]

    image = keras.Input(tuple(input_shape), name="image")
    x = _relu6(_normalised(_convolution(_STEM, 3, "stem", strides=2)(image), "stem"), "stem")
    block = 0
    for stage in _STAGES:
        channels = _scaled_channels(stage.channels, scaling.width)
        for place in range(_scaled_blocks(stage, scaling.depth)):
            strides = stage.strides if place == 0 else 1
            x = _block(x, f"block{block}", stage, channels=channels, strides=strides)
            block += 1
    x = _relu6(_normalised(_convolution(_HEAD, 1, "head")(x), "head"), "head")
    return keras.Model(image, x, name=f"efficientnet_lite{number}")


def set_tensors(network: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Give a network the weights of a PyTorch file.

    Args:
        network: of `efficientnet_lite`, whole; its weights are replaced.
        tensors: as `keras_ms.models.weights_packages.package_tensors` has them for the network of
            this number: kernels as (out, in, height, width), such as "_conv_stem.weight".

    Example:
        >>> set_tensors(efficientnet_lite(0), package_tensors("efficientnet_lite0"))
    """
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(_values(layer, tensors))


def _block(before, name, stage, *, channels, strides):
    x = before
    if stage.expansion > 1:
        part, wide = f"{name}_expand", stage.expansion * x.shape[-1]
        x = _relu6(_normalised(_convolution(wide, 1, part)(x), part), part)
    part = f"{name}_depthwise"
    depthwise = layers.DepthwiseConv2D(
        stage.kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=part,
    )
    x = _relu6(_normalised(depthwise(x), part), part)
    part = f"{name}_project"
    x = _normalised(_convolution(channels, 1, part)(x), part)
    if strides == 1 and before.shape[-1] == channels:
        x = layers.Add(name=f"{name}_add")([before, x])
    return x


def _convolution(channels, kernel_size, name, *, strides=1):
    return layers.Conv2D(
        channels,
        kernel_size,
        strides=strides,
        # of an even side with a stride one pixel on the right only, as the weights were trained
        padding="same",
        use_bias=False,  # batch normalisation has its own
        kernel_initializer=_initializer(),
        name=name,
    )


def _initializer() -> Any:
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _normalised(x, name):
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn")(x)


def _relu6(x, name):
    return layers.ReLU(6.0, name=f"{name}_relu6")(x)


def _scaled_channels(channels, width):
    """The multiple of 8 nearest to the product, unless it loses more than a tenth."""
    if width == 1:
        return channels
    product = channels * width
    nearest = max(8, int(product + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * product else nearest + 8


def _scaled_blocks(stage, depth):
    if stage in (_STAGES[0], _STAGES[-1]):
        return stage.blocks
    return math.ceil(depth * stage.blocks)


def _values(layer: keras.Layer, tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What `set_weights` of a layer takes."""
    number = re.search(r"\d+", layer.name)
    pattern = re.sub(r"\d+", "{}", layer.name)
    source = _TENSORS[pattern].format(number and number[0])
    if isinstance(layer, layers.BatchNormalization):
        return [tensors[f"{source}.{part}"] for part in _BATCH_NORM]
    # from (out, in, height, width); in each channel alone from (channels, 1, height, width)
    axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
    return [tensors[f"{source}.weight"].transpose(axes)]


def _check_input_shape(input_shape):
    shape = tuple(input_shape)
    is_colour = len(shape) == 3 and shape[2] == 3
    if not is_colour or any(side is not None and side < _SMALLEST_SIDE for side in shape[:2]):
        raise ValueError(
            "EfficientNet-Lite takes colour images: expected input_shape=(height, width, 3) with "
            f"sides of at least {_SMALLEST_SIDE} pixels. Received: input_shape={input_shape!r}"
        )
