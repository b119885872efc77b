"""Load a network's weights from a file, or say what the file holds instead."""

import os
from collections import Counter
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_ms.models.frozen_layers import FrozenStatisticsBatchNormalization


def load_network_weights(
    network: keras.Model, path: str | os.PathLike, *, whole: keras.Model | None = None
) -> None:
    """Load a `.weights.h5` file into a network after comparing the shapes of all arrays.

    Keras matches the arrays of a file to layers by order, and loads a file of another network as
    far as the shapes happen to agree. So every shape in the file is counted against the network
    first.

    Args:
        network: a `keras.Model`; its weights are replaced.
        path: a file written by `Model.save_weights`.
        whole: the uncut network that shares its layers with `network`. A file of this one serves
            too. Defaults to None.

    Raises:
        ValueError: when the file is missing, is no HDF5 file or does not fit, as that of a network
            with frozen batch normalisation does not fit one without: the message says what it
            holds and what the network expects.

    Example:
        >>> load_network_weights(network, "inception_v3_mixed8.weights.h5")
    """
    path = Path(path)
    held = _shapes_in_file(path, network.name)
    candidates = [network] if whole is None else [network, whole]
    fitting = [model for model in candidates if _shapes_of(model) == held]
    if not fitting:
        raise ValueError(_mismatch(path, held, network))
    try:
        fitting[0].load_weights(path)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"The weights file {path} holds arrays of the right shapes for {network.name}, but in "
            f"other layers than expected. {_remedy(network, path)}. Keras says: {error}"
        ) from error


def _remedy(network, path):
    names = []
    with h5py.File(path, "r") as file:
        file.visit(names.append)
    # Keras calls a layer in the file by its class
    kinds = "frozen_statistics_batch_normalization", "folded_batch_normalization"
    file_is_frozen = any(kind in name for name in names for kind in kinds)
    frozen = FrozenStatisticsBatchNormalization
    if file_is_frozen == any(isinstance(layer, frozen) for layer in network.layers):
        return "Save it with Model.save_weights from the same network"
    if file_is_frozen:
        return (
            "It is of a network with frozen batch normalisation: build one without weights and "
            "with frozen_batch_norm=True, and load the file with its load_weights"
        )
    return (
        "It is of a network without frozen batch normalisation: load it before batch normalisation "
        "is frozen"
    )


def _shapes_in_file(path, network_name):
    if not path.is_file():
        raise ValueError(
            f"There is no weights file {path}. Expected a .weights.h5 file of {network_name}, "
            '"imagenet" or None.'
        )
    if not path.name.endswith(".weights.h5"):
        raise ValueError(
            f"The name of a weights file must end in .weights.h5, as Model.save_weights writes it. "
            f"Received: {path}"
        )
    shapes = Counter()

    def count(name, item):
        # A compiled model's file holds the optimizer's slots too; loading leaves them out.
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer/"):
            shapes[tuple(item.shape)] += 1

    try:
        with h5py.File(path, "r") as file:
            file.visititems(count)
    except OSError as error:
        raise ValueError(
            f"The weights file {path} ({path.stat().st_size} bytes) is not an HDF5 file, or it is "
            f"cut short. Expected what Model.save_weights writes for {network_name}. "
            f"h5py says: {error}"
        ) from error
    return shapes


def _shapes_of(network):
    # Variables, not weights: the seeds of dropout layers are saved too.
    return Counter(tuple(variable.shape) for variable in network.variables)


def _mismatch(path, held, network):
    expected = _shapes_of(network)
    surplus, missing = held - expected, expected - held
    details = [
        f"{sum(shapes.values())} of the {whose} arrays have no partner, one of shape "
        f"{min(shapes, key=str)}"
        for whose, shapes in (("file's", surplus), ("network's", missing))
        if shapes
    ]
    return (
        f"The weights file {path} does not fit the network {network.name} (input "
        f"{network.input_shape[1:]}, output {network.output_shape[1:]}). The file holds "
        f"{_summary(held)}; the network expects {_summary(expected)}; {'; '.join(details)}. Check "
        "the backbone and the output_layer that the file was saved from."
    )


def _summary(shapes):
    numbers = sum(int(np.prod(shape)) * times for shape, times in shapes.items())
    return f"{sum(shapes.values())} arrays with {numbers:,} numbers"
