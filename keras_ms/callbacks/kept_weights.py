"""The file of the best weights, and in it by what they were found the best."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from keras_ms.models.saved_files import write_weights

# an attribute of the HDF5 file, which Keras passes over
_NOTE = "keras_ms_best"


class Kept(NamedTuple):
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


def save_kept(model, path, kept):
    """Writes the model's weights with a `Kept` in the file; whole or not at all."""
    write_weights(model, path, attributes={_NOTE: json.dumps(kept._asdict())})


def read_kept(path):
    """The `Kept` of a weights file; None without a file, or without a note that can be read."""
    if not Path(path).is_file():
        return None
    try:
        with h5py.File(path, "r") as file:
            found = json.loads(file.attrs[_NOTE])
        return Kept(float(found["value"]), int(found["step"]), int(found["k"]), found["labels"])
    except (OSError, KeyError, TypeError, ValueError):
        warnings.warn(
            f"{path} does not say which recall its weights reached: it was written by something "
            "else, or is damaged. The best weights are looked for anew and replace it.",
            stacklevel=2,
        )
        return None


def labels_digest(labels):
    """What tells one set of images from another by its labels, in whatever order they come."""
    classes, counts = np.unique(np.asarray(labels, np.int64), return_counts=True)
    return hashlib.sha256(np.stack([classes, counts]).tobytes()).hexdigest()


def check_same_measure(kept, path, k, labels):
    """Raises ValueError if a `Kept` was measured otherwise than the run that is continued."""
    if (kept.k, kept.labels) == (k, labels):
        return
    raise ValueError(
        f"{path} holds the best weights so far, of step {kept.step}, chosen by recall@{kept.k}"
        f"{'' if kept.labels == labels else ' on images with other labels'}. The run that is "
        f"continued measures recall@{k}, which cannot be compared with it. Give the `dataset` and "
        "`ks` that the run began with, or another `weights_path`; or remove the file, to choose "
        "among the steps that follow"
    )
