"""One batch across devices: share it out, and gather it where tf.distribute has split it.

On Keras's JAX backend with keras.distribution a program sees the global batch anyway, so there is
nothing to gather.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_ms.arguments import Tensor


class GlobalBatch(NamedTuple):
    """What one replica knows of the whole batch.

    embeddings: (global batch, dimension), of all replicas in order; a gradient flows back to the
        replica that each row came from.
    keys: (global batch, parts), the label keys of all replicas.
    offset: () int32, index of this replica's first item in the global batch.
    """

    embeddings: Tensor
    keys: Tensor
    offset: Tensor


def mirrored_strategy(devices: int) -> Any:
    """A tf.distribute.MirroredStrategy over the first `devices` GPUs, or, on a machine without
    GPUs, over as many logical devices of its processor.

    Logical devices share the processor's cores: nothing gets faster, but everything happens as it
    would on as many GPUs.

    Args:
        devices: number of devices, at least 2.

    Returns:
        tf.distribute.MirroredStrategy.

    Raises:
        ValueError: fewer GPUs than asked for, a backend other than TensorFlow, or logical devices
            asked for after TensorFlow's first operation, when they cannot be made any more.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Expected Keras's TensorFlow backend for {devices} devices. Received: "
            f"{keras.backend.backend()}. On JAX, use data_parallel"
        )
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if devices > len(gpus):
            raise ValueError(
                f"Expected at most devices={len(gpus)}, the GPUs of this machine. Received: "
                f"devices={devices}"
            )
        return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(devices)])
    processor = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(processor) or ()
    if len(configured) < devices:
        try:
            tf.config.set_logical_device_configuration(
                processor, [tf.config.LogicalDeviceConfiguration()] * devices
            )
        except RuntimeError:
            raise ValueError(
                f"Expected devices={devices} to be chosen before TensorFlow's first operation: "
                "without GPUs the processor is divided into logical devices, which is impossible "
                "later. Do it in a new process"
            ) from None
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)])


def data_parallel(devices: int) -> Any:
    """A keras.distribution.DataParallel over the first `devices` GPUs, or, on a machine without
    GPUs, over as many logical devices of its processor, on Keras's JAX backend.

    It is to be set, or its scope entered, before a model is built, and kept until its last `fit`
    and `predict`.

    Args:
        devices: number of devices, at least 2.

    Returns:
        keras.distribution.DataParallel.

    Raises:
        ValueError: fewer GPUs than asked for, a backend other than JAX, logical devices asked for
            after JAX's first operation, when they cannot be made any more, or of several processes
            not all devices.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Expected Keras's JAX backend for keras.distribution over {devices} devices. "
            f"Received: {keras.backend.backend()}"
        )
    import jax

    # whoever set the flag has chosen; JAX takes the number before its first operation only
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices)
    names = keras.distribution.list_devices()
    kind = names[0].partition(":")[0]
    if len(names) < devices and kind != "cpu":
        raise ValueError(
            f"Expected at most devices={len(names)}, those of this machine ({', '.join(names)}). "
            f"Received: devices={devices}"
        )
    if len(names) < devices:
        raise ValueError(
            f"Expected devices={devices} to be chosen before JAX's first operation: without GPUs "
            "the processor is divided into logical devices, which is impossible later. Do it in a "
            "new process, where XLA_FLAGS has no smaller xla_force_host_platform_device_count"
        )
    if _num_processes() > 1 and devices != len(names):
        raise ValueError(
            f"Expected devices={len(names)}, those of all {_num_processes()} processes together. "
            f"Received: devices={devices}"
        )
    # each process reads its part of a batch, see data_shard
    return keras.distribution.DataParallel(devices=names[:devices], auto_shard_dataset=False)


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Within, what is made and trained lies on one device, whatever keras.distribution is set."""
    before = keras.distribution.distribution()
    if before is not None:
        keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        if before is not None:
            keras.distribution.set_distribution(before)


def num_data_parts() -> int:
    """Into how many even parts keras.distribution divides what `fit` and `predict` read: 1 without
    one, and on other backends than JAX, which do nothing with it."""
    distribution = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or distribution is None:
        return 1
    return distribution.num_model_replicas


