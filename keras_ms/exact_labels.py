"""Integer labels carried exactly through a cast to floats.

Keras casts labels to the dtype of the loss, float32, in which ids from 2**24 on collide. So a label
travels as four parts of 16 bits, each exact in float32.
"""

import keras
import numpy as np
from keras import ops

_BITS_PER_PART = 16
_PARTS = 4


def exact_label_parts(y_true, dtype="float32"):
    """Integer labels as numbers that no cast to `dtype` can confuse.

    Args:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        dtype: a float dtype of at least 32 bits.

    Returns:
        (batch, 4) of dtype `dtype`: 16 bits of the 64-bit id each. Two labels are equal iff all
        their parts are.

    Raises:
        ValueError: labels that are not integers, or not one per item.
    """
    if y_true is None:
        raise ValueError(
            "Expected integer class ids as labels. Received none: pass them as `y` to fit, or as "
            "the second part of each batch"
        )
    labels = ops.convert_to_tensor(y_true if hasattr(y_true, "shape") else np.asarray(y_true))
    kind = keras.backend.standardize_dtype(labels.dtype)
    if not keras.backend.is_int_dtype(kind) and not _averaged_over_replicas(labels):
        raise ValueError(
            f"Expected integer class ids as labels. Received: labels of dtype {kind} and shape "
            f"{tuple(labels.shape)}. Convert names or floats to integers, the same id for the "
            "same class in every batch; for one-hot labels pass argmax(labels, axis=-1)"
        )
    if len(labels.shape) not in (1, 2) or tuple(labels.shape[1:]) not in ((), (1,), (None,)):
        raise ValueError(
            "Expected class ids of shape (batch,) or (batch, 1). Received: shape="
            f"{tuple(labels.shape)}. For one-hot labels pass argmax(labels, axis=-1)"
        )
    # JAX has no 64-bit integers by default: 32 bits go without them
    wide = "64" in kind or not keras.backend.is_int_dtype(kind)
    labels = ops.cast(ops.reshape(labels, (-1,)), "int64" if wide else "int32")
    parts = [
        ops.bitwise_and(ops.right_shift(labels, part * _BITS_PER_PART), 2**_BITS_PER_PART - 1)
        for part in range(_PARTS if wide else _PARTS // 2)
    ]
    # what 64 bits would hold beyond them, so that -1 is the same class in any integer type
    is_signed = not kind.startswith("uint")
    upper = ops.less(labels, 0) & is_signed
    upper = ops.where(upper, ops.full_like(labels, 2**_BITS_PER_PART - 1), ops.zeros_like(labels))
    parts += [upper] * (_PARTS - len(parts))
    return ops.cast(ops.stack(parts, axis=1), dtype)


def label_codes(keys):
    """Four parts of 16 bits as two int32, (batch, 2): half of the comparisons of a pair; and which
    items take part in pairs, (batch,) bool."""
    parts = ops.cast(keys, "int32")
    codes = [
        ops.bitwise_or(parts[:, part], ops.left_shift(parts[:, part + 1], 16)) for part in (0, 2)
    ]
    return ops.stack(codes, axis=1), parts[:, -1] > 0


def _averaged_over_replicas(labels):
    # Under a tf.distribute strategy Keras builds the model with placeholders shaped like the mean
    # of the replicas' batches, labels included. Those floats never reach a step.
    if keras.backend.backend() != "tensorflow" or hasattr(labels, "numpy"):
        return False
    import tensorflow as tf

    return tf.distribute.has_strategy() and tf.distribute.in_cross_replica_context()
