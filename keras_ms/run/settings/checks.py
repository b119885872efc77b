"""What several settings may be together. What one may be is declared where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_ms.run.settings.declaration import flag
from keras_ms.run.settings.defaults import DEFAULTS, can_interpolate, refuses_folds, situation
from keras_ms.run.settings.groups import SETTINGS

if TYPE_CHECKING:
    from keras_ms.run.settings.settings import Settings


def check_together(settings: Settings) -> None:
    """Raises ValueError for settings that contradict each other, or that would not be read.

    Args:
        settings: complete: what is None is left to the data or to `tune`.
    """
    _check_read(settings)
    _check_frozen_backbone(settings)
    _check_choice(settings)
    _check_fine_tuning(settings)
    _check_sizes(settings)
    _check_systems(settings)


def _check_read(settings):
    """A setting that would not be read is refused rather than dropped."""
    values, usual = settings.values(), DEFAULTS[situation(settings)]
    for one in SETTINGS.values():
        defaults = (one.default, usual.get(one.name), *one.declaration.former_defaults)
        for name, readers in one.declaration.read_with.items():
            if values[name] in readers or values[one.name] in defaults:
                continue
            reading = " or ".join(f"{name}={value!r}" for value in readers)
            raise ValueError(
                f"Invalid value for {one.name}. Expected it unset with {name}={values[name]}: it "
                f"is read with {reading}. Leave out {flag(one.name)}, or change {flag(name)}. "
                f"Received: {values[one.name]!r}"
            )


def _check_frozen_backbone(settings):
    model = settings.model
    if model.freeze_backbone and model.frozen_batch_norm is False:
        raise ValueError(
            "Invalid value for frozen_batch_norm. Expected unset or True with freeze_backbone. "
            "Received: False"
        )


def _check_choice(settings):
    """How the weights that count are chosen."""
    tune, reason = settings.training.tune, refuses_folds(settings)
    if tune == "folds" and reason:
        raise ValueError(f"Invalid value for tune. Expected off: {reason}. Received: {tune!r}")
    if settings.training.interpolate and not can_interpolate(settings, tune):
        raise ValueError(
            "interpolate=True measures weights between the start and the trained ones on held-out "
            "classes: it takes a frozen backbone, or pretrained weights with frozen_batch_norm, "
            "and a validation_fraction above 0. Leave --interpolate out, or give what is missing. "
            f"Received: weights={settings.model.weights!r}, frozen_batch_norm="
            f"{settings.model.frozen_batch_norm}, validation_fraction="
            f"{settings.data.validation_fraction}"
        )


def _check_fine_tuning(settings):
    """How the weights are changed, and which of them."""
    training = settings.training
    if training.coupled_l2 and training.weight_decay:
        raise _refusal("weight_decay", f"0 with coupled_l2={training.coupled_l2}", settings)
    if training.lora_rank and training.freeze_blocks:
        expected = f"0 with lora_rank={training.lora_rank}, which holds every block"
        raise _refusal("freeze_blocks", expected, settings)
    if training.warmup_steps >= training.steps:
        raise _refusal("warmup_steps", f"less than steps={training.steps}", settings)
    if 1 / (1 - training.ema) > training.steps:
        # the average would be of the start
        most = f"at most {1 - 1 / training.steps:.4g}, 1 - 1 / steps"
        raise _refusal("ema", f"{most}: the average reaches 1 / (1 - ema) steps back", settings)
    if training.devices > 1:
        # Keras clips each device's part of the gradient, and averages no copies
        for name in ("clip_norm", "ema"):
            if settings.values()[name]:
                raise _refusal(name, f"0 with devices={training.devices}", settings)


def _check_sizes(settings):
    """Numbers that divide each other or fit into each other."""
    images, batches, training = settings.images, settings.batches, settings.training
    if 0 < images.resize_to < images.image_size:
        raise _refusal("resize_to", f"0 or at least image_size={images.image_size}", settings)
    if training.steps % training.steps_per_epoch:
        multiple = f"a multiple of steps_per_epoch={training.steps_per_epoch}"
        raise _refusal("steps", multiple, settings)
    training.decay_boundaries()
    classes = batches.classes_per_batch
    if classes is None:
        return
    if classes % batches.neighbour_classes:
        divisor = f"a divisor of classes_per_batch={classes}"
        raise _refusal("neighbour_classes", divisor, settings)
    # Keras cannot start on a batch of uneven parts
    batch = classes * batches.images_per_class
    if batch % training.devices:
        divisor = f"a divisor of the batch, classes_per_batch * images_per_class = {batch}"
        raise _refusal("devices", divisor, settings)


def _check_systems(settings):
    """The class tree, HDML and the curriculum: each changes what a batch or a step is."""
    loss, neighbours = settings.loss.name, settings.batches.neighbour_classes
    is_hierarchical, has_hdml = loss == "hierarchical_triplet", settings.hdml.mode != "off"
    tree = "loss=hierarchical_triplet" if is_hierarchical else f"neighbour_classes={neighbours}"
    systems = {
        tree: is_hierarchical or neighbours > 1,
        f"hdml={settings.hdml.mode}": has_hdml,
        "a curriculum": bool(settings.batches.curriculum),
    }
    together = [name for name, is_used in systems.items() if is_used]
    if len(together) > 1:
        raise ValueError(
            "Expected one of loss=hierarchical_triplet or neighbour_classes, hdml and curriculum "
            f"at a time. Received: {' and '.join(together)}"
        )
    if has_hdml and settings.training.devices != 1:
        raise _refusal("devices", "1 with hdml", settings)
    if has_hdml and loss == "n_pair" and settings.batches.images_per_class != 2:
        # its pairs are the first two images of each class: the others would not be learned from
        raise _refusal("images_per_class", "2 with hdml and n_pair", settings)


def _refusal(name, expected, settings):
    received = settings.values()[name]
    return ValueError(f"Invalid value for {name}. Expected {expected}. Received: {received!r}")
