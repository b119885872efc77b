"""What a run reaches before training: by raw pixels, by pooled features, by the start."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.data.images import evaluation_batches
from keras_ms.evaluation.embed import embed_batches
from keras_ms.run.choice import WeightsChoice
from keras_ms.run.closing import StageRecalls, closing_table, shortfall
from keras_ms.run.data import RunData
from keras_ms.run.folder import RunFolder
from keras_ms.run.model import RunModels
from keras_ms.run.recalls import as_texts, embeddings_recall, model_recall
from keras_ms.run.settings import Settings

# Neighbours of raw pixels are looked for at most at this size and, unasked, among so many images.
_PIXELS, _MOST_IMAGES_FOR_PIXELS = 42, 20_000


def measured_baselines(
    run: RunFolder,
    settings: Settings,
    *,
    models: RunModels,
    data: RunData,
    choice: WeightsChoice | None,
    log: Callable[[str], Any],
) -> StageRecalls:
    """Recalls before training, measured once in a run and kept in its folder.

    Args:
        run: the run's folder.
        settings: its `Settings`.
        models: its models, the head at its start.
        data: its data.
        choice: by folds, which has measured the start on held-out classes; None without one.
        log: function that takes a line of text for the user.

    Returns:
        {"validation": {stage: recall}, "test": {stage: recall}}, as `closing_table` takes it.

    Raises:
        DamagedFile: the file of an earlier session.
    """
    ks = settings.evaluation.ks
    recalls = run.read_json(run.baselines_file)
    # a run folder of an earlier version has them without the split
    if recalls is not None and "test" in recalls:
        with run.errors_name_file(run.baselines_file):
            _ = closing_table(recalls, ks), shortfall(recalls)
        return recalls
    recalls = {"validation": {}, "test": {}}
    pixels = _raw_pixels(settings, data.images.subset("test"))
    if pixels is not None:
        recalls["test"]["raw_pixels"] = embeddings_recall(data.images.subset("test"), pixels, ks=ks)
    for split in ("validation", "test"):
        if split in data.images.counts():
            recalls[split] |= _before_training(settings, models, data, split, log)
    if choice:
        recalls["validation"] = {
            "pooled_features": as_texts(choice.pooled_features or {}),
            "step_0": as_texts(choice.at_start().recall),
        }
    run.write_json(run.baselines_file, recalls)
    log(closing_table(recalls, ks))
    return recalls


def _before_training(settings, models, data, split, log):
    ks = settings.evaluation.ks
    # the features of a network that knows something are what training has to improve on
    if not settings.model.is_pretrained and not settings.model.freeze_backbone:
        return {"step_0": model_recall(models.trained, data, split, ks=ks, log=log)}
    images, features = data.images.subset(split), data.features.of_split(split)
    embeddings = embed_batches(models.head, features, batch_size=1024)
    return {
        "pooled_features": embeddings_recall(images, features, ks=ks),
        "step_0": embeddings_recall(images, embeddings, ks=ks),
    }


def _raw_pixels(settings: Settings, images: ImageList) -> np.ndarray | None:
    """The images as float32 rows, each about its own mean; None where not asked for."""
    is_asked_for = settings.evaluation.raw_pixels
    if is_asked_for is None:
        # of photos they say little, and take a minute
        is_asked_for = images.images is not None and len(images) <= _MOST_IMAGES_FOR_PIXELS
    if not is_asked_for:
        return None
    size = min(_PIXELS, settings.images.image_size)
    batches = evaluation_batches(images, size, resize_to=size, cache=False)
    pixels = [batch.numpy() for batch, _ in batches]
    pixels = np.concatenate(pixels).reshape(len(images), -1)
    # else the white of the paper makes all images look alike
    return pixels - pixels.mean(axis=1, keepdims=True)
