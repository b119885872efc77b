"""What tells one run from another: its images, and the packages it was trained with."""

import hashlib
import json
import platform
from importlib import metadata
from typing import Any

import keras
import numpy as np

from keras_ms.data.image_list import ImageList

_PACKAGES = (
    "keras_ms",
    "tensorflow",
    "keras",
    "jax",
    "torch",
    "numpy",
    "pillow",
    "matplotlib",
    "onnx",
    "tf2onnx",
    "onnxruntime",
)


def data_summary(images: ImageList) -> dict[str, Any]:
    """What tells the images of one run from others, a dict that JSON can hold.

    Args:
        images: `ImageList` with all splits.

    Returns:
        "counts", [classes, images] by split, and "test_classes", a digest of the sorted names of
        the test classes: a test on classes that were trained on would mean nothing.
    """
    test = np.unique(images.labels[images.split == "test"])
    names = json.dumps(sorted(images.class_names[label] for label in test))
    return {
        "counts": {split: list(count) for split, count in images.counts().items()},
        "test_classes": hashlib.sha256(names.encode()).hexdigest(),
    }


def environment() -> dict[str, Any]:
    """Versions of what computes, a dict that JSON can hold."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "backend": keras.backend.backend(),
        "packages": versions,
    }
