"""Cross-batch memory: past embeddings as further candidates of a pair-based loss."""

from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, whole_number
from keras_ms.losses.pair_loss import PairLoss
from keras_ms.models.embedder_training import EmbedderTraining
from keras_ms.pairs import replicas
from keras_ms.pairs.labels import KEY_LENGTH, valid_where
from keras_ms.pairs.unit_vectors import cast_for_loss


@keras.saving.register_keras_serializable(package="keras_ms")
class CrossBatchMemory(EmbedderTraining):
    """Trains an embedder with a pair-based loss over the batch and the embeddings of past batches.

    Hard pairs are rare in a small batch. Embeddings drift slowly, so those of the last steps can
    stand in for what the embedder would give now: a memory of them offers each anchor thousands
    of candidates for the price of one more matrix product. The model's output is the embedder's.

    At each training step the anchors of the batch are compared with the batch and the memory;
    the memory is constant, so gradients flow through the batch alone. Only then do the batch's
    embeddings replace the oldest of the memory: no image meets its own copy of the same step.
    Evaluation uses the batch alone and leaves the memory as it is.

    Reference: Wang, Zhang, Huang, Scott: Cross-Batch Memory for Embedding Learning, CVPR 2020.

    Relations: take it where the batches that fit into memory are small: past images widen what an
    anchor is compared with, and no weights are added. `keras_ms.Proxies` offer a trained vector a
    class instead, `block_size` of a loss makes larger batches fit, `keras_ms.HDML` makes negatives.

    Args:
        embedder: built `keras.Model` with one output (batch, dimension), as of
            `keras_ms.build_embedder`. It is the part to deploy: export `model.embedder`.
        loss: loss of this library that is separable by anchor, such as
            `keras_ms.MultiSimilarityLoss`. Its reduction and dtype hold.
        memory_size: how many past embeddings to keep. The paper's best sizes are between some
            batches and the whole training set.
        warm_up_steps: training steps that only fill the memory and use the batch alone. Defaults
            to 0, which suits a head on a frozen backbone: on frozen Inception features of birds
            (CUB-200 2010, validation classes, two seeds) the best Recall@1 was 90.3 and 90.1 with
            0, 90.1 and 89.8 with 100. The paper takes 1000 for a whole network, whose embeddings
            drift fast at first.
        name: name of the model. Defaults to "cross_batch_memory".

    `compile` takes no loss. Losses that layers of the embedder add (regularisation) are added, and
    metrics get the labels and embeddings as in any model. Inputs and outputs are the embedder's;
    labels are as in `PairLoss`, exact to 64 bits across steps.

    Corner cases:
        - A batch larger than the memory leaves its last `memory_size` items there.
        - Items masked with a Keras mask and embeddings with a NaN or infinity take up a place in
          the memory, but are never compared. Items of sample weight 0 are candidates, as within
          the batch.
        - The memory belongs to the model's weights (non-trainable): a checkpoint holds it, and a
          resumed run goes on as if it had not been interrupted. `reset_memory` empties it, which
          is due when other weights are loaded into the embedder.
        - `model.export` writes the embedder. With mixed precision give `model.embedder` to the
          functions of `keras_ms.export`, which copy the model in float32.

    Raises:
        ValueError: a loss that is no pair-based loss of this library or takes the whole batch, an
            embedder that is not built or has another output, sizes out of range, a loss given to
            `compile`, or more than one replica under tf.distribute.

    Example:

    >>> embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = CrossBatchMemory(embedder, keras_ms.MultiSimilarityLoss(), memory_size=64)
    >>> model.compile("adam")
    >>> images, labels = np.random.rand(32, 8), np.repeat(np.arange(8), 4)
    >>> history = model.fit(images, labels, batch_size=16, verbose=0)
    >>> int(model.memory_keys[:, -1].numpy().sum())  # embeddings in the memory
    32
    """

    def __init__(
        self,
        embedder: keras.Model,
        loss: PairLoss,
        memory_size: int,
        warm_up_steps: int = 0,
        *,
        name: str = "cross_batch_memory",
    ):
        dimension = _embedding_size(embedder)
        _check_loss(loss)
        memory_size = whole_number("memory_size", memory_size)
        warm_up_steps = whole_number("warm_up_steps", warm_up_steps, least=0)
        # The embedder converts its own inputs: images need not be cast to float16 on the way.
        # With its policy, compile scales the loss of a float16 model.
        super().__init__(name=name, dtype=embedder.dtype_policy, autocast=False)
        _check_one_replica(getattr(self, "distribute_strategy", None))
        self.embedder = embedder
        self.loss = loss
        self.memory_size = memory_size
        self.warm_up_steps = warm_up_steps
        # Oldest first. Zeros are a key that is not valid: an empty place.
        self.memory_embeddings = self._memory("memory_embeddings", dimension)
        self.memory_keys = self._memory("memory_keys", KEY_LENGTH)
        self.steps = self.add_weight(
            # the backend's own integer: TensorFlow keeps int32 variables off the GPU, where XLA
            # could not read them
            name="steps",
            shape=(),
            dtype="int",
            initializer="zeros",
            trainable=False,
        )
        self.built = True

    def _memory(self, name, width):
        return self.add_weight(
            name=name,
            shape=(self.memory_size, width),
            dtype=self.loss.dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **options: Any
    ) -> None:
        """As `keras.Model.compile`, without a loss: it was given to the constructor."""
        if loss is not None:
            raise ValueError(
                f"The loss of {type(self).__name__} is its constructor argument `loss`; leave it "
                f"out of `compile`. Received: loss={loss!r}"
            )
        super().compile(optimizer, None, *args, **options)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras does this by itself only where `compile` is not overridden.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        if replicas.num_replicas() > 1:
            raise ValueError(_ONE_REPLICA)
        if not training:
            value = self.loss(y, y_pred, sample_weight)
        else:
            keys = self.loss.label_keys(y, y_pred)
            loss = _LossAgainstMemory(self.loss, self._memory_to_compare())
            value = loss(keys, cast_for_loss(y_pred, self.loss.dtype), sample_weight)
            self._remember(keys, y_pred)
        for added in self.losses:
            value = value + ops.cast(ops.sum(added), value.dtype)
        return value

    def reset_memory(self) -> None:
        """Empties the memory. The warm-up is not repeated."""
        self.memory_embeddings.assign(ops.zeros_like(self.memory_embeddings))
        self.memory_keys.assign(ops.zeros_like(self.memory_keys))

    def get_config(self) -> dict[str, Any]:
        return {
            "embedder": keras.saving.serialize_keras_object(self.embedder),
            "loss": keras.saving.serialize_keras_object(self.loss),
            "memory_size": self.memory_size,
            "warm_up_steps": self.warm_up_steps,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CrossBatchMemory":
        nested = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("embedder", "loss")
        }
        return cls(**{**config, **nested})

    def _memory_to_compare(self):
        keys = ops.convert_to_tensor(self.memory_keys)
        # One program serves warm-up and what follows: until then, nothing is valid.
        keys = valid_where(keys, self.steps >= self.warm_up_steps)
        return keys, ops.convert_to_tensor(self.memory_embeddings)

    def _remember(self, keys, embeddings):
        embeddings = ops.stop_gradient(ops.cast(embeddings, self.memory_embeddings.dtype))
        # 0 * NaN is NaN: even as a candidate that counts for nothing it would spoil the gradient
        finite = ops.all(ops.isfinite(embeddings), axis=-1)
        embeddings = ops.where(ops.expand_dims(finite, 1), embeddings, ops.zeros_like(embeddings))
        keys = valid_where(keys, finite)
        for memory, newest in ((self.memory_embeddings, embeddings), (self.memory_keys, keys)):
            # Shifting copies the memory as often as an indexed write does, once, and takes
            # batches of any size. The shape is lost where the batch size is not static.
            latest = ops.concatenate([memory, newest])[-self.memory_size :]
            memory.assign(ops.reshape(latest, memory.shape))
        self.steps.assign(self.steps + 1)


