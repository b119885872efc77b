"""Embeddings of a finished run's test images, kept in its folder: nothing is embedded again for
its report or its evaluation."""

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.export.fingerprint import model_fingerprint
from keras_ms.files import whole_file
from keras_ms.models.features import add_images_to
from keras_ms.run.data import RunData
from keras_ms.run.features import described_plain_view
from keras_ms.run.folder import RunFolder
from keras_ms.run.model import RunModels
from keras_ms.run.settings import Settings
from keras_ms.run.views import shorter_side

FOLDER = "embeddings"


def keep_test_embeddings(
    run: RunFolder,
    settings: Settings,
    embeddings: np.ndarray | None,
    *,
    models: RunModels,
    deployed: keras.Model,
    data: RunData,
) -> None:
    """Keeps what the weights that are deployed made of the test images.

    Args:
        run: the run's folder.
        settings: its `Settings`.
        embeddings: of `models.trained` with these weights; None where they were not computed.
        models: its models.
        deployed: the model that was saved.
        data: its data.
    """
    # HDML, and losses of embeddings of any length, train another output than is deployed
    if embeddings is None or not any(
        models.trained is model for model in (models.embedder, models.head)
    ):
        return
    images = data.images.subset("test")
    keep_embeddings(
        run.path,
        embeddings,
        images,
        fingerprint=model_fingerprint(deployed),
        view=described_plain_view(
            images, settings.images.image_size, shorter_side(settings, images)
        ),
    )


def keep_embeddings(
    run_folder: str | Path,
    embeddings: np.ndarray,
    images: ImageList,
    *,
    fingerprint: str,
    view: Any,
) -> None:
    """Writes the embeddings of some images, in place of others that the run's folder has.

    Args:
        run_folder: of the run.
        embeddings: (N, dimension).
        images: an ImageList of N images.
        fingerprint: of the model, as `keras_ms.export.fingerprint.model_fingerprint` gives it.
        view: what the model was shown of the images, in terms that JSON can hold.
    """
    file = _file(run_folder, images, fingerprint, view)
    with whole_file(file) as temporary:
        np.save(temporary, embeddings)
    for other in file.parent.glob("*.npy"):
        if other != file:
            other.unlink()


def kept_embeddings(
    run_folder: str | Path, images: ImageList, *, fingerprint: str, view: Any
) -> np.ndarray | None:
    """The embeddings that `keep_embeddings` wrote of the same weights, images and view, else None.

    Args: as of `keep_embeddings`. Images are the same if their names, sizes and dates are.
    """
    if not (Path(run_folder) / FOLDER).is_dir():
        return None
    file = _file(run_folder, images, fingerprint, view)
    try:
        embeddings = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        # none, or damaged: they are computed again
        return None
    fits = embeddings.ndim == 2 and embeddings.dtype.kind == "f" and len(embeddings) == len(images)
    return embeddings if fits else None


def _file(run_folder, images, fingerprint, view):
    digest = hashlib.sha256(json.dumps([fingerprint, view]).encode())
    add_images_to(digest, images)
    return Path(run_folder) / FOLDER / f"{digest.hexdigest()[:16]}.npy"
