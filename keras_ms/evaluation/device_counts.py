"""What is computed in one tile of similarities, on any backend, and how it is compiled.

A tile is the product of two blocks of unit rows, always of the same shape: (tile, dimension) with
int32 class indices (tile,), where -1 marks padding. What float32 leaves in doubt is flagged, for
the processor to decide.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor


def _similarity(a, b, a_labels, b_labels):
    """The similarities, and which of them belong to pairs of two classes."""
    # padding rows carry label -1 and must not count as negatives
    negative = ops.logical_and(
        a_labels[:, None] != b_labels[None, :],
        ops.logical_and(a_labels[:, None] >= 0, b_labels[None, :] >= 0),
    )
    return ops.matmul(a, ops.transpose(b)), negative


def _compare(similarity, negative, low, high, axis):
    """How many are certainly ahead along the axis; how many are in doubt, and which."""
    certain = ops.logical_and(negative, similarity >= ops.expand_dims(high, axis))
    possible = ops.logical_and(negative, similarity >= ops.expand_dims(low, axis))
    doubtful = ops.logical_xor(possible, certain)
    return (
        ops.sum(ops.cast(certain, "int32"), axis=axis),
        ops.sum(ops.cast(doubtful, "int32")),
        doubtful,
    )


def count_rows(
    a: Tensor, b: Tensor, a_labels: Tensor, b_labels: Tensor, a_low: Tensor, a_high: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Negatives ahead of the best positive of each row.

    Args:
        a, b, a_labels, b_labels: two blocks.
        a_low, a_high: float32 (tile,), of the `Thresholds` of a's rows.

    Returns:
        int32 (tile,), those that are certain; int32, how many pairs are in doubt; bool
        (tile, tile), which ones.
    """
    similarity, negative = _similarity(a, b, a_labels, b_labels)
    return _compare(similarity, negative, a_low, a_high, axis=1)


def count_tile(
    a: Tensor,
    b: Tensor,
    a_labels: Tensor,
    b_labels: Tensor,
    a_low: Tensor,
    a_high: Tensor,
    b_low: Tensor,
    b_high: Tensor,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The three of `count_rows` for the rows of `a`, and the three for the rows of `b`."""
    similarity, negative = _similarity(a, b, a_labels, b_labels)
    return (
        _compare(similarity, negative, a_low, a_high, axis=1),
        _compare(similarity, negative, b_low, b_high, axis=0),
    )


@functools.cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel under XLA, which fuses the counting into one sweep over the product."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(kernel, jit_compile=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(kernel)
    return kernel


@contextmanager
def full_float32_products() -> Iterator[None]:
    # recent GPUs multiply float32 in TF32 (10 bits of mantissa) unless told otherwise: that
    # moves similarities by 1e-3, beyond the bound of float32 products
    if keras.backend.backend() == "tensorflow":
        from tensorflow.config import experimental

        before = experimental.tensor_float_32_execution_enabled()
        experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            experimental.enable_tensor_float_32_execution(before)
    elif keras.backend.backend() == "jax":
        import jax

        with jax.default_matmul_precision("float32"):
            yield
    else:
        yield
