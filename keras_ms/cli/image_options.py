"""Options of the command line that say which images are read, and how."""

import dataclasses

from keras_ms.cli.setting_options import add_setting
from keras_ms.run.settings import Settings

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


def add_image_options(parser, explanations):
    """Adds an option for each of IMAGE_SETTINGS.

    Args:
        parser: of argparse.
        explanations: dict, by setting, of what differs from training; others are explained as
            there.
    """
    for name in IMAGE_SETTINGS:
        explanation = Settings.__dataclass_fields__[name].metadata["explanation"]
        add_setting(parser, name, explanations.get(name, explanation))


def given_settings(options):
    """{setting: value} of the image options that were given."""
    return {name: options[name] for name in IMAGE_SETTINGS if options[name] is not None}


def config_settings(options):
    """`Settings` of --config, or the defaults."""
    return Settings.read(options["config"]) if options["config"] else Settings()


def image_settings(options, given):
    """`Settings` of --config, or the defaults, with what is given; nothing is trained with them."""
    settings = config_settings(options)
    tune = "off" if given.get("validation_fraction") else settings.tune
    return dataclasses.replace(settings, **given, tune=tune, interpolate=False)


def with_image_size(given, options, model_size, preprocessing=None):
    """The given settings with the size of the images that a model takes.

    Args:
        given: of `given_settings`.
        options: dict with `model`, its path, and `config`.
        model_size: side in pixels, or None for a model that takes any.
        preprocessing: `Preprocessing` that the model's file records, or None.

    Returns:
        dict: `given`, with the size of the model where it says none; a model of any size leaves it
        to --config, then to what its file records.

    Raises:
        ValueError: neither says it.
    """
    if model_size:
        return {"image_size": model_size} | given
    if "image_size" in given or options["config"]:
        return given
    recorded = preprocessing and preprocessing.image_size
    if not isinstance(recorded, int):
        raise ValueError(
            f"{options['model']} takes images of any size: give --image-size, the side in pixels "
            "that it was trained with (or --config, the settings.json of its run)"
        )
    return {"image_size": recorded} | given
