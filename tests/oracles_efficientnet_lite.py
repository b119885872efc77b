"""EfficientNet-Lite0 in NumPy, float64, from tensors as its PyTorch file has them."""

import math

import numpy as np
from oracles_models import convolution

# one row a block: expansion, kernel, stride, channels out
LITE0 = [
    (1, 3, 1, 16),
    (6, 3, 2, 24), (6, 3, 1, 24),
    (6, 5, 2, 40), (6, 5, 1, 40),
    (6, 3, 2, 80), (6, 3, 1, 80), (6, 3, 1, 80),
    (6, 5, 1, 112), (6, 5, 1, 112), (6, 5, 1, 112),
    (6, 5, 2, 192), (6, 5, 1, 192), (6, 5, 1, 192), (6, 5, 1, 192),
    (6, 3, 1, 320),
]  # fmt: skip


def random_tensors():
    """Tensors of Lite0 by their names in the file; statistics far from 0 and 1."""
    random = np.random.default_rng(0)
    tensors = {}

    def convolution_and_norm(convolution, norm, out, channels, kernel):
        shape = (out, channels, kernel, kernel)
        tensors[f"{convolution}.weight"] = random.normal(0, (channels * kernel**2) ** -0.5, shape)
        for name in ("weight", "running_var"):
            tensors[f"{norm}.{name}"] = random.uniform(0.5, 1.5, out)
        for name in ("bias", "running_mean"):
            tensors[f"{norm}.{name}"] = random.normal(0, 0.5, out)
        tensors[f"{norm}.num_batches_tracked"] = np.zeros((), "int64")

    convolution_and_norm("_conv_stem", "_bn0", 32, 3, 3)
    before = 32
    for number, (expansion, kernel, _, channels) in enumerate(LITE0):
        block, wide = f"_blocks.{number}", expansion * before
        if expansion > 1:
            convolution_and_norm(f"{block}._expand_conv", f"{block}._bn0", wide, before, 1)
        convolution_and_norm(f"{block}._depthwise_conv", f"{block}._bn1", wide, 1, kernel)
        convolution_and_norm(f"{block}._project_conv", f"{block}._bn2", channels, wide, 1)
        before = channels
    convolution_and_norm("_conv_head", "_bn1", 1280, 320, 1)
    tensors["_fc.weight"] = random.normal(size=(1000, 1280))
    tensors["_fc.bias"] = random.normal(size=1000)
    return {
        name: value.astype("float32") if value.dtype == "float64" else value
        for name, value in tensors.items()
    }


def lite0_features(tensors, images):
    """The last feature map for RGB images 0–255, (batch, height, width, 1280)."""

    def normalised(x, name):
        mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
        x = (x - mean) / np.sqrt(variance.astype("float64") + 1e-3)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def pointwise(x, name):
        return x @ tensors[f"{name}.weight"][:, :, 0, 0].T.astype("float64")

    def relu6(x):
        return np.minimum(np.maximum(x, 0), 6)

    x = (images.astype("float64") - 127) / 128
    kernel = tensors["_conv_stem.weight"].transpose(2, 3, 1, 0)
    x = convolution(_padded(x, 3, 2), kernel, 0, stride=2, padding=0)
    x = relu6(normalised(x, "_bn0"))
    for number, (expansion, size, stride, channels) in enumerate(LITE0):
        block, before = f"_blocks.{number}", x
        if expansion > 1:
            x = relu6(normalised(pointwise(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = _depthwise(x, tensors[f"{block}._depthwise_conv.weight"], size, stride)
        x = relu6(normalised(x, f"{block}._bn1"))
        x = normalised(pointwise(x, f"{block}._project_conv"), f"{block}._bn2")
        if stride == 1 and before.shape[-1] == channels:
            x = before + x
    return relu6(normalised(pointwise(x, "_conv_head"), "_bn1"))


def _padded(images, size, stride):
    """Zeros around, so that a side n gives ceil(n / stride); an odd one to the right and below."""
    sides = [(0, 0)]
    for side in images.shape[1:3]:
        zeros = max(0, (math.ceil(side / stride) - 1) * stride + size - side)
        sides.append((zeros // 2, zeros - zeros // 2))
    return np.pad(images, [*sides, (0, 0)])


def _depthwise(images, kernel, size, stride):
    padded = _padded(images, size, stride)
    rows, columns = (math.ceil(side / stride) for side in images.shape[1:3])
    result = np.empty((len(images), rows, columns, images.shape[-1]))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            window = padded[:, top : top + size, left : left + size]
            result[:, row, column] = np.einsum("nhwc,chw->nc", window, kernel[:, 0])
    return result
