"""Embeddings on their way to similarities: cast, normalised; and from similarities to distances."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.pairs.keras_mask import mask_of, with_mask

# The largest number of float16, and the length below which a row is short, see `cast_for_loss`.
_FLOAT16_MAX, _SHORT = 65504.0, 1 / 64


def refuse_complex(embeddings: Any) -> None:
    """Raises ValueError for complex numbers, whose cast would drop the imaginary part."""
    if "complex" in str(embeddings.dtype):
        raise ValueError(
            f"Expected embeddings of real numbers. Received: {embeddings.dtype} of shape "
            f"{embeddings.shape}. Give both parts, concatenate([real, imaginary], axis=-1), or one"
        )


def cast_for_loss(embeddings: Tensor, dtype: str) -> Tensor:
    """The embeddings in the dtype of a loss, with a gradient that float16 can hold.

    The gradient of a normalised row grows as 1 / its length. Of a short row, below 1/64, float16
    may not hold it, whatever the loss: such a row gets the longest gradient of the same direction
    that fits. A longer row's gradient overflows as any other does, which a loss scaler has to see.

    Args:
        embeddings: (batch, dimension), any float dtype.
        dtype: "float32" or "float64".

    Returns:
        Same shape, with the Keras mask of the embeddings if they have one.

    Raises:
        ValueError: complex embeddings.
    """
    refuse_complex(embeddings)
    mask = mask_of(embeddings)
    if keras.backend.standardize_dtype(embeddings.dtype) == "float16":
        rows = _float16_cast_for_loss(embeddings, dtype)
    else:
        rows = ops.cast(embeddings, dtype)
    return rows if rows is embeddings else with_mask(rows, mask)


def normalised_rows(embeddings: Tensor) -> Tensor:
    """L2-normalises rows; finite, with a finite gradient, for every finite row.

    Args:
        embeddings: (batch, dimension) float32 or float64.

    Returns:
        Same shape and dtype. A row of zeros stays zeros (and gets the plain gradient, as if its
        norm were 1); a row with a NaN or infinity becomes NaN.
    """
    # Dividing by the largest entry first keeps the sum of squares from overflowing or vanishing.
    # The direction does not depend on this scale, so no gradient has to flow through it.
    # initial: Keras refuses a maximum of no rows
    largest = ops.stop_gradient(ops.max(ops.abs(embeddings), axis=-1, keepdims=True, initial=0))
    scaled = embeddings / ops.where(largest == 0, ops.ones_like(largest), largest)
    squared_norm = ops.sum(scaled * scaled, axis=-1, keepdims=True)
    # inner where: rsqrt(0) never enters, so neither does its infinite derivative
    return scaled * ops.rsqrt(
        ops.where(squared_norm == 0, ops.ones_like(squared_norm), squared_norm)
    )


def distances(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of unit vectors, and their inverses.

    Args:
        similarity: (anchors, candidates), cosine similarities.

    Returns:
        `(distance, inverse)`, same shape and dtype. Vectors that are equal up to rounding (a
        distance below 1.4e-3 in float32, 6e-8 in float64) have the distance 0 and the inverse 0.
    """
    squared = 2 - 2 * similarity
    # a product of unit rows is off by a few units in the last place of 1
    rounding = 16 * float(np.finfo(keras.backend.standardize_dtype(similarity.dtype)).eps)
    equal = squared <= rounding
    inverse = ops.rsqrt(ops.where(equal, ops.ones_like(squared), squared))
    inverse = ops.where(equal, ops.zeros_like(squared), inverse)
    return squared * inverse, inverse


def _float16_cast_for_loss(embeddings, dtype):
    @ops.custom_gradient
    def wide(embeddings):
        rows = ops.cast(embeddings, dtype)
        fixed = ops.stop_gradient(rows)
        is_short = ops.sum(fixed * fixed, axis=-1, keepdims=True) < _SHORT**2

        # TensorFlow and JAX call grad(upstream), torch grad(embeddings, upstream=...)
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            largest = ops.max(ops.abs(upstream), axis=-1, keepdims=True, initial=0)
            largest = ops.stop_gradient(largest)
            fits = _FLOAT16_MAX / ops.maximum(largest, _FLOAT16_MAX)
            upstream = upstream * ops.where(is_short, fits, ops.ones_like(fits))
            return ops.cast(upstream, "float16")

        return rows, grad

    return wide(ops.convert_to_tensor(embeddings))
