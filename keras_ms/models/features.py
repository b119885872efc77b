"""Pooled features of a frozen backbone: computed once per image, kept on disk, trained on."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ms.data.file_names import file_bytes, file_path
from keras_ms.data.image_list import ImageList
from keras_ms.evaluation.embed import embed_batches
from keras_ms.files import whole_file

# Of a layer's configuration, what changes no result of `predict`: names, what only training or
# the first weights depend on, what was recorded while building. The weights are digested as such.
_WITHOUT_EFFECT = {
    "name", "trainable", "seed", "synchronized", "build_config", "shared_object_id", "module",
}  # fmt: skip
_ENDINGS_WITHOUT_EFFECT = ("_initializer", "_regularizer", "_constraint")
_CONNECTIONS = {"keras_history", "input_layers", "output_layers"}


def pooled_features(
    features_model: keras.Model,
    images: ImageList,
    view: Any,
    batches: Callable[[], tf.data.Dataset],
    folder: str | Path,
    *,
    log: Callable[[str], Any] = print,
    verbose: int = 2,
) -> np.ndarray:
    """The features of one view of all images, in the list's order, computed at most once.

    The file's name is a digest of what the model computes and of its weights, of the images'
    names, sizes and dates, and of the view, so that nothing stale is ever read. A model that was
    saved and loaded again finds its features.

    Args:
        features_model: images to pooled features, of `split_embedder`.
        images: an ImageList.
        view: what `batches` shows of the images, in terms that JSON can hold.
        batches: function without arguments that returns the images as a finite dataset; called
            only if the features are not there yet.
        folder: where features are kept, one .npy file for each list and view; made if missing.
        log: function that tells the user what takes time.
        verbose: 1 shows a bar, 2 tells a line every half minute, 0 nothing.

    Returns:
        float32 (N, channels).
    """
    name = f"{images.name}-{_digest(features_model, images, view)}.npy"
    file = Path(folder) / file_path(name)
    features = _kept(file, len(images))
    if features is not None:
        log(f"Features of {len(images):,} images: read from {file}")
        return features
    log(f"Computing the features of {len(images):,} images once")
    features = embed_batches(
        features_model, batches(), total=len(images), what="features", verbose=verbose, log=log
    )
    with whole_file(file) as temporary:
        np.save(temporary, features)
    return features


def _kept(file, count):
    """What the file holds; None without it, or where it is damaged: then it is made again."""
    try:
        features = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return features if features.ndim == 2 and len(features) == count else None


def _digest(model, images, view):
    digest = hashlib.sha256(json.dumps([computation(model), view]).encode())
    for weights in model.get_weights():
        # without its shape, a matrix and its transpose of equal values would be the same
        digest.update(f"{weights.dtype}{weights.shape}".encode())
        digest.update(np.ascontiguousarray(weights).data)
    add_images_to(digest, images)
    return digest.hexdigest()[:16]


def add_images_to(digest: Any, images: ImageList) -> None:
    """Adds to a digest of hashlib which images these are: names, sizes and dates, or pixels."""
    if images.images is not None:
        digest.update(np.ascontiguousarray(images.images).data)
    else:
        for path in images.paths:
            stat = os.stat(file_path(path))
            digest.update(file_bytes(str(path)))
            digest.update(f"|{stat.st_size}|{stat.st_mtime_ns}\n".encode())


def computation(model: keras.Model) -> dict:
    """What a model computes from its input and its weights, in terms that JSON can hold.

    Equal for a model and a copy of it that was saved and loaded, whatever Keras named the layers;
    it says nothing about the weights' values.

    Args:
        model: functional or sequential `keras.Model`.

    Returns:
        A dict: the settings and inputs of each layer or operation in order, inputs and outputs.
    """
    return _canonical(model.get_config(), {})


def _canonical(value: Any, places: dict) -> Any:
    """`value` in JSON's terms, without what has no effect; `places` of layers by their names."""
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy":
            return value["config"]["name"]
        if "layers" in value:
            places = {entry.get("name"): n for n, entry in enumerate(value["layers"])}
        return {
            name: _connection(item, places) if name in _CONNECTIONS else _canonical(item, places)
            for name, item in sorted(value.items())
            if name not in _WITHOUT_EFFECT and not name.endswith(_ENDINGS_WITHOUT_EFFECT)
        }
    if isinstance(value, (list, tuple)):
        return [_canonical(item, places) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, bool, int, float, type(None))) else repr(value)


def _connection(value, places):
    """[layer, node, tensor], or a list of these, with the layer's place for its name.

    Of a single input or output Keras writes the triple alone, or in a list.
    """
    if isinstance(value, dict):
        return [_connection(value[name], places) for name in sorted(value)]
    if len(value) == 3 and isinstance(value[0], str):
        return [[places.get(value[0], value[0]), *value[1:]]]
    return [triple for item in value for triple in _connection(item, places)]
