"""What a run trains on and is evaluated on: images, or pooled features with a frozen backbone."""

import functools
import inspect
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_ms.curriculum.batches import curriculum_balanced_batches
from keras_ms.curriculum.table import read_curriculum
from keras_ms.data.augmented_views import augmented_batches
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.distortions import distort
from keras_ms.data.images import default_resize_to, evaluation_batches
from keras_ms.htl.batches import NeighbourIndices, neighbour_batches
from keras_ms.models.features import pooled_features

# Neighbours of raw pixels are looked for at most at this size and, unasked, among so many images.
_PIXELS, _MOST_IMAGES_FOR_PIXELS = 42, 20_000
# settings of `distort` that its strength multiplies
_STRENGTHENED = ("rotation", "scale", "shear", "translation")


class RunData:
    """Batches for training and evaluation, as the settings of a run say.

    Args:
        settings: `Settings`.
        images: ImageList with all splits.
        features_model: images to pooled features, used with a frozen backbone.
        log: function that takes a line of text for the user.
        verbose: as in `keras.Model.predict`.
    """

    def __init__(self, settings, images, features_model, log, verbose):
        self.settings = settings
        self.images = images
        self._features_model = features_model
        self._log = log
        self._verbose = verbose
        self._features = {}  # by split and view
        if settings.model.feature_views > 1 and self._augmentation() == "none":
            raise ValueError(
                f"Expected feature_views=1 where images are not augmented ({images.name}: "
                f"augmentation {settings.images.augmentation}). Received: "
                f"{settings.model.feature_views}"
            )
        train = images.subset("train")
        self.subsets = None  # of a curriculum, for each training image
        if settings.batches.curriculum:
            found = read_curriculum(settings.batches.curriculum, train, allow_more=True)
            self.subsets = found.subset
            self._tell_stages()
        self.order = self._neighbour_order(train.labels)
        # too few classes or images for the batches show now
        self._balanced(train.labels, start_step=0)

    @property
    def stages(self):
        """Stages of the training: those of the curriculum, else one."""
        return 1 if self.subsets is None else int(self.subsets.max()) + 1

    def _tell_stages(self):
        steps = self.settings.training.steps // self.stages
        if steps == 0:
            raise ValueError(
                f"Expected at least {self.stages} steps, one for each stage of the curriculum "
                f"{self.settings.batches.curriculum}. Received: "
                f"steps={self.settings.training.steps}"
            )
        for stage in range(self.stages):
            end = (stage + 1) * steps if stage + 1 < self.stages else self.settings.training.steps
            self._log(
                f"Curriculum, stage {stage + 1}: steps {stage * steps} to {end}, "
                f"{(self.subsets <= stage).sum():,} images"
            )

    def num_classes(self, split):
        return len(np.unique(self.images.labels[self.images.split == split]))

    def evaluation(self, split):
        """Batches of what the trained model takes, with labels; None for a split without images."""
        if not (self.images.split == split).any():
            return None
        images = self.images.subset(split)
        if not self.settings.model.freeze_backbone:
            return self._plain_batches(images, cache="auto")
        pairs = (self.features(split), images.labels)
        return tf.data.Dataset.from_tensor_slices(pairs).batch(1024)

    def training(self, start_step):
        """Endless balanced batches from `start_step` on; with an `order`, an epoch of them."""
        settings = self.settings
        images = self.images.subset("train")
        if settings.model.freeze_backbone:
            features = self.training_features()
            source, options = (features, images.labels), {"views": True}
            if len(features) == 1:
                source, options = (features[0], images.labels), {}
        else:
            source = images
            options = {"image_size": settings.images.image_size, **self._view_options()}
        if self.order is not None:
            return neighbour_batches(source, self.order, **options)
        return self._balanced(source, start_step, **options)

    def training_features(self):
        """float32 (views, N, channels): features of the training images, view 0 the plain one."""
        views = range(self.settings.model.feature_views)
        return np.stack([self.features("train", view) for view in views])

    def head_batches(self, features, labels):
        """Endless balanced batches of some of the features, of fewer classes where these lack.

        Args:
            features: (N, channels), or (views, N, channels).
            labels: integers (N,).
        """
        classes = min(self.settings.batches.classes_per_batch, len(np.unique(labels)))
        return balanced_batches(
            (features, labels),
            views=features.ndim == 3,
            classes_per_batch=classes,
            images_per_class=self.settings.batches.images_per_class,
            seed=self.settings.training.seed,
        )

    def plain_training(self):
        """`(items, labels)`: all training images as the trained model takes them, in order."""
        images = self.images.subset("train")
        if self.settings.model.freeze_backbone:
            return self.features("train"), images.labels
        return self._plain_batches(images, cache="auto").map(lambda image, _: image), images.labels

    def features(self, split, view=0):
        """Pooled features of the plain images of a split (view 0) or of a random training view."""
        if (split, view) not in self._features:
            self._features[split, view] = self._pooled_features(self.images.subset(split), view)
        return self._features[split, view]

    def release_features(self):
        """Frees the memory of features that are not trained on; they stay on disk."""
        if not self.settings.model.freeze_backbone:
            self._features.clear()

    def _pooled_features(self, images, view):
        settings = self.settings
        size = settings.images.image_size
        # what is decoded otherwise, as JPEGs once were, is another picture
        files = {"jpeg": "accurate", "exif": images.apply_exif_orientation}
        files = files if images.images is None else {}
        if view == 0:
            plain = [size, shorter_side(settings, self.images)]
            shown = {"plain": plain, "jpeg": "accurate"} | files

            def batches():
                return self._plain_batches(images, cache=False).map(lambda image, label: image)
        else:
            shown = {
                "view": [
                    size, view, settings.training.seed, self._augmentation(),
                    settings.images.crop_scale, settings.images.distortion,
                ],
                **files,
            }  # fmt: skip

            def batches():
                return augmented_batches(
                    images,
                    size,
                    seed=(settings.training.seed, view),
                    batch_size=settings.evaluation.evaluation_batch_size,
                    **self._view_options(),
                )

        features = pooled_features(
            self._features_model,
            images,
            shown,
            batches,
            Path(settings.training.runs_folder) / "features",
            log=self._log,
            verbose=self._verbose,
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

    def raw_pixels(self):
        """The test images as float32 rows, each about its own mean; None where not asked for."""
        images = self.images.subset("test")
        wanted = self.settings.evaluation.raw_pixels
        if wanted is None:
            # of photos they say little, and take a minute
            wanted = images.images is not None and len(images) <= _MOST_IMAGES_FOR_PIXELS
        if not wanted:
            return None
        size = min(_PIXELS, self.settings.images.image_size)
        batches = evaluation_batches(images, size, resize_to=size, cache=False)
        pixels = [batch.numpy() for batch, _ in batches]
        pixels = np.concatenate(pixels).reshape(len(images), -1)
        # else the white of the paper makes all images look alike
        return pixels - pixels.mean(axis=1, keepdims=True)

    def _balanced(self, source, start_step, **options):
        settings = self.settings
        shared = {
            "classes_per_batch": settings.batches.classes_per_batch,
            "images_per_class": settings.batches.images_per_class,
            "seed": settings.training.seed,
            "start_step": start_step,
            **options,
        }
        if self.subsets is None:
            return balanced_batches(source, **shared)
        return curriculum_balanced_batches(
            source, self.subsets, steps_per_stage=settings.training.steps // self.stages, **shared
        )

    def _neighbour_order(self, labels):
        settings = self.settings
        if settings.batches.neighbour_classes == 1:
            return None
        return NeighbourIndices(
            labels,
            anchor_classes=settings.batches.classes_per_batch // settings.batches.neighbour_classes,
            classes_each=settings.batches.neighbour_classes,
            images_per_class=settings.batches.images_per_class,
            steps_per_epoch=settings.training.steps_per_epoch,
            seed=settings.training.seed,
        )

    def _plain_batches(self, images, cache):
        settings = self.settings
        return evaluation_batches(
            images,
            settings.images.image_size,
            resize_to=shorter_side(settings, self.images),
            batch_size=settings.evaluation.evaluation_batch_size,
            cache=cache,
        )

    def _augmentation(self):
        if self.settings.images.augmentation != "auto":
            return self.settings.images.augmentation
        if self.images.images is None:
            return "crop"
        return "none" if self.images.name == "glyphs" else "distort"

    def _view_options(self):
        augmentation = self._augmentation()
        return {
            "crop_scale": (self.settings.images.crop_scale, 1.0)
            if augmentation == "crop"
            else None,
            "flip": augmentation == "crop",
            "distort": self._distort() if augmentation == "distort" else None,
        }

    def _distort(self):
        strength = self.settings.images.distortion
        if strength == 1:
            return distort
        defaults = inspect.signature(distort).parameters
        return functools.partial(
            distort,
            **{name: strength * defaults[name].default for name in _STRENGTHENED},
        )


def shorter_side(settings, images):
    """Pixels of the shorter side of an image before its centre is cut out, in evaluation."""
    return settings.images.resize_to or default_resize_to(images, settings.images.image_size)
