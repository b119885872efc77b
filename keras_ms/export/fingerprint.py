"""Tells whether two files hold the same model, so that their embeddings may be compared."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

# of 64 characters of SHA-256; two models of a million have the same 32 with a chance below 1e-26
_LENGTH = 32
# options that a copy of a model may have otherwise
_OF_A_COPY = ("name", "dtype", "trainable")


def model_fingerprint(model: keras.Model) -> str:
    """What stays the same in every file of one model: a digest of its weights and layers.

    Embeddings of models with different fingerprints have nothing to do with each other, even
    where a training made one from the other. Exported files hold the fingerprint of the model that
    they were written from; names of layers and a lower precision of arithmetic do not change it.

    Args:
        model: any built Keras model.

    Returns:
        str of 32 hexadecimal digits.

    Example:

    ```python
    model_fingerprint(embedder) == load_embedder("embedder.onnx").fingerprint
    ```
    """
    digest = hashlib.sha256()
    for layer in model._flatten_layers(include_self=False):
        digest.update(f"{type(layer).__name__}{_options(layer)}\n".encode())
    for value in model.get_weights():
        # every low precision is exact in float32
        value = value if value.dtype.kind in "iub" else value.astype(np.float32)
        digest.update(f"{value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:_LENGTH]


def _options(layer):
    """What tells a layer without weights from another one of its kind, such as a factor of pixels.

    Weights tell the others; how a model is fed, its first layer's size, does not count.
    """
    holds_others = bool(layer._flatten_layers(include_self=False))
    if layer.weights or holds_others or isinstance(layer, keras.layers.InputLayer):
        return ""
    try:
        options = layer.get_config()
    except NotImplementedError:  # of a custom layer that cannot be saved
        return ""
    named = {key: value for key, value in options.items() if key not in _OF_A_COPY}
    return json.dumps(named, sort_keys=True, default=lambda value: np.asarray(value).tolist())


def file_fingerprint(path: str | os.PathLike, facts: Mapping[str, Any]) -> str:
    """The fingerprint that a model file records, else a digest of its bytes.

    Args:
        path: a file or a SavedModel folder.
        facts: what the file says about itself.
    """
    recorded = facts.get("model_fingerprint")
    if isinstance(recorded, str) and recorded:
        return recorded
    path, digest = Path(path), hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(f"{file.relative_to(path)}\n".encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:_LENGTH]
