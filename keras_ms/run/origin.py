"""What tells one run from another: its images, and the packages it was trained with."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
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
        "counts", [classes, images] by split, and "test_classes" and "other_classes", digests of
        the sorted names of the test classes and of those of the other splits: a test on classes
        that were trained on would mean nothing.
    """
    others = [split for split in images.counts() if split != "test"]
    return {
        "counts": {split: list(count) for split, count in images.counts().items()},
        "test_classes": _digest(_names(images, "test")),
        "other_classes": _digest({split: _names(images, split) for split in others}),
    }


def are_same_images(found: Mapping[str, Any], trained: Mapping[str, Any]) -> bool:
    """Whether images are those of a run: what both summaries say of them is the same.

    Args:
        found: `data_summary` of the images.
        trained: that of the run; one of an earlier version says less.
    """
    return all(found[name] == value for name, value in trained.items() if name in found)


def _names(images, split):
    ids = np.unique(images.labels[images.split == split])
    return sorted(images.class_names[label] for label in ids)


def _digest(names):
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Versions of what computes, and in which folder, a dict that JSON can hold."""
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
        # relative places of the settings begin there
        "folder": os.getcwd(),
    }
