"""The embedder that the settings of a run describe."""

import keras

from keras_ms.models.embedding import build_embedder
from keras_ms.run.settings import Settings


def embedder_of(settings: Settings) -> keras.Model:
    """The embedder that the settings of a run describe, before training.

    Args:
        settings: `Settings`.

    Returns:
        keras.Model, from images to unit-norm embeddings.
    """
    return build_embedder(
        settings.model.backbone,
        embedding_size=settings.model.embedding_size,
        image_size=settings.images.image_size,
        weights=settings.model.weights or None,
        output_layer=settings.model.output_layer or None,
        pooling=settings.model.pooling,
        frozen_batch_norm=settings.model.frozen_batch_norm,
        freeze_backbone=settings.model.freeze_backbone,
        # what is computed from features is set once they are there
        head_initializer="official"
        if settings.model.head_initializer == "official"
        else "orthogonal",
        seed=settings.training.seed,
    )
