"""The embedder that the settings of a run describe."""

from typing import Any

import keras

from keras_ms.models.adapters import adapted_backbone
from keras_ms.models.backbone_names import backbone_kind
from keras_ms.models.backbone_sources import check_backbone_source
from keras_ms.models.embedding import build_embedder
from keras_ms.models.frozen_layers import FrozenStatisticsBatchNormalization
from keras_ms.models.pooling import checked_pooling
from keras_ms.run.settings import Settings


def check_backbone(settings: Settings) -> None:
    """Refuses a preset or a file that cannot be the backbone, before data are read.

    Raises:
        ValueError, ImportError, OSError: as `keras_ms.build_embedder`.
    """
    model = settings.model
    if backbone_kind(model.backbone) == "name":
        return
    check_backbone_source(model.backbone)
    side = settings.images.image_size
    adapted = adapted_backbone(
        model.backbone,
        image_size=(side, side),
        weights=model.weights or None,
        output_layer=model.output_layer or None,
        **_of_own_network(settings),
        frozen_batch_norm=model.frozen_batch_norm,
        freeze=model.freeze_backbone,
    )
    rank, prefix = len(adapted.model.output_shape), adapted.num_prefix_tokens
    checked_pooling(model.pooling, rank, num_prefix_tokens=prefix)
    moving = [layer for layer in adapted.model._flatten_layers() if _gathers_statistics(layer)]
    if moving and settings.training.interpolate and not model.freeze_backbone:
        raise ValueError(
            f"{model.backbone} has batch normalisation inside of other layers ({len(moving)}, the "
            f"first is {moving[0].name!r}): its statistics cannot be frozen, and between two "
            "sets of weights they mean nothing. Give --no-interpolate, or --freeze-backbone"
        )


def embedder_of(settings: Settings, num_images: int) -> keras.Model:
    """The embedder that the settings of a run describe, before training.

    Args:
        settings: `Settings`.
        num_images: those that it is trained on. A head on a frozen backbone with fewer of them than
            it has features keeps every dimension of these, unless its size is set.

    Returns:
        keras.Model, from images to unit-norm embeddings.
    """
    size = settings.model.embedding_size
    embedder = _built(settings, size)
    channels, dimensions = embedder.get_layer("embedding").kernel.shape
    # of few images, what could be left out of the features cannot be seen (docs/transfer.md)
    is_open = size is None and settings.model.freeze_backbone and dimensions < channels
    return _built(settings, "features") if is_open and num_images < channels else embedder


def _built(settings, size):
    return build_embedder(
        settings.model.backbone,
        embedding_size=size,
        image_size=settings.images.image_size,
        weights=settings.model.weights or None,
        output_layer=settings.model.output_layer or None,
        pooling=settings.model.pooling,
        **_of_own_network(settings),
        frozen_batch_norm=settings.model.frozen_batch_norm,
        freeze_backbone=settings.model.freeze_backbone,
        # what is computed from features is set once they are there
        head_initializer="official"
        if settings.model.head_initializer == "official"
        else "orthogonal",
        seed=settings.training.seed,
    )


def _gathers_statistics(layer):
    return isinstance(layer, keras.layers.BatchNormalization) and not isinstance(
        layer, FrozenStatisticsBatchNormalization
    )


def _of_own_network(settings: Settings) -> dict[str, Any]:
    """What is asked for of networks without a name."""
    normalisation = settings.model.normalisation
    return {
        "normalisation": None if normalisation == "none" else normalisation,
        "num_prefix_tokens": settings.model.num_prefix_tokens,
    }
