"""Recall@K of a run's images, as its files and tables have it: by K as text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.evaluation.embed import batches_without_labels, embed_batches
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.run.data import RunData
from keras_ms.terminal.progress import shown_progress

Recall = dict[str, float]


def as_texts(recall: Mapping[int, float]) -> Recall:
    """Recall@K by K as a number, with K as text."""
    return {str(k): float(value) for k, value in recall.items()}


def embeddings_recall(images: ImageList, embeddings: np.ndarray, *, ks: Sequence[int]) -> Recall:
    """Recall@K of embeddings of the images, a row for each."""
    arguments: dict[str, Any] = images.retrieval_arguments(embeddings)
    return as_texts(recall_at_k(**arguments, ks=ks))


def split_embeddings(
    model: keras.Model, data: RunData, split: str, *, log: Callable[[str], Any]
) -> np.ndarray:
    """Embeddings of the images of a split by the weights of now, finite or not.

    Args:
        model: what is trained.
        data: `RunData`.
        split: of the images.
        log: function that takes a line of text for the user.

    Returns:
        (N, dimension).
    """
    return embed_batches(
        model,
        batches_without_labels(data.evaluation(split)),
        total=len(data.images.subset(split)),
        what=f"{split} images",
        verbose=2 if shown_progress() == 2 else 0,
        log=log,
    )


def split_recall(
    data: RunData, split: str, embeddings: np.ndarray, *, ks: Sequence[int]
) -> Recall | None:
    """Recall@K of embeddings of the images of a split; None if they are not finite."""
    if not np.isfinite(embeddings).all():
        return None
    return embeddings_recall(data.images.subset(split), embeddings, ks=ks)


def model_recall(
    model: keras.Model, data: RunData, split: str, *, ks: Sequence[int], log: Callable[[str], Any]
) -> Recall | None:
    """Recall@K of the images of a split by the weights of now.

    Args:
        model: what is trained.
        data: `RunData`.
        split: of the images.
        ks: the K.
        log: function that takes a line of text for the user.

    Returns:
        By K as text; None if the embeddings are not finite.
    """
    return split_recall(data, split, split_embeddings(model, data, split, log=log), ks=ks)
