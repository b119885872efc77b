"""Weights in files beside a training, and what the best ones were chosen by."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import keras
import numpy as np
from keras import ops

from keras_ms.models.saved_files import write_weights

# an attribute of the HDF5 file, which Keras passes over
_NOTE = "keras_ms_best"


class BestWeightsNote(NamedTuple):
    """What a weights file says about its weights.

    Attributes:
        value: the recall they were kept for.
        step: training steps done.
        k: the K of that recall.
        labels: `labels_digest` of the images it was measured on.
    """

    value: float
    step: int
    k: int
    labels: str


def save_kept(model: keras.Model, path: str | Path, kept: BestWeightsNote) -> None:
    """Writes the model's weights with a `BestWeightsNote` in the file; whole or not at all."""
    write_weights(model, path, attributes={_NOTE: json.dumps(kept._asdict())})


def read_kept(path: str | Path) -> BestWeightsNote | None:
    """The note of a weights file; None without a file, or without a note that can be read."""
    if not Path(path).is_file():
        return None
    try:
        with h5py.File(path, "r") as file:
            note = json.loads(str(file.attrs[_NOTE]))
        return BestWeightsNote(
            float(note["value"]), int(note["step"]), int(note["k"]), note["labels"]
        )
    except (OSError, KeyError, TypeError, ValueError):
        warnings.warn(
            f"{path} does not say which recall its weights reached: it was written by something "
            "else, or is damaged. The best weights are looked for anew and replace it.",
            stacklevel=2,
        )
        return None


def load_kept(model: keras.Model, path: str | Path) -> None:
    """Loads weights that may have been kept before the optimizer had a state."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        model.load_weights(path)


@contextmanager
def weights_of_file(model: keras.Model, path: str | Path) -> Iterator[None]:
    """Within, the model has the weights of a file; then its own again, and its optimizer's state.

    Example:

    ```python
    with weights_of_file(model, "start.weights.h5"):
        start = model.get_weights()
    ```
    """
    optimizer = getattr(model, "optimizer", None)
    live = [*model.variables, *(optimizer.variables if optimizer else ())]
    # copies: some backends hand out a view of the variable's own memory
    now = [np.array(ops.convert_to_numpy(variable)) for variable in live]
    try:
        load_kept(model, path)
        yield
    finally:
        for variable, value in zip(live, now):
            variable.assign(value)


def labels_digest(labels: np.ndarray) -> str:
    """What tells one set of images from another by its labels, in whatever order they come."""
    classes, counts = np.unique(np.asarray(labels, np.int64), return_counts=True)
    return hashlib.sha256(np.stack([classes, counts]).tobytes()).hexdigest()


def check_same_measure(kept: BestWeightsNote, path: str | Path, k: int, labels: str) -> None:
    """Raises ValueError if `kept` was measured otherwise than the run that is continued."""
    if (kept.k, kept.labels) == (k, labels):
        return
    raise ValueError(
        f"{path} holds the best weights so far, of step {kept.step}, chosen by recall@{kept.k}"
        f"{'' if kept.labels == labels else ' on images with other labels'}. The run that is "
        f"continued measures recall@{k}, which cannot be compared with it. Give the `dataset` and "
        "`ks` that the run began with, or another file; or remove the file, to choose "
        "among the steps that follow"
    )
