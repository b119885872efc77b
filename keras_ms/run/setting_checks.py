"""What the settings of a run may be, and what the text in some of them means.

The functions take a `keras_ms.run.settings.Settings` and know no default but its own.
"""

import ast
import dataclasses
import math
import typing

from keras_ms.run.setting_defaults import DEFAULTS, can_interpolate, refuses_folds, situation

MULTI_SIMILARITY = ("alpha", "beta", "threshold", "epsilon")
# read only with one loss, whose margins come from the tree
_HIERARCHICAL_TRIPLET = ("tree_levels", "tree_linkage", "tree_margins")


def check_types(settings):
    """Raises ValueError for a value of the wrong type or not among its choices."""
    types = typing.get_type_hints(type(settings))
    for option in dataclasses.fields(settings):
        value = getattr(settings, option.name)
        _check_type(option.name, value, types[option.name])
        choices = option.metadata["choices"]
        if choices and value is not None and value not in choices:
            raise ValueError(
                f"Invalid value for {option.name}. Expected one of {', '.join(choices)}. "
                f"Received: {value!r}"
            )


def check_settings(settings):
    """Raises ValueError for a value that is out of range or not read.

    Args:
        settings: `Settings`, complete: what is None is left to the data or to `tune`.
    """
    for name in (
        "image_size",
        "embedding_size",
        "feature_views",
        "steps",
        "steps_per_epoch",
        "evaluation_batch_size",
        "devices",
        "class_depth",
    ):
        _check(name, getattr(settings, name), lambda v: v >= 1, "at least 1")
    for name in ("classes_per_batch", "images_per_class"):
        _check(name, getattr(settings, name), lambda v: v >= 2, "at least 2, to have pairs")
    for name in ("learning_rate", "alpha", "beta"):
        _check(name, getattr(settings, name), lambda v: v > 0, "above 0")
    for name in (
        "alpha",
        "beta",
        "threshold",
        "epsilon",
        "learning_rate",
        "coupled_l2",
        "backbone_learning_rate",
    ):
        _check(name, getattr(settings, name), math.isfinite, "a finite number")
    for name in ("coupled_l2", "epsilon", "resize_to", "seed", "distortion"):
        _check(name, getattr(settings, name), lambda v: v >= 0, "0 or above")
    _check(
        "backbone_learning_rate", settings.backbone_learning_rate, lambda v: v >= 0, "0 or above"
    )
    for name in ("test_fraction", "crop_scale"):
        _check(name, getattr(settings, name), lambda v: 0 < v <= 1, "above 0 and at most 1")
    _check(
        "validation_fraction",
        settings.validation_fraction,
        lambda v: 0 <= v < 1,
        "at least 0 and below 1",
    )
    _check(
        "resize_to",
        settings.resize_to,
        lambda v: v == 0 or v >= settings.image_size,
        f"0 or at least image_size={settings.image_size}",
    )
    # a setting that would not be read is refused rather than dropped
    if settings.freeze_backbone:
        if settings.backbone_learning_rate is not None:
            raise ValueError(
                "freeze_backbone trains the head alone, and backbone_learning_rate is for a "
                "backbone that is trained. Leave out --freeze-backbone to fine-tune the whole "
                "network, or --backbone-learning-rate to train the head. Received: "
                "backbone_learning_rate="
                f"{settings.backbone_learning_rate}"
            )
        _check(
            "frozen_batch_norm",
            settings.frozen_batch_norm,
            lambda v: v is not False,
            "unset or true with freeze_backbone",
        )
    else:
        _check(
            "feature_views", settings.feature_views, lambda v: v == 1, "1 without freeze_backbone"
        )
    if settings.test_classes:
        default = _default(settings, "test_fraction")
        _check(
            "test_fraction",
            settings.test_fraction,
            lambda v: v == default,
            "unset with test_classes",
        )
    if settings.augmentation in ("distort", "none"):
        # 0.16 was the only default once, and stands in files of settings
        defaults = {DEFAULTS[situation(settings)]["crop_scale"], 0.16}
        _check(
            "crop_scale",
            settings.crop_scale,
            lambda v: v in defaults,
            f"unset with augmentation={settings.augmentation}",
        )
    if settings.augmentation in ("crop", "none"):
        _check(
            "distortion",
            settings.distortion,
            lambda v: v == _default(settings, "distortion"),
            f"unset with augmentation={settings.augmentation}",
        )
    # beyond, characters are turned upside down or leave their picture
    _check("distortion", settings.distortion, lambda v: v <= 5, "at most 5")
    _check(
        "steps",
        settings.steps,
        lambda v: v % settings.steps_per_epoch == 0,
        f"a multiple of steps_per_epoch={settings.steps_per_epoch}",
    )
    # Keras cannot start on a batch of uneven parts
    if settings.classes_per_batch is not None:
        batch = settings.classes_per_batch * settings.images_per_class
        _check(
            "devices",
            settings.devices,
            lambda v: batch % v == 0,
            f"a divisor of the batch, classes_per_batch * images_per_class = {batch}",
        )
    for name in MULTI_SIMILARITY:
        default = _default(settings, name)
        if settings.loss != "multi_similarity":
            _check(
                name,
                getattr(settings, name),
                lambda v, default=default: v == default,
                f"unset with loss={settings.loss}, whose settings go into loss_settings",
            )
        elif name in _given_loss_settings(settings):
            _check(
                name,
                getattr(settings, name),
                lambda v, default=default: v == default,
                f"once: there is {name} in loss_settings too",
            )
    if settings.decay_steps:
        _check(
            "decay_steps",
            settings.decay_steps,
            lambda _: settings.schedule == "step",
            f"empty with schedule={settings.schedule}",
        )
    _check_choice(settings)
    _check_systems(settings)
    parsed_decay_steps(settings, settings.steps)
    parsed_ks(settings)
    parsed_exports(settings)
    parsed_loss_options(settings)
    parsed_hdml_options(settings)


