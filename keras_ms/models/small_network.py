"""A small residual network for characters and other pictures of about 28 to 64 pixels."""

import keras
from keras import layers

# channels of the first convolution and the three stages: about 0.2 to 0.3 s for a training step of
# 160 pictures of 35 pixels on two cores, so that a thousand steps take minutes
WIDTHS = (32, 64, 96, 128)
# the usual doubling, for longer training: a step takes 1.3 to 1.4 times as long
WIDE_WIDTHS = (32, 64, 128, 256)
# blocks at full side and in the three stages
BLOCKS = (0, 1, 1, 1)
DEEP_BLOCKS = (1, 2, 2, 2)
# above this side the first convolution halves the picture: strokes are then several pixels wide,
# and all later layers cost as much as they do for half the side
_LARGEST_FULL_SIDE = 48
_SMALLEST_SIDE = 16


def small_network(
    input_shape: tuple[int | None, int | None, int],
    widths: tuple[int, int, int, int] = WIDTHS,
    blocks: tuple[int, int, int, int] = BLOCKS,
) -> keras.Model:
    """A convolution and three residual stages, trained from scratch in minutes on a CPU.

    A 3×3 convolution, then three stages of residual blocks; before each stage a maximum over 2×2
    pixels halves the sides. A block is relu(B(A(x)) + P(x)), where A and B are 3×3 convolutions,
    each followed by batch normalisation, and A also by relu; P is a 1×1 convolution with batch
    normalisation in the first block of a stage, x itself in others. 477,000 parameters,
    1,211,000 with `WIDE_WIDTHS`, 2,781,000 with `DEEP_BLOCKS` as well.

    Batch normalisation trains as usual here: without pretrained statistics there is nothing to
    freeze.

    Args:
        input_shape: `(height, width, channels)`, sides at least 16. Fixed or `None` sides; for
            sides above 48 the first convolution has stride 2, so that a 64 pixel picture costs
            less than a 42 pixel one.
        widths: channels of the first convolution and of the stages, four numbers. Defaults to
            `WIDTHS`.
        blocks: residual blocks after the first convolution, before the first maximum, and in each
            stage, four numbers; a stage has one or more. Defaults to `BLOCKS`.

    Returns:
        `keras.Model` from `(batch, height, width, channels)`, values 0-255, to a feature map
        `(batch, ceil(height / 8), ceil(width / 8), widths[-1])`, divided by 16 instead of 8 for
        sides above 48. Without pooling and head. The scaling of 0-255 to -1…1 is its first layer.

    Raises:
        ValueError: `input_shape` is not three numbers, or a side is too small.

    Example:

    >>> small_network((35, 35, 3)).output_shape
    (None, 5, 5, 128)
    """
    height, width = _check_input_shape(input_shape)
    known = [side for side in (height, width) if side is not None]
    stride = 2 if known and min(known) > _LARGEST_FULL_SIDE else 1

    (first, *stages), (before, *in_stages) = widths, blocks
    image = layers.Input(tuple(input_shape), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = layers.Activation("relu")(_convolution(x, first, 3, stride=stride))
    for _ in range(before):
        x = _block(x, first)
    for channels, number in zip(stages, in_stages):
        # "same": an odd side keeps its last row and column
        x = layers.MaxPooling2D(2, padding="same")(x)
        for block in range(number):
            x = _block(x, channels, projects=block == 0)
    return keras.Model(image, x, name="small_network")


def _block(x, channels, projects=False):
    inner = layers.Activation("relu")(_convolution(x, channels, 3))
    added = _convolution(inner, channels, 3)
    same = _convolution(x, channels, 1) if projects else x
    return layers.Activation("relu")(layers.Add()([added, same]))


def _convolution(x, channels, side, stride=1):
    # batch normalisation has its own offset: a bias here would have no effect
    x = layers.Conv2D(
        channels,
        side,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    # momentum 0.9: the statistics must follow within the few hundred steps of a run; Keras's
    # 0.99 would still remember the random start
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def _check_input_shape(input_shape):
    shape = tuple(input_shape)
    sides = shape[:2]
    if (
        len(shape) != 3
        or not shape[2]
        or any(side is not None and side < _SMALLEST_SIDE for side in sides)
    ):
        raise ValueError(
            "Invalid value for `input_shape`. Expected (height, width, channels) with sides of at "
            f"least {_SMALLEST_SIDE} pixels. Received: input_shape={input_shape!r}"
        )
    return sides
