"""How a run shows its images: cut from the middle in evaluation, varied at random in training."""

import functools
from typing import Any

import tensorflow as tf

from keras_ms.data.distortions import distort
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import default_resize_to, evaluation_batches
from keras_ms.data.sets.catalogue import chosen_data_set
from keras_ms.run.settings import Settings
from keras_ms.run.settings.declaration import flag
from keras_ms.run.settings.groups import SETTINGS

# of `distort`, what the setting `distortion` multiplies, at a strength of 1
_DISTORTION = {"rotation": 10.0, "scale": 0.15, "shear": 0.15, "translation": 0.08}


def shorter_side(settings: Settings, images: ImageList | None = None) -> int:
    """Pixels of the shorter side of an image before its centre is cut out, in evaluation.

    Args:
        settings: `Settings`.
        images: an `ImageList` of the run. Defaults to None: what the settings say of them.
    """
    given, size = settings.images.resize_to, settings.images.image_size
    if given or images is not None:
        return given or default_resize_to(images, size)
    data_set = chosen_data_set(settings.data.dataset, settings.data.data_dir or None)
    # what is made for a size is seen whole
    return size if "image_size" in data_set.takes else default_resize_to(None, size)


def plain_batches(
    settings: Settings, images: ImageList, *, cache: bool | str = "auto"
) -> tf.data.Dataset:
    """Batches (images, labels) of the images in their order, as they are evaluated.

    Args:
        settings: `Settings`.
        images: an `ImageList`.
        cache: as in `keras_ms.data.images.evaluation_batches`.
    """
    return evaluation_batches(
        images,
        settings.images.image_size,
        resize_to=shorter_side(settings, images),
        batch_size=settings.evaluation.evaluation_batch_size,
        cache=cache,
    )


def augmentation(settings: Settings, images: ImageList) -> str:
    """How training varies the images: "none", "crop" or "distort"."""
    if settings.images.augmentation != "auto":
        return settings.images.augmentation
    # pictures in memory are drawn characters
    return "crop" if images.images is None else "distort"


def check_augmentation(settings: Settings, images: ImageList) -> None:
    """Raises ValueError for a setting of distortions where these images are not distorted.

    With `augmentation` "auto" only the images say whether they are.
    """
    chosen = augmentation(settings, images)
    if chosen == "distort":
        return
    values = settings.values()
    for name in ("distortion", "elastic", "strokes"):
        if values[name] != SETTINGS[name].default:
            raise ValueError(
                f"{name}={values[name]} is of distortions, and {images.name} is not distorted "
                f"(augmentation {settings.images.augmentation}: {chosen}). Give --augmentation "
                f"distort, which neither crops nor mirrors, or leave out {flag(name)}"
            )


def view_options(settings: Settings, images: ImageList) -> dict[str, Any]:
    """The augmentation as options of `balanced_batches` and `augmented_batches`."""
    chosen = augmentation(settings, images)
    return {
        "crop_scale": (settings.images.crop_scale, 1.0) if chosen == "crop" else None,
        "flip": chosen == "crop",
        "distort": _distortion(settings) if chosen == "distort" else None,
    }


def _distortion(settings):
    images = settings.images
    options = {name: images.distortion * value for name, value in _DISTORTION.items()}
    return functools.partial(distort, **options, elastic=images.elastic, strokes=images.strokes)
