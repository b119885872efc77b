"""Compares an exported file with the Keras model it was written from."""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_ms.export.inference_model import InferenceModel
from keras_ms.export.runner import FileRunner, load_runner

# One image and a few: errors in the batch dimension show only from two images on.
BATCH_SIZES = (1, 3)


class ExportMismatchError(ValueError):
    """The exported file does not give the model's outputs; the message holds the figures.

    A `ValueError`, raised before the file takes its place: what lay there stays.

    Example:

    ```python
    try:
        keras_ms.export_onnx(model, "embedder.onnx")
    except keras_ms.export.ExportMismatchError as error:
        print(error)  # by how much, and how much was allowed
    ```
    """


def checked_tolerance(tolerance: float) -> float:
    """Returns `tolerance`, or raises ValueError if it is not a finite number >= 0."""
    if not (isinstance(tolerance, Real) and 0 <= tolerance < math.inf):
        raise ValueError(f"Expected `tolerance` to be a number >= 0. Received: {tolerance!r}")
    return tolerance


def refuse_if_different(wrapped: InferenceModel, path: Path, tolerance: float) -> float:
    """Returns the largest difference of the file at `path`; raises above the tolerance."""
    return runner_like_model(wrapped, path, tolerance)[1]


def runner_like_model(
    wrapped: InferenceModel, path: Path, tolerance: float
) -> tuple[FileRunner, float]:
    """The file at `path`, loaded, and the largest difference; raises above the tolerance.

    The tolerance is absolute for outputs up to 1 in size, such as unit-norm embeddings. Above, it
    grows with the largest output, as the spacing of float32 numbers does.
    """
    try:
        runner = loaded_for_comparison(path)
        found = compare(wrapped, runner.run)
    except _CannotRun as error:
        raise ExportMismatchError(f"{error}. {_suspects(wrapped.model)}.") from error
    return runner, refuse_if_far(wrapped, path, found, tolerance)


def refuse_if_far(
    wrapped: InferenceModel, path: Path, found: "Comparison", tolerance: float
) -> float:
    """As `refuse_if_different`, of a file that was compared."""
    difference, scale = found
    allowed = tolerance * max(1.0, scale)
    if difference > allowed:
        raise ExportMismatchError(
            f"The exported {path.name!r} does not give the outputs of the model "
            f"{wrapped.model.name!r}: the largest difference found is {difference:.3g}, allowed "
            f"is {allowed:.3g} (tolerance {tolerance:g}, largest output {scale:.3g}). The file was "
            f"discarded. {_suspects(wrapped.model)}, or pass a larger `tolerance` if this "
            "difference is acceptable."
        )
    return difference


class _CannotRun(ExportMismatchError):
    """A runtime refuses the file."""


def _suspects(model):
    """Where to look, in words: the layers that are known for it, if the model has any."""
    known = [
        f"the layer {layer.name!r} (Resizing with {layer.interpolation!r})"
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Resizing) and layer.interpolation in ("area", "bicubic")
    ]
    if known:
        return f"Replace {', '.join(known)}, which the format renders differently"
    return "Look for a layer that the format renders differently"


class Comparison(NamedTuple):
    """Largest absolute difference of two runs, and the largest absolute output of the model."""

    difference: float
    scale: float


def compare(
    wrapped: InferenceModel,
    run: Callable[[np.ndarray], Any],
    *,
    images: np.ndarray | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Comparison:
    """Runs the model and `run` on the same batches, each of other images than the one before.

    Args:
        wrapped: `InferenceModel`.
        run: function from an image batch to outputs, both NumPy arrays.
        images: array of images, taken from its start; None draws seeded random ones.
        batch_sizes: numbers of images to compare at.

    Returns:
        A `Comparison`.
    """
    import tensorflow as tf

    if images is not None and len(images) < max(batch_sizes):
        raise ValueError(
            f"Expected at least {max(batch_sizes)} images for a batch of that size. "
            f"Received: {len(images)}."
        )
    difference, scale = 0.0, 0.0
    for batch_size in batch_sizes:
        if images is None:
            batch = check_images(batch_size, wrapped.check_shape, seed=batch_size)
        else:
            batch = np.asarray(images[:batch_size])
        batch = batch.astype(wrapped.input_dtype)
        # a GPU may round to TensorFloat-32, whose 1e-3 would be laid to the file
        with tf.device("/CPU:0"):
            expected = np.asarray(wrapped(batch))
        try:
            received = np.asarray(run(batch))
        except Exception as error:
            raise _CannotRun(f"The exported file fails on {batch_size} images: {error}") from error
        if not np.isfinite(expected).all():
            raise ExportMismatchError(
                f"The model {wrapped.model.name!r} returns values that are not finite, so no file "
                "can be compared with it. Look for NaN in its weights."
            )
        if received.shape != expected.shape:
            raise ExportMismatchError(
                f"The exported file returns shape {received.shape} for {batch_size} images. The "
                f"model {wrapped.model.name!r} returns {expected.shape}."
            )
        # NaN compares false with everything: an infinite difference is refused by any tolerance
        gap = np.nan_to_num(np.abs(received - expected), nan=np.inf).max()
        difference = max(difference, float(gap))
        scale = max(scale, float(np.abs(expected).max()))
    return Comparison(difference, scale)


def check_images(count: int, shape: Sequence[int], seed: int) -> np.ndarray:
    """Random float32 inputs in 0–255, (count, *shape), that differ more than plain noise does.

    Each image has its own coarse 4 × 4 pattern under the noise: averaged over an image, pure noise
    always gives nearly the same features, and a file that mixes up the images of a batch would
    pass.
    """
    random = np.random.default_rng(seed)
    values = random.uniform(0, 255, (count, *shape))
    if len(shape) == 3:
        height, width, channels = shape
        coarse = random.uniform(0, 255, (count, 4, 4, channels))
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        values = 0.25 * values + 0.75 * coarse[:, rows][:, :, columns]
    return values.astype("float32")


def loaded_for_comparison(path: Path) -> FileRunner:
    """As `load_runner`, on the processor; where it fails, an ExportMismatchError."""
    try:
        # a GPU may round to TensorFloat-32, whose 1e-3 would be laid to the file
        return load_runner(path, device="/CPU:0")
    except ImportError:
        raise
    except Exception as error:
        raise _CannotRun(f"The runtime cannot load the exported file: {error}") from error
