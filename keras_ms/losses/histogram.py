"""The histogram loss."""

from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.whole_batch_weighting import has_pair, histogram_weights, histograms


def histogram(pairs, num_steps=101):
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


@keras.saving.register_keras_serializable(package="keras_ms")
class HistogramLoss(PairLoss):
    """Computes the histogram loss.

    Use it to train without a margin or a scale to tune: it estimates the distributions of the
    similarities of positive and of negative pairs of the batch and makes them overlap less. A
    batch must hold enough pairs to estimate them.

    Reference: Ustinova, Lempitsky: Learning Deep Embeddings with Histogram Loss, NeurIPS 2016,
    Eqs 1 to 6.

    Args:
        num_steps: number of nodes of the histograms from -1 to 1, both included (R in the paper),
            at least 2. Defaults to 101, nodes 0.02 apart: finer ones leave nodes without a
            positive pair in a batch of 80, and negatives there without a gradient; the paper
            finds results to depend on it little.
        name, **options: `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - The loss belongs to the batch: every item's value is the same, from 0 to 1, and its mean
          is the loss. Sample weights multiply the batch's loss by their mean; they do not weight
          pairs.
        - A batch without a positive or without a negative pair has the loss 0.
        - A similarity exactly on a node counts to the step above it.
        - In float32 a similarity is exact to 1e-7, which is 5e-6 of a step of 0.02: a loss of few
          pairs has that relative error.
        - An item is left out of its own pairs by index: an exact duplicate is an ordinary
          positive.
        - Items masked with a Keras mask take part in no pair, and their value is 0.
        - An embedding with a NaN or infinity makes the loss NaN.
        - It takes the batch as a whole: no `block_size`, no cross-batch memory.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.HistogramLoss(num_steps=5)
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.535898

    `model.compile(optimizer, loss=keras_ms.HistogramLoss())`
    """

    def __init__(self, num_steps=101, name="histogram", **options):
        if int(num_steps) != num_steps or num_steps < 2:
            raise ValueError(
                "Expected `num_steps`, the number of histogram nodes, to be a whole number of at "
                f"least 2. Received: num_steps={num_steps}"
            )
        self.num_steps = int(num_steps)
        super().__init__(
            pair_loss=partial(histogram, num_steps=self.num_steps),
            weighting=partial(histogram_weights, num_steps=self.num_steps),
            whole_batch=True,
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {**super().get_config(), "num_steps": self.num_steps}
