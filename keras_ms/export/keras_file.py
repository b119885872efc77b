"""Writes a .keras file that brings the model back: read again and compared before it is kept."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ms.export.parity import ExportMismatchError, check_images, checked_tolerance
from keras_ms.files import whole_file
from keras_ms.models.keras_file import load_keras_file
from keras_ms.models.saved_files import write_model

# images, so that what mixes up the rows of a batch shows
_BATCH = 2
# of low precisions, which round at other places where a graph is built otherwise
_COARSER = 1000


def write_keras_file(
    model: keras.Model, path: str | os.PathLike, *, tolerance: float = 1e-5
) -> float:
    """Writes a model of images as a .keras file, on any backend of Keras.

    A layer may save less than it has learned, or forget an option, without an error. So the file
    takes its name only after it was loaded and every trained weight and the outputs on seeded
    random images, 0–255, were found to be the model's; otherwise whatever stood there stays.

    Args:
        model: functional, with one input of known size.
        path: file that ends in ".keras".
        tolerance: largest difference of an output that is allowed; a thousand times of that for
            models of lower precision than float32. Defaults to `1e-5`.

    Returns:
        float: the largest difference that was found, usually 0.

    Raises:
        ExportMismatchError: the loaded file is another model; the message names the weights.
        ValueError: another ending, or a file that does not load again.
        OSError: as `keras_ms.files.whole_file`.

    Example:

    ```python
    keras_ms.export.keras_file.write_keras_file(embedder, "embedder.keras")
    ```
    """
    checked_tolerance(tolerance)
    with whole_file(path) as new:
        write_model(model, new)
        loaded = load_keras_file(new)
        _refuse_other_weights(model, loaded, Path(path))
        difference = _output_difference(model, loaded)
        low = any(layer.compute_dtype in ("float16", "bfloat16") for layer in _layers(model))
        allowed = tolerance * (_COARSER if low else 1)
        if not difference <= allowed:
            raise ExportMismatchError(
                f"{Path(path).name} does not bring the model {model.name!r} back: its outputs "
                f"differ by {difference:.3g}, allowed is {allowed:.3g}, though its weights are "
                "equal. The file was discarded. Look for a layer whose get_config leaves an option "
                "out"
            )
    return difference


def _layers(model):
    return model._flatten_layers(include_self=False)


def _refuse_other_weights(model, loaded, path):
    ours, theirs = model.weights, loaded.weights
    other = [
        variable.path
        for variable, again in zip(ours, theirs)
        # what is not trained shows in the outputs, where it counts
        if variable.trainable and not _equal(variable, again)
    ]
    if len(ours) != len(theirs) or other:
        shown = ", ".join(other[:3]) or f"{len(theirs)} weights instead of {len(ours)}"
        raise ExportMismatchError(
            f"{path.name} does not bring the model {model.name!r} back: {shown}"
            + (f" and {len(other) - 3} more" if len(other) > 3 else "")
            + (" came back with other values" if other else " came back")
            + ". The file was discarded. The layer that owns it saves or loads its weights "
            "otherwise than it uses them (save_own_variables, load_own_variables)"
        )


def _equal(variable, again):
    one, other = (np.asarray(keras.ops.convert_to_numpy(v)) for v in (variable, again))
    # bfloat16 is no type of NumPy's, which asks its own alone for NaN
    one, other = one.astype("float64"), other.astype("float64")
    return np.array_equal(one, other, equal_nan=True)


def _output_difference(model, loaded) -> float:
    images = check_images(_BATCH, model.inputs[0].shape[1:], seed=0)
    images = images.astype(model.inputs[0].dtype)

    def outputs(one: Any) -> np.ndarray:
        # of a list with one input, a list
        inputs = keras.tree.map_structure(lambda _: images, one.input)
        return np.asarray(keras.ops.convert_to_numpy(one(inputs, training=False)), "float64")

    one, other = outputs(model), outputs(loaded)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return float(np.nan_to_num(np.where(same, 0.0, np.abs(one - other)), nan=np.inf).max())
