"""What a run trains on and is evaluated on: images, or pooled features with a frozen backbone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_ms.curriculum.batches import curriculum_balanced_batches
from keras_ms.curriculum.table import read_curriculum
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.image_list import ImageList
from keras_ms.htl.batches import NeighbourIndices, neighbour_batches
from keras_ms.pairs.replicas import data_shard
from keras_ms.run.features import RunFeatures
from keras_ms.run.settings import Settings
from keras_ms.run.settings.defaults import classes_per_batch, validation_fraction
from keras_ms.run.views import augmentation, plain_batches, view_options


class RunData(NamedTuple):
    """Batches for training and evaluation, as the settings of a run say; `run_data` makes them.

    Attributes:
        settings: `Settings`.
        images: `ImageList` with all splits.
        features: of the images, computed when they are asked for.
        subsets: of a curriculum, for each training image, int (N,); None without one.
        neighbour_indices: of batches of near classes; None where classes are drawn at random.
    """

    settings: Settings
    images: ImageList
    features: RunFeatures
    subsets: np.ndarray | None
    neighbour_indices: NeighbourIndices | None

    @property
    def stages(self) -> int:
        """Stages of the training: those of the curriculum, else one."""
        return _num_stages(self.subsets)

    def evaluation(self, split: str) -> tf.data.Dataset | None:
        """Batches of what the trained model takes, with labels; None for a split without images."""
        if not (self.images.split == split).any():
            return None
        images, settings = self.images.subset(split), self.settings
        if not settings.model.freeze_backbone:
            return plain_batches(settings, images)
        pairs = (self.features.of_split(split), images.labels)
        return tf.data.Dataset.from_tensor_slices(pairs).batch(1024)

    def training(self, start_step: int) -> tf.data.Dataset:
        """Endless balanced batches from `start_step` on; an epoch, with `neighbour_indices`."""
        settings, images = self.settings, self.images.subset("train")
        if settings.model.freeze_backbone:
            features = self.features.training_views()
            is_one = len(features) == 1
            source = (features[0] if is_one else features, images.labels)
            options: dict[str, Any] = {} if is_one else {"views": True}
        else:
            source = images
            options = {"image_size": settings.images.image_size, **view_options(settings, images)}
        options["shard"] = data_shard()
        if self.neighbour_indices is not None:
            return neighbour_batches(source, self.neighbour_indices, **options)
        return _balanced(settings, source, subsets=self.subsets, start_step=start_step, **options)

    def head_batches(self, features: np.ndarray, labels: np.ndarray) -> tf.data.Dataset:
        """Endless balanced batches of some of the features, of fewer classes where these lack.

        Args:
            features: (N, channels), or (views, N, channels).
            labels: integers (N,).
        """
        settings = self.settings
        classes = min(settings.batches.classes_per_batch, len(np.unique(labels)))
        return balanced_batches(
            (features, labels),
            views=features.ndim == 3,
            classes_per_batch=classes,
            images_per_class=settings.batches.images_per_class,
            seed=settings.training.seed,
        )

    def plain_training(self) -> tuple[Any, np.ndarray]:
        """`(items, labels)`: all training images as the trained model takes them, in order."""
        settings, images = self.settings, self.images.subset("train")
        if settings.model.freeze_backbone:
            return self.features.of_split("train"), images.labels
        return plain_batches(settings, images).map(lambda image, _: image), images.labels


def with_image_defaults(settings: Settings, images: ImageList) -> Settings:
    """The settings with what depends on the number of classes; open is then what folds choose.

    Args:
        settings: `Settings`.
        images: `ImageList` with all splits.
    """
    train = np.unique(images.labels[images.split == "train"])
    # the validation classes are taken from them
    not_test = np.unique(images.labels[images.split != "test"])
    return settings.with_values(
        classes_per_batch=classes_per_batch(settings, len(train)),
        validation_fraction=validation_fraction(settings, len(not_test)),
    )


def run_data(
    settings: Settings,
    images: ImageList,
    *,
    features_model: keras.Model,
    log: Callable[[str], Any],
    verbose: int | None = None,
) -> RunData:
    """The data of a run, checked: what cannot be trained on shows now.

    Args:
        settings: `Settings`, with the classes of a batch.
        images: `ImageList` with all splits.
        features_model: images to pooled features, used with a frozen backbone.
        log: function that takes a line of text for the user.
        verbose: 1 shows a bar, 2 tells a line every half minute, 0 nothing. Defaults to None: a bar
            on a terminal, else lines.

    Raises:
        ValueError: views of features that would all be the same, a curriculum of other images or
            of more stages than steps, too few classes or images for the batches.
    """
    if settings.model.feature_views > 1 and augmentation(settings, images) == "none":
        raise ValueError(
            f"Expected feature_views=1 where images are not augmented ({images.name}: "
            f"augmentation {settings.images.augmentation}). Received: "
            f"{settings.model.feature_views}"
        )
    train = images.subset("train")
    subsets = None
    if settings.batches.curriculum:
        subsets = read_curriculum(settings.batches.curriculum, train, allow_more=True).subset
        _tell_stages(settings, subsets, log)
    neighbour_indices = _neighbour_indices(settings, train.labels)
    _balanced(settings, train.labels, subsets=subsets, start_step=0, shard=data_shard())
    features = RunFeatures(
        settings, images, features_model=features_model, log=log, verbose=verbose
    )
    return RunData(settings, images, features, subsets, neighbour_indices)


def _num_stages(subsets):
    return 1 if subsets is None else int(subsets.max()) + 1


def _tell_stages(settings, subsets, log):
    stages = _num_stages(subsets)
    steps = settings.training.steps // stages
    if steps == 0:
        raise ValueError(
            f"Expected at least {stages} steps, one for each stage of the curriculum "
            f"{settings.batches.curriculum}. Received: steps={settings.training.steps}"
        )
    for stage in range(stages):
        end = (stage + 1) * steps if stage + 1 < stages else settings.training.steps
        log(
            f"Curriculum, stage {stage + 1}: steps {stage * steps} to {end}, "
            f"{(subsets <= stage).sum():,} images"
        )


def _balanced(settings, source, *, subsets, start_step, **options):
    shared = {
        "classes_per_batch": settings.batches.classes_per_batch,
        "images_per_class": settings.batches.images_per_class,
        "seed": settings.training.seed,
        "start_step": start_step,
        **options,
    }
    if subsets is None:
        return balanced_batches(source, **shared)
    return curriculum_balanced_batches(
        source, subsets, steps_per_stage=settings.training.steps // _num_stages(subsets), **shared
    )


def _neighbour_indices(settings, labels):
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
