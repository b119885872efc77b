"""Checks of integer class ids, before a step where that can be and at the step where it cannot."""

from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops

from keras_ms.arguments import Tensor, unmasked

_EXPECTED = "Expected class ids of shape (batch,) or (batch, 1), one for each image. Received: "
_ADVICE = ". For one-hot labels pass argmax(labels, axis=-1)"

_EXPECTED_AS_A_NAME = "class-ids_one_for_each_image_and_of_one-hot_labels_the_argmax"


def checked_class_ids(y_true: Any, items: Tensor | None = None) -> Tensor:
    """Labels as a tensor of integers (batch,), or an error that says what arrived.

    What is known of dtype and shape before the step is checked before the step. Of an open shape,
    as a tf.data pipeline may have it, the rest is checked at each step: by an assertion in a
    graph (tf.errors.InvalidArgumentError), and by XLA, which leaves assertions out but compiles
    for the shape that arrived, by a reshape that it cannot compile and whose name says why.

    Args:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        items: optional tensor with a row for each label, such as the embeddings.

    Returns:
        (batch,), of the dtype of the labels.

    Raises:
        ValueError: labels that are not integers, or not one per item.
    """
    labels = _integers(y_true)
    if _is_open(labels.shape) or items is not None and _is_open(items.shape[:1]):
        return _checked_at_each_step(labels, items)
    shape = tuple(labels.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise ValueError(f"{_EXPECTED}shape={shape}{_ADVICE}")
    if items is not None and shape[0] != items.shape[0]:
        raise ValueError(
            "Expected one label per embedding. Received: "
            f"{shape[0]} labels and {items.shape[0]} embeddings"
        )
    return ops.reshape(labels, (-1,))


def _integers(y_true):
    """The labels as a tensor of integers, whatever their shape."""
    if y_true is None:
        raise ValueError(
            "Expected integer class ids as labels. Received none: pass them as `y` to fit, or as "
            "the second part of each batch"
        )
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras would make one long row of a ragged tensor's values
        if isinstance(y_true, (tf.RaggedTensor, tf.SparseTensor)):
            kind = type(y_true).__name__
            raise ValueError(f"{_EXPECTED}a {kind} of shape {tuple(y_true.shape)}{_ADVICE}")
    if not (ops.is_tensor(y_true) or isinstance(y_true, (keras.Variable, keras.KerasTensor))):
        unmasked(y_true)
        try:
            y_true = np.asarray(y_true)
        except ValueError:  # nested lists of different lengths
            raise ValueError(f"{_EXPECTED}lists of different lengths{_ADVICE}") from None
        if y_true.dtype.kind not in "iu":
            text = y_true.dtype.kind in "US"
            _refuse_dtype("string" if text else y_true.dtype, y_true.shape)
    labels = ops.convert_to_tensor(y_true)
    kind = keras.backend.standardize_dtype(labels.dtype)
    if not keras.backend.is_int_dtype(kind) and not _averaged_over_replicas(labels):
        _refuse_dtype(kind, labels.shape)
    return labels


def _refuse_dtype(kind: Any, shape: Any) -> NoReturn:
    raise ValueError(
        f"Expected integer class ids as labels. Received: labels of dtype {kind} and shape "
        f"{'unknown' if _has_no_rank(shape) else tuple(shape)}. Convert names or floats to "
        "integers, the same id for the same class in every batch; for one-hot labels pass "
        "argmax(labels, axis=-1)"
    )


def _has_no_rank(shape):
    # TensorFlow knows tensors of unknown rank, whose shape has no length
    return getattr(shape, "rank", 0) is None


def _is_open(shape):
    return _has_no_rank(shape) or None in tuple(shape)


def _checked_at_each_step(labels, items):
    import tensorflow as tf

    static = labels.shape
    if not any(static.is_compatible_with(fitting) for fitting in ([None], [None, 1])):
        raise ValueError(f"{_EXPECTED}shape={tuple(static)}{_ADVICE}")
    length = tf.shape(labels)[:1]
    number = length if items is None else tf.shape(items)[:1]
    fits = tf.reduce_all(tf.equal(length, number)) & tf.reduce_all(tf.size(labels) == number)
    given = [f"{_EXPECTED}labels of shape", tf.shape(labels), "for images:", number, _ADVICE]
    with tf.control_dependencies([tf.debugging.Assert(fits, given)]):
        if static.rank == 2:
            labels = tf.squeeze(labels, [1], name=_EXPECTED_AS_A_NAME)
        ids = tf.reshape(labels, number, name=_EXPECTED_AS_A_NAME)
    # a tensor of this length, where either side knows it
    ids.set_shape(static[:1] if items is None or static.rank is None else items.shape[:1])
    return ids


def check_range(labels: Tensor, num_classes: int) -> Tensor:
    """The labels, or an error for an id that is not from 0 to `num_classes` - 1.

    Args:
        labels: integers (batch,), of `checked_class_ids`.
        num_classes: number of proxies.

    Returns:
        `labels`: what is computed from them waits for the check, so that a step that fails leaves
        the weights as they were.

    Raises:
        ValueError: such an id, where labels can be looked at. In a graph of TensorFlow it is
            tf.errors.InvalidArgumentError, when the step runs. Programs of XLA and JAX raise none.
    """
    expected = f"Expected integer class ids from 0 to {num_classes - 1}, one for each proxy."
    advice = (
        "Number the training classes from 0, np.unique(labels, return_inverse=True)[1], or make "
        "Proxies of more classes"
    )
    try:
        ids = ops.convert_to_numpy(labels)
    except (NotImplementedError, TypeError):  # a symbolic tensor of TensorFlow, of JAX
        if keras.backend.backend() != "tensorflow":
            return labels
        import tensorflow as tf

        least, most = tf.reduce_min(labels), tf.reduce_max(labels)
        # a Python number is cast to the labels' dtype, in which 256 of uint8 is 0; of uint64 what
        # is beyond int64 becomes negative
        first, last = tf.cast(least, "int64"), tf.cast(most, "int64")
        in_range = (first >= 0) & (last >= 0) & (last < num_classes)
        given = [f"{expected} {advice}. Received: ids", least, "to", most]
        with tf.control_dependencies([tf.debugging.Assert(in_range, given)]):
            return tf.identity(labels)
    unknown = np.unique(ids[(ids < 0) | (ids >= num_classes)])
    if unknown.size:
        examples = ", ".join(str(each) for each in unknown[:3]) + ", …" * (unknown.size > 3)
        raise ValueError(
            f"{expected} Received: ids {ids.min()} to {ids.max()}, without a proxy: {examples}. "
            f"{advice}"
        )
    return labels


def _averaged_over_replicas(labels):
    # Under a tf.distribute strategy Keras builds the model with placeholders shaped like the mean
    # of the replicas' batches, labels included. Those floats never reach a step.
    if keras.backend.backend() != "tensorflow" or hasattr(labels, "numpy"):
        return False
    import tensorflow as tf

    return tf.distribute.has_strategy() and tf.distribute.in_cross_replica_context()
