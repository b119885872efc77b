"""BN-Inception (Inception v2 with batch normalisation): the network, nothing else.

Layer names are those of the public PyTorch weights (`inception_3a_3x3_reduce`, its batch
normalisation `inception_3a_3x3_reduce_bn`), so that these convert name by name. The network takes
images that are already normalised: `keras_ms.models.backbones` puts that step before it.
"""

from numbers import Integral
from typing import NamedTuple

from keras import Input, Model, layers


class Block(NamedTuple):
    """Widths of one inception block: each branch a tuple of its convolutions' filters.

    An empty `one` and `projection` make a reduction block: both 3×3 branches end with stride 2,
    and the pooled input is passed on as it is.
    """

    one: tuple  # (1x1,)
    three: tuple  # (3x3_reduce, 3x3)
    double: tuple  # (double_3x3_reduce, double_3x3_1, double_3x3_2)
    pool: str  # "avg" | "max"
    projection: tuple  # (pool_proj,)


BLOCKS = {
    "3a": Block((64,), (64, 64), (64, 96, 96), "avg", (32,)),
    "3b": Block((64,), (64, 96), (64, 96, 96), "avg", (64,)),
    "3c": Block((), (128, 160), (64, 96, 96), "max", ()),
    "4a": Block((224,), (64, 96), (96, 128, 128), "avg", (128,)),
    "4b": Block((192,), (96, 128), (96, 128, 128), "avg", (128,)),
    "4c": Block((160,), (128, 160), (128, 160, 160), "avg", (128,)),
    "4d": Block((96,), (128, 192), (160, 192, 192), "avg", (128,)),
    "4e": Block((), (128, 192), (192, 256, 256), "max", ()),
    "5a": Block((352,), (192, 320), (160, 224, 224), "avg", (128,)),
    "5b": Block((352,), (192, 320), (192, 224, 224), "max", (128,)),
}


def bn_inception(input_shape: tuple[int, int, int] = (224, 224, 3)) -> Model:
    """BN-Inception without its classifier, from normalised images to a feature map.

    The standard backbone of the metric-learning papers: 10,290,272 parameters, of which 20,032 are
    moving statistics. Every convolution has a bias and is followed by batch normalisation (epsilon
    1e-5, momentum 0.9) and ReLU.

    Paper: Ioffe, Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift, ICML 2015.

    Args:
        input_shape: (height, width, 3) in pixels. Defaults to (224, 224, 3), the size it was
            trained with. Both sides must lie in 32k−1 … 32k+6 (223–230, 255–262, …): elsewhere the
            branches of a reduction block end with different sizes.

    Returns:
        A `keras.Model` named "bn_inception": float (batch, height, width, 3) to
        (batch, h, w, 1024), where h = w = 7 at 224 and 227 pixels. It expects BGR, 0–255, minus
        [104, 117, 128].

    Raises:
        ValueError: for an impossible input size, with the nearest valid ones.

    Example:
        >>> bn_inception((224, 224, 3)).output_shape
        (None, 7, 7, 1024)
    """
    _check_input_shape(input_shape)
    images = Input(input_shape, name="normalised_image")
    x = _convolution(images, "conv1_7x7_s2", 64, kernel_size=7, strides=2)
    x = _ceil_max_pool(x, "pool1_3x3_s2")
    x = _convolution(x, "conv2_3x3_reduce", 64, kernel_size=1)
    x = _convolution(x, "conv2_3x3", 192, kernel_size=3)
    x = _ceil_max_pool(x, "pool2_3x3_s2")
    for name, block in BLOCKS.items():
        x = _inception_block(x, f"inception_{name}", block)
    return Model(images, x, name="bn_inception")


def _inception_block(x, prefix, block):
    strides = 2 if not block.projection else 1
    branches = []
    if block.one:
        branches.append(_convolution(x, f"{prefix}_1x1", *block.one, kernel_size=1))

    reduce, filters = block.three
    three = _convolution(x, f"{prefix}_3x3_reduce", reduce, kernel_size=1)
    branches.append(_convolution(three, f"{prefix}_3x3", filters, kernel_size=3, strides=strides))

    reduce, first, second = block.double
    double = _convolution(x, f"{prefix}_double_3x3_reduce", reduce, kernel_size=1)
    double = _convolution(double, f"{prefix}_double_3x3_1", first, kernel_size=3)
    branches.append(
        _convolution(double, f"{prefix}_double_3x3_2", second, kernel_size=3, strides=strides)
    )

    pool = _block_pool(x, f"{prefix}_pool", block)
    if block.projection:
        pool = _convolution(pool, f"{prefix}_pool_proj", *block.projection, kernel_size=1)
    branches.append(pool)
    return layers.Concatenate(name=f"{prefix}_output")(branches)


def _block_pool(x, name, block):
    if not block.projection:
        return _ceil_max_pool(x, name)
    if block.pool == "max":
        # Stride 1 and an odd window: "same" pads one on every side, and a maximum ignores it.
        return layers.MaxPooling2D(3, strides=1, padding="same", name=name)(x)
    # The divisor is 9 at the border too. Keras's "same" would divide by the cells inside.
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.AveragePooling2D(3, strides=1, padding="valid", name=name)(x)


def _convolution(x, name, filters, *, kernel_size, strides=1):
    """Convolution padded by kernel_size // 2 on every side, batch normalisation, ReLU."""
    padding = "same"
    if strides > 1:
        # "same" with a stride pads an even side on its right only: every window moves by a pixel.
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        kernel_initializer="he_normal",  # keeps the variance through a ReLU, for runs from scratch
        name=name,
    )(x)
    x = layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _ceil_max_pool(x, name):
    """3×3 max pool with stride 2 whose last window may hang over the right and lower edge.

    It does on an even side only. Zeros are safe there: the input comes from a ReLU, so no maximum
    of a window is below them.
    """
    height, width = x.shape[1:3]
    overhang = ((0, 1 - height % 2), (0, 1 - width % 2))
    x = layers.ZeroPadding2D(overhang, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(3, strides=2, padding="valid", name=name)(x)


def _is_valid_side(side):
    # conv1 gives ceil(side / 2) and both pools floor(n / 2). In 3c and 4e the convolutions give
    # ceil(n / 2) and the pool floor(n / 2): they concatenate only where n is even, so what enters
    # 3c is a multiple of 4.
    enters_3c = (side + 1) // 2 // 2 // 2
    return enters_3c > 0 and enters_3c % 4 == 0


def _check_input_shape(input_shape):
    if len(input_shape) != 3 or input_shape[-1] != 3:
        raise ValueError(
            "bn_inception takes colour images: expected input_shape=(height, width, 3). "
            f"Received: input_shape={tuple(input_shape)}"
        )
    for axis, side in zip(("height", "width"), input_shape):
        if not isinstance(side, Integral):
            raise ValueError(
                "bn_inception needs a fixed image size, because its padding depends on it. "
                f"Received: {axis}={side!r}"
            )
        if not _is_valid_side(side):
            below = (max(int(side), 0) + 1) // 32 * 32 - 1
            nearest = [f"{low}–{low + 7}" for low in (below, below + 32) if low > 0]
            raise ValueError(
                f"bn_inception cannot take an image of {axis} {side}: the branches of a reduction "
                f"block would end with different sizes. Nearest valid sizes: "
                f"{' and '.join(nearest)} pixels. Received: input_shape={tuple(input_shape)}"
            )