class _LossAgainstMemory(keras.losses.Loss):
    """A pair-based loss with a memory of further candidates; Keras weights and reduces it."""

    def __init__(self, loss, memory):
        super().__init__(name=loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self._loss = loss
        self._memory = memory

    def call(self, y_true, y_pred):
        return self._loss.per_anchor(y_true, y_pred, memory=self._memory)


_ONE_REPLICA = (
    "CrossBatchMemory works on one replica: each replica would fill a memory of its own. Build and "
    "fit it outside the scope of tf.distribute strategies of several replicas"
)


def _check_one_replica(strategy):
    if getattr(strategy, "num_replicas_in_sync", 1) > 1:
        raise ValueError(f"{_ONE_REPLICA}. Received: {strategy.num_replicas_in_sync} replicas")


def _embedding_size(embedder):
    if not isinstance(embedder, keras.Model):
        raise ValueError(f"Expected a keras.Model as `embedder`. Received: {embedder!r}")
    try:
        shape = embedder.output_shape
    except (AttributeError, ValueError):  # subclassed, or Sequential without an input
        raise ValueError(
            f"The size of the embeddings of {embedder.name!r} is not known. Give the embedder an "
            "input: keras.Model(image, embedder(image)) with image = keras.Input(shape)"
        ) from None
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[1], int):
        raise ValueError(
            f"Expected an `embedder` with one output (batch, dimension). Received: output {shape}"
        )
    return shape[1]


def _check_loss(loss):
    if not isinstance(loss, PairLoss):
        raise ValueError(
            "Expected `loss` to be a pair-based loss of keras_ms, such as "
            f"keras_ms.MultiSimilarityLoss(). Received: {loss!r}"
        )
    if loss.whole_batch:
        raise ValueError(loss.refusal("cross-batch memory"))
    if loss.block_size not in (None, "auto"):
        raise ValueError(
            "Expected a `loss` without `block_size`: a batch is compared with the whole memory at "
            f"once. Received: block_size={loss.block_size}. Leave it unset"
        )
    if loss.reduction in (None, "none"):
        raise ValueError(
            "Expected a `loss` whose reduction gives one number, such as 'sum_over_batch_size'. "
            f"Received: reduction={loss.reduction!r}"
        )
