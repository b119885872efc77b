"""MinedAnchors: how many anchors still have something to learn from."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import check_embeddings
from keras_ms.pairs import replicas
from keras_ms.pairs.keras_mask import mask_of
from keras_ms.pairs.labels import are_valid, label_keys
from keras_ms.pairs.large_batches import BLOCK, BLOCKS_FROM
from keras_ms.pairs.mining import mine_all, mine_multi_similarity
from keras_ms.pairs.pairs import has_pair
from keras_ms.pairs.pairwise import Pairwise
from keras_ms.pairs.unit_vectors import normalised_rows


@keras.saving.register_keras_serializable(package="keras_ms")
class MinedAnchors(keras.metrics.Metric):
    """Computes the share of anchors that have at least one mined pair.

    Watch it beside the loss: it falls from near 1 as training separates the classes. A share of
    0 means that the loss and its gradient are exactly 0, because no batch holds two images of a
    class and another class, or because everything is separated by more than the mining margin.

    Reference: the miner is that of Wang et al., Multi-Similarity Loss with General Pair Weighting
    for Deep Metric Learning, CVPR 2019, Eqs 11 and 12.

    Relations: a metric, of the batches that are trained on, without a further pass;
    `keras_ms.PairStatistics` counts pairs by the miner of any loss, in a pass of its own, and
    `keras_ms.ExplainZeroLoss` warns when this is 0. Whether unseen classes are found only
    `keras_ms.RecallAtK` says.

    Args:
        epsilon: mining margin, the same as the loss's: cosine similarity >= 0, or None to count
            every pair. Defaults to 0.1, as in `keras_ms.MultiSimilarityLoss`.
        name: name of the metric. Defaults to `"mined_anchors"`.
        dtype: dtype of the two counters. Defaults to `"float32"`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype.
        sample_weight: ignored: an anchor counts as one. Items that a Keras mask of the
            embeddings leaves out are not counted.

    Under tf.distribute the pairs are those of the global batch, as in the losses.

    Result:
        A share from 0 to 1 over the batches since the last reset (Keras resets every epoch); 0
        before the first batch.

    Raises:
        ValueError: an epsilon below 0, labels that are not integer ids.

    Example:

    >>> metric = MinedAnchors()
    >>> metric.update_state([0, 0, 1], [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]])
    >>> round(float(metric.result()), 4)  # only the second item has a negative that near
    0.3333

    `model.compile(optimizer, loss=keras_ms.MultiSimilarityLoss(), metrics=[MinedAnchors()])`
    """

    def __init__(
        self, epsilon: float | None = 0.1, name: str = "mined_anchors", *, dtype: str = "float32"
    ):
        if epsilon is not None:
            epsilon = real_number("epsilon", epsilon, least=0, reason="or None to count every pair")
        super().__init__(name=name, dtype=dtype)
        self.epsilon = epsilon
        mine = mine_all if epsilon is None else partial(mine_multi_similarity, epsilon=epsilon)
        self._pairwise = Pairwise(
            _one_where_mined, _no_weights, mine, compiled=False, block_size=BLOCK
        )
        self.mined = self.add_weight(shape=(), initializer="zeros", name="mined")
        self.anchors = self.add_weight(shape=(), initializer="zeros", name="anchors")

    def update_state(self, y_true: Any, y_pred: Tensor, sample_weight: Any = None) -> None:
        mask = mask_of(y_pred)
        embeddings = ops.convert_to_tensor(y_pred)
        check_embeddings(embeddings)
        if replicas.is_empty_batch(embeddings):
            return
        keys = label_keys(y_true, embeddings=embeddings, mask=mask)
        unit_rows = normalised_rows(ops.cast(embeddings, "float32"))

        if replicas.num_replicas() > 1:
            batch = replicas.gather(unit_rows, keys)
            mined = self._pairwise.losses_without_gradient(
                unit_rows, keys, batch.embeddings, batch.keys, batch.offset
            )
        elif unit_rows.shape[0] is not None and unit_rows.shape[0] >= BLOCKS_FROM:
            mined = self._pairwise.losses_in_blocks_without_gradient(unit_rows, keys)
        else:
            mined = self._pairwise.losses_without_gradient(unit_rows, keys, unit_rows, keys, 0)
        self.mined.assign_add(ops.sum(ops.cast(mined, self.dtype)))
        self.anchors.assign_add(ops.sum(ops.cast(are_valid(keys), self.dtype)))

    def result(self) -> Tensor:
        return ops.divide_no_nan(self.mined, self.anchors)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


def _no_weights(pairs):
    """A count has no derivative."""
    return ops.zeros_like(pairs.similarity)


def _one_where_mined(pairs):
    return ops.cast(has_pair(pairs), pairs.similarity.dtype)
