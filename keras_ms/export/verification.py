"""How far a written file is from the model that it was written from, on images of one's own."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_ms.export.inference_model import inference_model
from keras_ms.export.parity import BATCH_SIZES, compare, loaded_for_comparison
from keras_ms.export.photo_parity import centre_views, compare_with_photos, odd_pictures
from keras_ms.export.preprocessing import recorded_preprocessing


def verify_export(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    images: np.ndarray | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    image_size: int | tuple[int, int] | None = None,
) -> float:
    """Returns how far an exported file's outputs are from the model's.

    Both run on the CPU. A file that prepares pictures itself is given pictures, and the model what
    `evaluation_batches` makes of them: a pixel that one of them rounds up and the other down makes
    a difference too, of 1e-4 or so. A mixed-precision model is compared as its float32 copy, which
    is what was exported.

    Args:
        model: Keras model that the file was written from.
        path: ONNX file (run by onnxruntime) or SavedModel folder (run by TensorFlow).
        images: array (N, H, W, C), values 0–255, in the model's input type; uint8 pictures for a
            file that prepares them. Defaults to `None`: seeded random images.
        batch_sizes: numbers of images to compare at. Defaults to `(1, 3)`.
        image_size: pixels, an int or (height, width), for a model that leaves them open and for
            random images. Defaults to `None`: 224 where it is needed.

    Returns:
        float: the largest absolute difference of any output value.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: the model cannot be exported, or fewer images than the largest batch.
        ExportMismatchError: an output has another shape than the model's, or is not finite.

    Example:

    ```python
    difference = keras_ms.export.verify_export(model, "embedder.onnx", batch_sizes=(1, 16))
    ```
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No exported model at {path}")
    runner = loaded_for_comparison(path)
    rule = recorded_preprocessing(runner.facts, path.name)
    if rule is None or not rule.inside:
        wrapped = inference_model(model, image_size)
        return compare(wrapped, runner.run, images=images, batch_sizes=batch_sizes).difference
    wrapped = inference_model(model, rule.image_size)
    if images is None:
        pictures = list(odd_pictures(rule.resize_to or 1))
    else:
        pictures = [images[:count] for count in batch_sizes]
    views = functools.partial(centre_views, rule=rule)
    return compare_with_photos(wrapped, runner.run, views, pictures).difference
