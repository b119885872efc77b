"""Defaults that depend on what is trained: from scratch, a head on frozen features, fine-tuning.

What was measured for them is in docs/transfer.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_ms.models.backbone_names import backbone_kind
from keras_ms.models.backbone_sources import known_image_size

if TYPE_CHECKING:
    from keras_ms.run.settings.settings import Settings

# 16 x 5 is the official recipe for photos; for characters, more classes hold more hard negatives
_PHOTOS = {"images_per_class": 5, "image_size": 160}

DEFAULTS: dict[str, dict[str, Any]] = {
    # what the default run needs, about two minutes on two cores
    "scratch": {
        "image_size": 64,  # at which the dots and clutter of drawn glyphs stay apart
        "embedding_size": 128,
        "head_initializer": "orthogonal",
        "images_per_class": 4,
        "steps": 600,
        "learning_rate": 2e-3,
        "crop_scale": 0.16,  # the official recipe's lower bound
        "interpolate": False,  # the start knows nothing
    },
    # a head trains in seconds: start, rate and alpha are chosen by folds over the training classes
    "frozen": {
        **_PHOTOS,
        "steps": 600,
        "learning_rate": None,
        "head_initializer": None,
        "crop_scale": 0.16,
        "interpolate": True,
    },
    # the whole network: minutes to hours, so one setting and held-out classes
    "finetuned": {
        **_PHOTOS,
        "steps": 300,
        "learning_rate": 1e-4,
        "head_initializer": "whitened",  # on six sets of features better than "pca" before any step
        "crop_scale": 0.3,  # a fifth of a photo often misses what tells its class
        "interpolate": True,
    },
}
# of a frozen backbone where no folds choose
UNTUNED_HEAD = {"learning_rate": 5e-4, "head_initializer": "whitened"}

# with which the frozen features of docs/transfer.md were measured; what a network without a name
# gives is known once it is built
POOLING = "avg"
# of backbones without a name that do not say what they are made for
PRESET_SIZE = 224

# Of the head's rate. Networks with a name have all of it: docs/fine_tuning.md has what they gained
# on held-out classes. Others may be transformers, where it is a risk; a tenth is usual.
UNNAMED_BACKBONE_RATE = 0.1

# classes of a batch, or as many as there are
CLASSES_PER_BATCH = {"scratch": 32, "frozen": 16, "finetuned": 16}

# With a tenth of forty classes, four at a recall of 0.97, no two settings can be told apart.
VALIDATION_FRACTION = {"scratch": 0.1, "frozen": 0.2, "finetuned": 0.2}
LEAST_VALIDATION_CLASSES = 10


def situation(settings: Settings) -> str:
    """ "scratch", "frozen" or "finetuned", a key of DEFAULTS."""
    if settings.model.freeze_backbone:
        return "frozen"
    return "finetuned" if settings.model.is_pretrained else "scratch"


def missing_values(settings: Settings) -> dict[str, Any]:
    """Values, by flat name, of what was left open and can be known without the data."""
    kind, given = situation(settings), settings.values()
    chosen = {}

    def choose(name, value):
        if given[name] is None and value is not None:
            chosen[name] = value

    tune = given["tune"]
    if tune == "auto":
        is_open = given["validation_fraction"] is None and not refuses_folds(settings)
        tune = chosen["tune"] = "folds" if is_open else "off"
    if backbone_kind(settings.model.backbone) == "name":
        choose("pooling", POOLING)
    elif given["image_size"] is None:
        # what it was made for; of a preset that has still to be downloaded, what most are made for
        backbone = settings.model.backbone
        choose("image_size", known_image_size(backbone) or PRESET_SIZE)
    for name, value in DEFAULTS[kind].items():
        if name not in chosen:
            choose(name, value)
    if kind == "frozen" and tune == "off":
        for name, value in UNTUNED_HEAD.items():
            choose(name, value)
    # these say themselves how much less the backbone is trained than the head
    if kind == "finetuned" and given["layer_decay"] == 1.0 and not given["lora_rank"]:
        rate = given["learning_rate"] or chosen["learning_rate"]
        is_named = backbone_kind(settings.model.backbone) == "name"
        choose("backbone_learning_rate", rate if is_named else UNNAMED_BACKBONE_RATE * rate)
    if chosen.get("interpolate") and not can_interpolate(settings, tune):
        chosen["interpolate"] = False
    choose("steps_per_epoch", _steps_per_epoch(chosen.get("steps", given["steps"])))
    return chosen


def refuses_folds(settings: Settings) -> str:
    """Why no folds over the classes can choose, in words; empty where they can."""
    if not settings.model.freeze_backbone:
        return "folds need freeze_backbone: a whole network takes too long to train in each"
    if settings.data.validation_fraction:
        return "folds hold out every training class once, so they leave no validation_fraction"
    if settings.loss.name == "hierarchical_triplet" or settings.batches.neighbour_classes > 1:
        return "a class tree follows one training"
    if settings.hdml.mode != "off":
        return "hdml trains networks of its own beside the head"
    if settings.batches.curriculum:
        return "a curriculum's stages divide one training"
    return ""


def can_interpolate(settings: Settings, tune: str) -> bool:
    """Whether weights between start and trained ones mean something and can be chosen among."""
    moving = not settings.model.freeze_backbone and settings.model.frozen_batch_norm is False
    from_scratch = situation(settings) == "scratch" and settings.model.frozen_batch_norm is not True
    return not (
        moving or from_scratch or (settings.data.validation_fraction == 0 and tune == "off")
    )


def validation_fraction(settings: Settings, num_classes: int) -> float:
    """The share of the training classes that is held out.

    Args:
        settings: `Settings`, complete.
        num_classes: training classes, those to be held out among them.
    """
    if settings.data.validation_fraction is not None:
        return settings.data.validation_fraction
    if settings.training.tune == "folds":
        return 0.0
    share = VALIDATION_FRACTION[situation(settings)]
    if situation(settings) == "scratch":
        return share
    # a third at most: what is held out is not learned from
    return min(1 / 3, max(share, LEAST_VALIDATION_CLASSES / num_classes))


def classes_per_batch(settings: Settings, num_classes: int) -> int:
    """Classes in a batch: as set, else the default or as many as there are to train on."""
    if settings.batches.classes_per_batch is not None:
        return settings.batches.classes_per_batch
    most = min(CLASSES_PER_BATCH[situation(settings)], num_classes)

    def fits(count):
        # whole groups of neighbours, and equal parts for all devices
        batch = count * settings.batches.images_per_class
        return (
            count % settings.batches.neighbour_classes == 0
            and batch % settings.training.devices == 0
        )

    return next((count for count in range(most, 1, -1) if fits(count)), max(2, most))


def _steps_per_epoch(steps):
    """The largest divisor of all steps that is 100 or less: what stands between evaluations."""
    steps = max(1, steps)
    divisor = next(count for count in range(min(100, steps), 0, -1) if steps % count == 0)
    # of a number like 601 that would be 1: an evaluation after every step
    return divisor if divisor * 20 >= min(100, steps) else steps