def data_shard() -> tuple[int, int]:
    """(index, number): which part of each batch this process reads for `fit`, as `balanced_batches`
    takes it; (0, 1), all of it, for one process."""
    number = _num_processes()
    if number == 1:
        return 0, 1
    import jax

    return jax.process_index(), number


def _num_processes():
    if keras.backend.backend() != "jax":
        return 1
    import jax

    # the question would start JAX, whose devices cannot be divided any more
    return jax.process_count() if jax.distributed.is_initialized() else 1


def num_replicas() -> int:
    """How many replicas compute this step together: 1 outside tf.distribute's replica context."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    # Keras builds a model in the cross-replica context, with placeholders
    if not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def is_empty_batch(items: Tensor) -> bool:
    """Whether it is known that the batch has no item; a replica without any has those of others."""
    return items.shape[0] == 0 and num_replicas() == 1


def gather(embeddings: Tensor, keys: Tensor) -> GlobalBatch:
    """The batch of all replicas, whose parts may differ in size.

    Args:
        embeddings: (local batch, dimension).
        keys: (local batch, parts).

    Returns:
        GlobalBatch. To be called in a replica context of several replicas only.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def with_dense_gradient(rows):
        # that of `ops.take` is sparse, which the gradient of gathering does not take
        return tf.identity(rows), tf.convert_to_tensor

    context = tf.distribute.get_replica_context()
    sizes = context.all_gather(ops.shape(keys)[:1] + tf.zeros([1], tf.int32), axis=0)
    before = tf.range(tf.size(sizes)) < context.replica_id_in_sync_group
    return GlobalBatch(
        with_dense_gradient(context.all_gather(embeddings, axis=0)),
        context.all_gather(keys, axis=0),
        tf.reduce_sum(tf.where(before, sizes, 0)),
    )


def replica_mean_factor(item_weights: Tensor) -> Tensor:
    """What a replica's mean is multiplied by so that all replicas together give the mean of the
    global batch.

    Keras divides the mean of each replica's part by the number of replicas and adds them up. The
    parts of an uneven batch count for as much as they hold, though: part / whole instead of
    1 / replicas. A sum needs no such factor: Keras adds sums as they are.

    Args:
        item_weights: (local batch,), what the mean divides by the sum of: 1 per item, 0 for a
            masked one, or sample weights.

    Returns:
        () of the same dtype: replicas * sum of this part / sum of all, which is 1 for even parts
        and 0 where nothing counts. To be called in a replica context only.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    part = tf.reduce_sum(item_weights)
    whole = context.all_reduce(tf.distribute.ReduceOp.SUM, part)
    return tf.math.divide_no_nan(part * context.num_replicas_in_sync, whole)


def as_on_one_device(
    value: Tensor, reduction: str | None, item_weights: Tensor, sample_weight: Tensor | None = None
) -> Tensor:
    """A loss that each replica has reduced by itself, as one device gives it for the whole batch.

    Keras adds the gradients of the replicas up, so each keeps the gradient of its own part. What
    Keras logs is another mean, of each replica's value weighted by the items it holds: it is the
    loss of the batch only where all replicas tell the same value.

    Args:
        value: what this replica's call of a `keras.losses.Loss` returned.
        reduction: of that loss.
        item_weights: (local batch,), 1 for an item of the mean and 0 for a masked one.
        sample_weight: optional, as given to the loss.

    Returns:
        Value and gradient of one device where there is one replica, or a value for each item (a
        reduction of None). Otherwise the loss of the global batch divided by the number of
        replicas, the same on each, with the gradient of this replica's part.
    """
    if num_replicas() == 1 or reduction in (None, "none"):
        return value
    value = ops.sum(value)  # Keras leaves an empty part unreduced
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        item_weights = item_weights * ops.cast(
            ops.reshape(sample_weight, (-1,)), item_weights.dtype
        )
    if reduction != "sum":
        value = value * replica_mean_factor(item_weights)
    return _mean_over_replicas(value)


def _mean_over_replicas(part):
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    whole = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(part))
    mean = whole / context.num_replicas_in_sync

    # not part + stop_gradient(mean - part): where a part is infinite that is NaN
    @tf.custom_gradient
    def with_gradient_of(part):
        return tf.identity(mean), tf.identity

    return with_gradient_of(part)
