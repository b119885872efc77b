"""Where the head of a run begins: at the axes of its features, where these allow it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_ms.models.head_start import STARTS, initialize_head, usable_starts
from keras_ms.run.data import RunData
from keras_ms.run.folder import RunFolder
from keras_ms.run.model import RunModels
from keras_ms.run.settings import Settings


def stays_at_start(settings: Settings) -> bool:
    """Whether the start is kept where no classes can be held out to choose by."""
    return bool(settings.training.interpolate) and settings.model.head_initializer in (
        None,
        *STARTS,
    )


def run_starts(
    models: RunModels, data: RunData, *, rows: slice | np.ndarray = slice(None)
) -> tuple[str, ...]:
    """Those of `STARTS` that the features of the training images allow, best first.

    Args:
        models: the run's models.
        data: the run's data.
        rows: of the training images. Defaults to all.
    """
    labels = data.images.subset("train").labels[rows]
    features = data.features.of_split("train")[rows]
    return usable_starts(features, labels, models.random_kernel.shape[1])


def start_head(
    run: RunFolder,
    settings: Settings,
    *,
    models: RunModels,
    data: RunData,
    log: Callable[[str], Any],
) -> None:
    """Sets a head that begins at the axes of its features to these, in place.

    Args:
        run: the run's folder.
        settings: its `Settings`.
        models: its models.
        data: its data.
        log: function that takes a line of text for the user.
    """
    start = settings.model.head_initializer
    # what is measured of the start, or kept of it, is there once the state is
    kept = [run.state_file, run.baselines_file]
    kept += [run.start_weights_file] * (
        settings.training.interpolate or settings.training.tune == "folds"
    )
    if start not in STARTS or all(file.is_file() for file in kept):
        return
    usable = run_starts(models, data)
    if start not in usable:
        instead = usable[0] if usable else "orthogonal"
        channels, dimensions = models.random_kernel.shape
        log(
            f"A head of {dimensions} dimensions cannot start {start} on these features "
            f"({channels:,} of an image): it starts {instead}"
        )
        start = instead
    if start in STARTS:
        labels = data.images.subset("train").labels
        initialize_head(models.embedder, data.features.of_split("train"), labels, start=start)
