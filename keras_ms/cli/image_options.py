"""Options of the command line that say which images are read, and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from keras_ms.cli.setting_options import setting_options
from keras_ms.run.settings import Settings
from keras_ms.run.settings.groups import GROUPS, SETTINGS, by_group
from keras_ms.run.start_folder import with_places_from_start

if TYPE_CHECKING:
    from keras_ms.data.image_list import ImageList
    from keras_ms.export import Preprocessing

# the others belong to a training
IMAGE_SETTINGS = (
    "dataset",
    "data_dir",
    "check_counts",
    "test_fraction",
    "test_classes",
    "class_depth",
    "validation_fraction",
    "framed_drawings",
    "skip_unreadable",
    "skip_small_classes",
    "apply_exif_orientation",
    "image_size",
    "resize_to",
    "seed",
)


class ImageOptions(Protocol):
    """What the functions here read of a command's options.

    Attributes:
        model: path of a model, or of an .npz file.
        config: settings.json of a run, or empty.
        images: the settings of images that are given, by name.
    """

    @property
    def model(self) -> str: ...

    @property
    def config(self) -> str: ...

    @property
    def images(self) -> dict[str, Any]: ...


def image_options(explanations: Mapping[str, str] | None = None) -> Any:
    """A type for `tyro.cli`: a dict of those of IMAGE_SETTINGS that are given.

    Args:
        explanations: of what differs from training, by setting, with its default. Defaults to None:
            all are explained as there.
    """
    as_in_training = {name: SETTINGS[name].declaration.explanation for name in IMAGE_SETTINGS}
    return setting_options(
        IMAGE_SETTINGS,
        explanations=as_in_training | dict(explanations or {}),
        description="Which images there are, and what the network sees of them.",
    )


def check_before_reading(options: ImageOptions) -> None:
    """Refuses what would fail after minutes of work.

    Raises:
        ValueError: a setting of images that is out of its bounds.
    """
    for group, given in by_group(options.images).items():
        GROUPS[group](**given)


def config_settings(options: ImageOptions) -> Settings:
    """`Settings` of --config, or the defaults."""
    if not options.config:
        return Settings()
    # of a run it lies in the run's folder
    return with_places_from_start(Settings.read(options.config), Path(options.config).parent)


def image_settings(options: ImageOptions, given: Mapping[str, Any]) -> Settings:
    """`Settings` of --config, or the defaults, with what is given; nothing is trained with them."""
    settings = config_settings(options)
    tune = "off" if given.get("validation_fraction") else settings.training.tune
    return settings.with_values(**given, tune=tune, interpolate=False)


def load_option_images(options: ImageOptions, settings: Settings, split: str) -> ImageList:
    """The images that a command is about; of a run that --config names they may have moved.

    Raises:
        ValueError, FileNotFoundError: no such images.
    """
    from keras_ms.run.images import load_images_of_a_run, load_run_images

    is_of_run = options.config and settings.data.data_dir == config_settings(options).data.data_dir
    load = load_images_of_a_run if is_of_run else load_run_images
    return load(settings, needed=(split,))


def with_image_size(
    given: Mapping[str, Any],
    options: ImageOptions,
    model_size: int | None,
    preprocessing: Preprocessing | None = None,
) -> dict[str, Any]:
    """The given settings with the size of the images that a model takes.

    Args:
        given: settings by flat name.
        options: of the command.
        model_size: side in pixels, or None for a model that takes any.
        preprocessing: `Preprocessing` that the model's file records, or None.

    Returns:
        dict: `given`, with the size of the model where it says none; a model of any size leaves it
        to --config, then to what its file records.

    Raises:
        ValueError: neither says it.
    """
    if model_size:
        return {"image_size": model_size, **given}
    if "image_size" in given or options.config:
        return dict(given)
    recorded = preprocessing and preprocessing.image_size
    if not isinstance(recorded, int):
        raise ValueError(
            f"{options.model} takes images of any size: give --image-size, the side in pixels "
            "that it was trained with (or --config, the settings.json of its run)"
        )
    return {"image_size": recorded, **given}