def _check_choice(settings):
    """How the weights that count are chosen."""
    if settings.tune == "folds":
        reason = refuses_folds(settings)
        _check("tune", settings.tune, lambda _: not reason, f"off: {reason}")
    if settings.interpolate and not can_interpolate(settings, settings.tune):
        raise ValueError(
            "interpolate=True measures weights between the start and the trained ones on held-out "
            "classes: it takes a frozen backbone, or pretrained weights with frozen_batch_norm, "
            "and a validation_fraction above 0. Leave --interpolate out, or give what is missing. "
            f"Received: weights={settings.weights!r}, frozen_batch_norm="
            f"{settings.frozen_batch_norm}, validation_fraction={settings.validation_fraction}"
        )


def _check_systems(settings):
    """The settings of what stands around a loss: class tree, HDML, curriculum."""
    for name in ("tree_levels", "neighbour_classes"):
        _check(name, getattr(settings, name), lambda v: v >= 1, "at least 1")
    is_hierarchical = settings.loss == "hierarchical_triplet"
    if not is_hierarchical:
        for name in _HIERARCHICAL_TRIPLET:
            default = _default(settings, name)
            _check(
                name,
                getattr(settings, name),
                lambda v, default=default: v == default,
                f"unset with loss={settings.loss}: it belongs to hierarchical_triplet",
            )
    classes = settings.classes_per_batch
    if classes is not None:
        _check(
            "neighbour_classes",
            settings.neighbour_classes,
            lambda v: classes % v == 0,
            f"a divisor of classes_per_batch={classes}",
        )
    has_hdml = settings.hdml != "off"
    if not has_hdml:
        _check("hdml_settings", settings.hdml_settings, lambda v: not v, "empty with hdml=off")
    # each changes what a batch or a step is
    neighbours = settings.neighbour_classes
    tree = "loss=hierarchical_triplet" if is_hierarchical else f"neighbour_classes={neighbours}"
    together = [
        name
        for name, used in (
            (tree, is_hierarchical or neighbours > 1),
            (f"hdml={settings.hdml}", has_hdml),
            ("a curriculum", bool(settings.curriculum)),
        )
        if used
    ]
    if len(together) > 1:
        raise ValueError(
            "Expected one of loss=hierarchical_triplet or neighbour_classes, hdml and curriculum "
            "at a time. "
            f"Received: {' and '.join(together)}"
        )
    if has_hdml:
        _check("devices", settings.devices, lambda v: v == 1, "1 with hdml")
    if has_hdml and settings.loss == "n_pair":
        # its pairs are the first two images of each class: the others would not be learned from
        _check(
            "images_per_class",
            settings.images_per_class,
            lambda v: v == 2,
            "2 with hdml and n_pair",
        )


