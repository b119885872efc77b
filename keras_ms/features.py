"""Pooled features of a frozen backbone: computed once per image, kept on disk, trained on."""

import hashlib
import json
from pathlib import Path

import numpy as np

from keras_ms.whole_files import whole_file


def pooled_features(features_model, images, view, batches, folder, *, log=print, verbose=2):
    """The features of one view of all images, in the list's order, computed at most once.

    The file's name is a digest of the model's configuration and weights, of the images' names,
    sizes and dates, and of the view, so that nothing stale is ever read.

    Args:
        features_model: images to pooled features, of `split_embedder`.
        images: an ImageList.
        view: what `batches` shows of the images, in terms that JSON can hold.
        batches: function without arguments that returns the images as a finite dataset; called
            only if the features are not there yet.
        folder: where features are kept, one .npy file for each list and view; made if missing.
        log: function that tells the user what takes time.
        verbose: as in `keras.Model.predict`.

    Returns:
        float32 (N, channels).
    """
    file = Path(folder) / f"{images.name}-{_digest(features_model, images, view)}.npy"
    if file.is_file():
        features = np.load(file, allow_pickle=False)
        if len(features) == len(images):
            log(f"Features of {len(images)} images: read from {file}")
            return features
    log(f"Computing the features of {len(images)} images once")
    features = features_model.predict(batches(), verbose=verbose)
    with whole_file(file) as temporary:
        np.save(temporary, features)
    return features


def _digest(model, images, view):
    digest = hashlib.sha256(json.dumps([model.to_json(), view]).encode())
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights))
    if images.images is not None:
        digest.update(np.ascontiguousarray(images.images))
    else:
        for path in images.paths:
            stat = Path(path).stat()
            digest.update(f"{path}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
