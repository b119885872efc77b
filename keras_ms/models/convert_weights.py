"""Public PyTorch weights of BN-Inception as a Keras weights file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_ms.files import whole_file
from keras_ms.models.backbones import build_backbone
from keras_ms.models.bn_inception import bn_inception
from keras_ms.models.saved_files import write_weights
from keras_ms.models.tensor_files import read_tensors

# the classifier of 1,000 ImageNet classes: the backbone ends before it
CLASSIFIER = ("last_linear.weight", "last_linear.bias")
# PyTorch's count of training batches, which no result depends on
_COUNTER = ".num_batches_tracked"

_INPUT_SHAPE = (224, 224, 3)  # of the network; its weights are the same at every size


def convert_weights(source: str | os.PathLike, destination: str | os.PathLike) -> list[str]:
    """Write the weights of a PyTorch BN-Inception as a file for `build_backbone`.

    The public file is bn_inception-52deb4733.pth (ImageNet: top-1 73.5, top-5 91.6). It was trained
    on BGR, 0–255, minus [104, 117, 128]: `build_backbone("bn_inception")` does that inside the
    model, which takes RGB 0–255.

    Args:
        source: `.pth` file, which needs PyTorch, or `.safetensors` file, which needs safetensors.
            Nothing in it is run.
        destination: `.weights.h5` file to write. It appears once it has been loaded through
            `build_backbone` and found equal, or not at all.

    Returns:
        The names of the tensors that were left out, as the backbone has no classifier.

    Raises:
        ValueError: a file that cannot be read or does not fit, with every tensor that is missing,
            unexpected, of another shape or not finite; a destination of another name.
        ImportError: a `.pth` file without PyTorch 2.6 or newer.

    Example:
        >>> convert_weights("bn_inception-52deb4733.pth", "bn_inception.weights.h5")
        ['last_linear.weight', 'last_linear.bias']
        >>> backbone = build_backbone(
        ...     "bn_inception", input_shape=(227, 227, 3), weights="bn_inception.weights.h5"
        ... )
    """
    destination = Path(destination)
    if not destination.name.endswith(".weights.h5"):
        raise ValueError(f"The file to write must end in .weights.h5. Received: {destination}")
    tensors = read_tensors(source)
    network = bn_inception(_INPUT_SHAPE)
    try:
        values, left_out = keras_values(tensors, network)
    except ValueError as error:
        raise ValueError(f"{source} does not hold the weights of BN-Inception. {error}") from error
    for name, arrays in values.items():
        network.get_layer(name).set_weights(arrays)
    with whole_file(destination) as temporary:
        write_weights(network, temporary)
        _check_loads(temporary, network)
    return left_out


def keras_values(
    tensors: Mapping[str, Any], network: keras.Model
) -> tuple[dict[str, list[np.ndarray]], list[str]]:
    """The values of a network's layers from tensors under PyTorch's names and in its layout.

    Kernels go from (out, in, height, width) to (height, width, in, out). Vectors may be written as
    (1, C), as the public file has those of batch normalisation.

    Args:
        tensors: dict from names, such as "conv1_7x7_s2.weight" and
            "conv1_7x7_s2_bn.running_mean", to arrays.
        network: a `keras.Model` whose layers have these names.

    Returns:
        `(values, left_out)`: a dict from layer names to what `set_weights` takes, float32, and the
        names of the classifier's tensors.

    Raises:
        ValueError: naming every tensor that is missing, unexpected, of another shape or not finite.
    """
    sources = {layer.name: _sources(layer) for layer in network.layers if _sources(layer)}
    expected = {name: shape for source in sources.values() for name, shape in source.items()}
    held = {name for name in tensors if not name.endswith(_COUNTER)}
    faults = {
        "missing": [name for name in expected if name not in held],
        "not of this network": [
            name for name in tensors if name in held and name not in (*expected, *CLASSIFIER)
        ],
        "of another shape": [
            f"{name} {np.shape(tensors[name])} instead of {shape}"
            for name, shape in expected.items()
            if name in held and not _has_shape(tensors[name], shape)
        ],
    }
    if not any(faults.values()):
        faults["not finite numbers"] = [name for name in expected if not _is_finite(tensors[name])]
        # a variance below 0 has no square root
        faults["below 0"] = [
            name for name in expected if name.endswith(".running_var") and np.any(tensors[name] < 0)
        ]
    if any(faults.values()):
        raise ValueError(
            "; ".join(
                f"{len(names)} tensors {fault}: {', '.join(names)}"
                for fault, names in faults.items()
                if names
            )
        )
    values = {
        layer: [_in_keras_layout(tensors[name], shape) for name, shape in source.items()]
        for layer, source in sources.items()
    }
    return values, [name for name in CLASSIFIER if name in held]


def _sources(layer):
    """PyTorch's names and shapes of a layer's weights, in the order of Keras."""
    if isinstance(layer, layers.Conv2D):
        height, width, before, after = layer.weights[0].shape
        return {
            f"{layer.name}.weight": (after, before, height, width),
            f"{layer.name}.bias": (after,),
        }
    if isinstance(layer, layers.BatchNormalization):
        names = ("weight", "bias", "running_mean", "running_var")
        return {f"{layer.name}.{name}": tuple(layer.weights[0].shape) for name in names}
    return {}


def _has_shape(tensor, shape):
    return tensor.shape == shape or (len(shape) == 1 and tensor.shape == (1, *shape))


def _is_finite(tensor):
    return tensor.dtype.kind == "f" and np.isfinite(tensor).all()


def _in_keras_layout(tensor, shape):
    tensor = tensor.astype(np.float32).reshape(shape)
    return tensor.transpose(2, 3, 1, 0) if len(shape) == 4 else tensor


def _check_loads(file, network):
    backbone = build_backbone(
        "bn_inception",
        input_shape=_INPUT_SHAPE,
        weights=file,
        frozen_batch_norm=False,  # with the layers of the network, in its order
    )
    for written, read in zip(network.weights, backbone.weights, strict=True):
        if not np.array_equal(written.numpy(), read.numpy()):
            raise ValueError(
                f"{written.path} came back from the weights file with other values. Check the disk"
            )
