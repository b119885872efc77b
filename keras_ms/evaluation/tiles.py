"""What is computed in one tile of similarities, on any backend, and how it is compiled.

A tile is the product of two blocks of unit rows, always of the same shape: (tile, dimension) with
int32 class indices (tile,), where -1 marks padding. Best positives and the negatives ahead of them
come from products of one shape, so that equal vectors get equal similarities in both.
"""

import functools
from contextlib import contextmanager

import keras
from keras import ops

# A negative counts as ranked ahead when it is at most this much less similar than the best
# positive: ties are pessimistic, and float32 products of the same unit vectors differ by about
# 1e-7 from kernel to kernel, so exact equality would let collapsed embeddings score 100 %.
# Generic data hardly feels it: a negative must fall into a gap of 1e-6 below the best positive,
# which moves that rank by one, and Recall@K only where the rank was exactly K. Of 20,000 random
# 512-d embeddings this moved 73 ranks (float64 with the same rule: 72) and one query of Recall@1.
TIE = 1e-6

# Below every similarity of unit vectors: stands for "no such pair". Finite, so that no arithmetic
# on it can make NaN.
NO_PAIR = -3.0


def _similarity(a, b):
    return ops.matmul(a, ops.transpose(b))


def _positives(similarity, row_labels, column_labels):
    same = row_labels[:, None] == column_labels[None, :]
    return ops.where(same, similarity, NO_PAIR)


def _negatives(similarity, row_labels, column_labels):
    # padding rows carry label -1 and must not count as negatives
    other = ops.logical_and(
        row_labels[:, None] != column_labels[None, :],
        ops.logical_and(row_labels[:, None] >= 0, column_labels[None, :] >= 0),
    )
    return ops.where(other, similarity, NO_PAIR)


def _count_ahead(negatives, best, axis):
    threshold = ops.expand_dims(best - TIE, axis)
    return ops.sum(ops.cast(negatives >= threshold, "int32"), axis=axis)


def diagonal_tile(rows, labels):
    """Best positive of each row among the others of its tile, and the negatives ahead of it."""
    similarity = _similarity(rows, rows)
    index = ops.arange(rows.shape[0])
    positives = ops.where(
        index[:, None] == index[None, :], NO_PAIR, _positives(similarity, labels, labels)
    )
    best = ops.max(positives, axis=1)
    return best, _count_ahead(_negatives(similarity, labels, labels), best, axis=1)


def best_positive_tile(a, b, a_labels, b_labels):
    positives = _positives(_similarity(a, b), a_labels, b_labels)
    return ops.max(positives, axis=1), ops.max(positives, axis=0)


def count_tile(a, b, a_labels, b_labels, a_best, b_best):
    negatives = _negatives(_similarity(a, b), a_labels, b_labels)
    return _count_ahead(negatives, a_best, axis=1), _count_ahead(negatives, b_best, axis=0)


def best_positive_rows(a, b, a_labels, b_labels, a_items, b_items):
    positives = _positives(_similarity(a, b), a_labels, b_labels)
    own = a_items[:, None] == b_items[None, :]
    return ops.max(ops.where(own, NO_PAIR, positives), axis=1)


def count_rows(a, b, a_labels, b_labels, a_best):
    return _count_ahead(_negatives(_similarity(a, b), a_labels, b_labels), a_best, axis=1)


@functools.lru_cache(maxsize=None)
def compiled(kernel):
    """The kernel under XLA, which fuses the counting into one sweep over the product."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(kernel, jit_compile=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(kernel)
    return kernel


@contextmanager
def full_float32_products():
    # recent GPUs multiply float32 in TF32 (10 bits of mantissa) unless told otherwise: that
    # moves similarities by 1e-3 and the ranks would no longer be exact
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
