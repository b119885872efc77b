"""Pooled features of a run's images: what a head is trained on, and what training must improve."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ms.data.augmented_views import augmented_batches
from keras_ms.data.image_list import ImageList
from keras_ms.models.features import pooled_features
from keras_ms.run.settings import Settings
from keras_ms.run.views import augmentation, plain_batches, shorter_side, view_options
from keras_ms.terminal.progress import shown_progress


class RunFeatures:
    """Pooled features by split, computed when they are first asked for and kept on disk.

    Args:
        settings: `Settings`.
        images: `ImageList` with all splits.
        features_model: images to pooled features.
        log: function that takes a line of text for the user.
        verbose: 1 shows a bar, 2 tells a line every half minute, 0 nothing. Defaults to None: a bar
            on a terminal, else lines.
    """

    def __init__(
        self,
        settings: Settings,
        images: ImageList,
        *,
        features_model: keras.Model,
        log: Callable[[str], Any],
        verbose: int | None = None,
    ):
        self.settings = settings
        self.images = images
        self.features_model = features_model
        self._log, self._verbose = log, verbose
        self._in_memory: dict[tuple[str, int], np.ndarray] = {}

    def of_split(self, split: str, *, view: int = 0) -> np.ndarray:
        """float32 (N, channels): of the plain images (view 0) or of a random training view.

        Raises:
            ValueError: features that are NaN or infinity.
        """
        if (split, view) not in self._in_memory:
            self._in_memory[split, view] = self._computed(self.images.subset(split), view)
        return self._in_memory[split, view]

    def training_views(self) -> np.ndarray:
        """float32 (views, N, channels): of the training images, view 0 the plain one."""
        views = range(self.settings.model.feature_views)
        return np.stack([self.of_split("train", view=view) for view in views])

    def release(self) -> None:
        """Frees their memory, where they are not trained on; they stay on disk."""
        if not self.settings.model.freeze_backbone:
            self._in_memory.clear()

    def _computed(self, images, view):
        settings = self.settings
        features = pooled_features(
            self.features_model,
            images,
            _described_view(settings, images, view),
            lambda: _batches_of_view(settings, images, view),
            Path(settings.training.runs_folder) / "features",
            log=self._log,
            verbose=shown_progress() if self._verbose is None else self._verbose,
        )
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"The features of {np.count_nonzero(~finite):,} of {len(images):,} images hold NaN "
                f"or infinity, the first is {images.paths[np.argmin(finite)]}. A network that is "
                "too large for float16 takes --precision float32 or mixed_bfloat16; else look for "
                "NaN in its weights"
            )
        return features


def described_plain_view(images: ImageList, image_size: int, resize_to: int) -> dict[str, Any]:
    """What evaluation shows of the images, in terms that JSON can hold."""
    return {"plain": [image_size, resize_to], "jpeg": "accurate"} | _decoding(images)


def _described_view(settings: Settings, images: ImageList, view: int) -> dict[str, Any]:
    """What a view shows of the images, in terms that JSON can hold: part of its file's name."""
    size = settings.images.image_size
    if view == 0:
        return described_plain_view(images, size, shorter_side(settings, images))
    return {
        "view": [
            size, view, settings.training.seed, augmentation(settings, images),
            settings.images.crop_scale, settings.images.distortion, settings.images.elastic,
            settings.images.strokes,
        ],
        **_decoding(images),
    }  # fmt: skip


def _decoding(images):
    # what is decoded otherwise, as JPEGs once were, is another picture
    files = {"jpeg": "scaled", "exif": images.apply_exif_orientation}
    return files if images.images is None else {}


def _batches_of_view(settings: Settings, images: ImageList, view: int) -> tf.data.Dataset:
    if view == 0:
        batches = plain_batches(settings, images, cache=False)
        return batches.map(lambda image, label: image)
    return augmented_batches(
        images,
        settings.images.image_size,
        seed=(settings.training.seed, view),
        batch_size=settings.evaluation.evaluation_batch_size,
        **view_options(settings, images),
    )
