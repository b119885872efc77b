"""Compares a file that takes photos as they are with the model and the views it is evaluated on."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.data.images import centre_view
from keras_ms.export.inference_model import InferenceModel
from keras_ms.export.onnx_packages import import_onnx_package
from keras_ms.export.parity import (
    Comparison,
    ExportMismatchError,
    check_images,
    compare,
    loaded_for_comparison,
    refuse_if_far,
)
from keras_ms.export.preprocessing import Preprocessing

# of 255: a value that lies half-way may be rounded up by one program and down by another
_MEAN, _LARGEST = 0.5, 1.0


def odd_pictures(resize_to: int) -> Iterator[np.ndarray]:
    """Seeded random pictures, uint8 (batch, height, width, 3): large, small, long and lone ones."""
    side = resize_to
    shapes = [(3, 37, 91), (1, side, side + 7), (1, 2 * side + 1, 3 * side), (1, 1, 1)]
    shapes += [(1, 1, 40 * side), (2, 5 * side, 2)]
    for seed, (count, height, width) in enumerate(shapes):
        yield check_images(count, (height, width, 3), seed=seed).astype(np.uint8)


def centre_views(pictures: np.ndarray, rule: Preprocessing) -> np.ndarray:
    """What evaluation makes of pictures of one size: uint8 (batch, size, size, 3)."""
    size: Any = rule.image_size
    return np.stack([centre_view(one, size, rule.resize_to or size).numpy() for one in pictures])


def compare_with_photos(
    wrapped: InferenceModel,
    run: Callable[[np.ndarray], Any],
    views: Callable[[np.ndarray], np.ndarray],
    pictures: Sequence[np.ndarray],
) -> Comparison:
    """Runs the model on views of pictures, and a file on the pictures.

    Args:
        wrapped: `InferenceModel`.
        run: function from a batch of pictures to embeddings, both NumPy arrays.
        views: function from a batch of pictures to images as the model takes them.
        pictures: batches, uint8 (batch, height, width, 3).

    Returns:
        A `Comparison`.
    """
    found = []
    for batch in pictures:
        found.append(
            compare(wrapped, lambda _: run(batch), images=views(batch), batch_sizes=(len(batch),))
        )
    return Comparison(max(one.difference for one in found), max(one.scale for one in found))


def refuse_if_photos_differ(
    wrapped: InferenceModel, path: Path, photo: Any, rule: Preprocessing, tolerance: float
) -> float:
    """As `refuse_if_different`, for an ONNX file that prepares pictures itself.

    The pixels that it makes are compared with those of evaluation, and its embeddings with those
    of the model for these pixels: so a value that lies half-way between two whole ones, which each
    program may round its way, is not laid to the network.

    Args:
        wrapped: `InferenceModel`.
        path: the file.
        photo: of `photo_graph`, the part of the file that makes the pixels.
        rule: `Preprocessing` with both sizes.
        tolerance: as in `export_onnx`.
    """
    onnxruntime = import_onnx_package("onnxruntime")
    session = onnxruntime.InferenceSession(
        photo.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def views(pictures):
        (made,) = session.run(["view"], {"picture": pictures})
        return made

    pictures = list(odd_pictures(rule.resize_to or 1))
    for batch in pictures:
        gaps = np.abs(views(batch).astype("float32") - centre_views(batch, rule))
        if not (gaps.mean() <= _MEAN and gaps.max() <= _LARGEST):
            raise ExportMismatchError(
                f"{path.name} does not make the pixels that the model was evaluated on of pictures "
                f"of {batch.shape[2]} x {batch.shape[1]}: they differ by {gaps.mean():.3g} of 255 "
                f"in the mean and {gaps.max():.3g} at most, allowed are {_MEAN} and {_LARGEST:g}. "
                "The file was discarded. Prepare photos outside the file, as docs/runtimes.md does"
            )
    run = loaded_for_comparison(path).run
    found = compare_with_photos(wrapped, run, views, pictures)
    return refuse_if_far(wrapped, path, found, tolerance)