def parsed_ks(settings):
    """The K of Recall@K as a tuple of integers, in ascending order; 1 is always among them."""
    try:
        ks = {int(k) for k in settings.ks.split(",")}
    except ValueError:
        ks = {0}
    _check("ks", settings.ks, lambda _: min(ks) >= 1, "whole numbers above 0, such as 1,2,4,8")
    return tuple(sorted(ks | {1}))


def parsed_decay_steps(settings, steps):
    """The last step of each learning rate but the last, a tuple, for the schedule "step".

    Args:
        settings: `Settings`.
        steps: length of the schedule, that of a stage with a curriculum.
    """
    if not settings.decay_steps:
        return int(0.4 * steps), int(0.8 * steps)
    try:
        boundaries = tuple(int(step) for step in settings.decay_steps.split(","))
    except ValueError:
        boundaries = (0,)
    end = f"steps={steps}" if steps == settings.steps else f"{steps}, the steps of a stage"
    _check(
        "decay_steps",
        settings.decay_steps,
        lambda _: list(boundaries) == sorted({0, steps, *boundaries})[1:-1],
        f"ascending whole numbers between 0 and {end}, such as 1200,2400",
    )
    return boundaries


def parsed_exports(settings):
    """The formats to export, a tuple of "saved_model" and "onnx"."""
    formats = tuple(part.strip() for part in settings.export.split(",") if part.strip())
    _check(
        "export",
        settings.export,
        lambda _: set(formats) <= {"saved_model", "onnx"},
        "saved_model, onnx, both with a comma, or nothing",
    )
    return formats


def parsed_loss_options(settings):
    """The settings of the loss, a dict: numbers, True, False and None as such, else text."""
    given = _given_loss_settings(settings)
    if settings.loss != "multi_similarity":
        return given
    return {name: getattr(settings, name) for name in MULTI_SIMILARITY} | given


def parsed_hdml_options(settings):
    """The settings of HDML, a dict of numbers."""
    options = _named_values("hdml_settings", settings.hdml_settings)
    for name, value in options.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        _check(
            f"hdml_settings {name}",
            value,
            lambda v, ok=is_number: ok and math.isfinite(v),
            "a finite number",
        )
        if name.endswith("_learning_rate"):
            _check(f"hdml_settings {name}", value, lambda v: v > 0, "above 0")
            options[name] = float(value)
    return options


def _given_loss_settings(settings):
    return _named_values("loss_settings", settings.loss_settings)


def _named_values(setting, text):
    """name=value, name=value as a dict."""
    values = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        _check(
            setting,
            text,
            lambda _: name and equals and value,
            "name=value with commas between, such as margin=0.2,mining=hard",
        )
        _check(
            setting,
            text,
            lambda _: name not in values,
            f"each setting once, and {name} is there twice",
        )
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    return values


def _default(settings, name):
    return type(settings).__dataclass_fields__[name].default


def _check_type(name, value, expected):
    allowed = typing.get_args(expected) or (expected,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return
    if isinstance(value, bool) and bool not in allowed or not isinstance(value, allowed):
        names = " or ".join(kind.__name__ for kind in allowed)
        raise ValueError(f"Invalid type for {name}. Expected {names}. Received: {value!r}")
    if isinstance(value, str) and "\0" in value:
        # no file has such a name
        raise ValueError(f"Invalid value for {name}. Expected no zero byte. Received: {value!r}")


def _check(name, value, holds, expected):
    # what is left open has no value yet
    if value is not None and not holds(value):
        raise ValueError(f"Invalid value for {name}. Expected {expected}. Received: {value!r}")
