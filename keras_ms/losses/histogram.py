"""The histogram loss."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, whole_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import Pairs, has_pair, is_pair


def histogram(pairs: Pairs, num_steps: int = 101) -> Tensor:
    """Histogram loss of the batch, in the row of every item.

    L = sum_r h-_r (h+_1 + ... + h+_r): the probability, as the two histograms estimate it, that a
    random negative pair is more similar than a random positive pair.

    Args:
        pairs: Pairs of a batch with itself.
        num_steps: as in `HistogramLoss`.

    Returns:
        (anchors,), same dtype as the similarities: the same number for every item that has a
        pair, 0 for the others; all 0 for a batch without positive or without negative pairs.
    """
    positive, negative, _, _ = histograms(pairs, num_steps)
    loss = ops.sum(negative * ops.cumsum(positive))
    return ops.where(has_pair(pairs), loss, ops.zeros_like(loss))


def histogram_weights(pairs: Pairs, upstream: Tensor, num_steps: int = 101) -> Tensor:
    """Pair weights of the histogram loss, signed.

    With h- and h+ the two histograms and Delta the distance of their nodes, a similarity between
    nodes r and r + 1 weighs h+_{r+1} / (Delta |S-|) as a negative and -h-_r / (Delta |S+|) as a
    positive: the mass that it moves from r to r + 1 per unit, times what that mass meets there.
    Every item's row holds the loss of the batch, so all weights are multiplied by the sum of
    `upstream` over the items that have a pair.

    Reference: that of `keras_ms.HistogramLoss`.

    Args:
        pairs: Pairs of a batch with itself.
        upstream: (anchors,), what each anchor's loss is multiplied by.
        num_steps: as in `keras_ms.HistogramLoss`.

    Returns:
        (anchors, anchors), same dtype as the similarities.

    Example:

    >>> embeddings = np.array([[1.0, 0.0], [0.866, 0.5], [0.5, 0.866]], "float32")
    >>> labels = np.array([0, 0, 1])
    >>> same = labels[:, None] == labels
    >>> positive = same & ~np.eye(3, dtype=bool)  # no item is its own
    >>> pairs = keras_ms.pairs.Pairs(embeddings @ embeddings.T, positive, ~same)
    >>> np.array(histogram_weights(pairs, np.ones(3, "float32"))).round(2) + 0  # + 0: no -0
    array([[  0.  , -26.25,   0.  ],
           [-26.25,   0.  ,  11.25],
           [  0.  ,  11.25,   0.  ]], dtype=float32)
    """
    positive_share, negative_share, num_positives, num_negatives = histograms(pairs, num_steps)
    node, _ = histogram_position(pairs.similarity, num_steps)
    per_step = (num_steps - 1) / 2
    one = ops.ones_like(num_positives)
    up = positive_share[1:] * (per_step / ops.maximum(num_negatives, one))
    down = negative_share[:-1] * (per_step / ops.maximum(num_positives, one))
    total = ops.sum(upstream * ops.cast(has_pair(pairs), upstream.dtype))
    # one look-up for both kinds: first the steps of the positives, then those of the negatives
    table = total * ops.concatenate([-down, up])
    weights = ops.take(table, ops.where(pairs.positive, node, node + (num_steps - 1)))
    return ops.where(is_pair(pairs), weights, ops.zeros_like(weights))


def histograms(pairs: Pairs, num_steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two histograms of similarities on `num_steps` nodes from -1 to 1.

    Each similarity shares its mass between its two neighbouring nodes, linearly.

    Returns:
        `(positive, negative, num_positives, num_negatives)`: shares of mass, (num_steps,) each,
        which sum to 1, or are 0 for a batch without such pairs; and the numbers of pairs,
        scalars of the same dtype.
    """
    node, fraction = histogram_position(pairs.similarity, num_steps)
    rows = ops.shape(node)[0]
    # A histogram per row first: a sum of millions of numbers in one place would lose its last
    # digits. In a row come the nodes of the positives, of the negatives, of what is no pair.
    kind = ops.where(pairs.positive, 0, ops.where(pairs.negative, 1, 2))
    place = (3 * ops.expand_dims(ops.arange(rows, dtype="int32"), 1) + kind) * num_steps + node
    place, fraction = ops.reshape(place, (-1,)), ops.reshape(fraction, (-1,))
    lower = ops.segment_sum(1 - fraction, place, num_segments=3 * rows * num_steps)
    upper = ops.segment_sum(fraction, place + 1, num_segments=3 * rows * num_steps)
    masses = ops.sum(ops.reshape(lower + upper, (rows, 3, num_steps)), axis=0)
    # counted, where summing the masses would round
    numbers = [
        ops.sum(ops.sum(ops.cast(mask, masses.dtype), axis=-1))
        for mask in (pairs.positive, pairs.negative)
    ]
    shares = [masses[i] / ops.maximum(n, ops.ones_like(n)) for i, n in enumerate(numbers)]
    return (*shares, *numbers)


def histogram_position(similarity: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """The node below each similarity (int32) and how far it is on its way to the next, 0 to 1.

    A similarity beyond -1 or 1, which only rounding makes, counts as -1 or 1. That of a broken
    embedding, NaN, counts as 0: no node has its number.
    """
    similarity = ops.where(ops.isnan(similarity), ops.zeros_like(similarity), similarity)
    steps = (ops.clip(similarity, -1.0, 1.0) + 1) * ((num_steps - 1) / 2)
    # the last node belongs to the last step; a NaN, whose cast is any number, gets some node
    node = ops.clip(ops.cast(ops.floor(steps), "int32"), 0, num_steps - 2)
    return node, steps - ops.cast(node, steps.dtype)


@keras.saving.register_keras_serializable(package="keras_ms")
class HistogramLoss(PairLoss):
    """Computes the histogram loss.

    Use it to train without a margin or a scale to tune: it estimates the distributions of the
    similarities of positive and of negative pairs of the batch and makes them overlap less. A
    batch must hold enough pairs to estimate them.

    Reference: Ustinova, Lempitsky: Learning Deep Embeddings with Histogram Loss, NeurIPS 2016,
    Eqs 1 to 6.

    Relations: no other loss here has no margin, scale or threshold; it looks at pairs of all
    anchors together, where `LiftedStructureLoss` and the rest weigh those of one.

    Args:
        num_steps: number of nodes of the histograms from -1 to 1, both included (R in the paper),
            at least 2. Defaults to 101, nodes 0.02 apart: finer ones leave nodes without a
            positive pair in a batch of 80, and negatives there without a gradient; the paper
            finds results to depend on it little.
        name, **options: `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - The loss belongs to the batch: every item's value is the same, from 0 to 1, and its mean
          is the loss. Sample weights multiply the batch's loss by their mean; they do not weight
          pairs.
        - A batch without a positive or without a negative pair has the loss 0.
        - A similarity exactly on a node counts to the step above it.
        - In float32 a similarity is exact to 1e-7, which is 5e-6 of a step of 0.02: a loss of few
          pairs has that relative error.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.HistogramLoss(num_steps=5)
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.535898

    `model.compile(optimizer, loss=keras_ms.HistogramLoss())`
    """

    def __init__(self, num_steps: int = 101, *, name: str = "histogram", **options: Any):
        self.num_steps = whole_number("num_steps", num_steps, least=2)
        super().__init__(
            pair_loss=partial(histogram, num_steps=self.num_steps),
            weighting=partial(histogram_weights, num_steps=self.num_steps),
            whole_batch=True,
            name=name,
            **checked_options(self, {"num_steps": self.num_steps}, options),
        )
