"""One batch across devices: gather it where tf.distribute has split it.

On Keras's JAX backend with keras.distribution a program sees the global batch anyway, so there is
nothing to gather.
"""

from typing import NamedTuple

import keras
from keras import ops


class GlobalBatch(NamedTuple):
    """What one replica knows of the whole batch.

    embeddings: (global batch, dimension), of all replicas in order; a gradient flows back to the
        replica that each row came from.
    keys: (global batch, parts), the label keys of all replicas.
    offset: () int32, index of this replica's first item in the global batch.
    num_replicas: number of replicas.
    """

    embeddings: object
    keys: object
    offset: object
    num_replicas: int


def num_replicas():
    """How many replicas compute this step together: 1 outside tf.distribute's replica context."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    # Keras builds a model in the cross-replica context, with placeholders
    if not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def gather(embeddings, keys):
    """The batch of all replicas, whose parts may differ in size.

    Args:
        embeddings: (local batch, dimension).
        keys: (local batch, parts).

    Returns:
        GlobalBatch. To be called in a replica context of several replicas only.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    sizes = context.all_gather(ops.shape(keys)[:1] + tf.zeros([1], tf.int32), axis=0)
    before = tf.range(tf.size(sizes)) < context.replica_id_in_sync_group
    return GlobalBatch(
        context.all_gather(embeddings, axis=0),
        context.all_gather(keys, axis=0),
        tf.reduce_sum(tf.where(before, sizes, 0)),
        context.num_replicas_in_sync,
    )


def weight_of_part(part_size, gathered_size, replicas, reduction):
    """What a replica's values are multiplied by so that all replicas together give the loss of one
    device on the global batch.

    Keras divides each replica's loss by the number of replicas and adds them up. A mean over the
    part is a mean over the global batch after multiplication with part * replicas / global, which
    is 1 for even parts; a sum over the part with the number of replicas.
    """
    if reduction == "sum":
        return float(replicas)
    return ops.cast(part_size, "float32") * replicas / ops.cast(gathered_size, "float32")
