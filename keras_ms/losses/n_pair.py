"""The N-pair loss."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss
from keras_ms.whole_batch_weighting import n_pair_scale, n_pair_weights, negative_log_sum_exp


def n_pair(pairs, regularization=0.002):
    """N-pair loss of every anchor, with its L2 term.

    L_i = 1/|P_i| sum_P log(1 + sum_N e^{S_in - S_ip})
        + regularization/4 (S_ii + 1/|P_i| sum_P S_pp)

    The first term is softplus(log(sum_N e^{S_in}) - S_ip), so no triplet is listed.

    Args:
        pairs: Pairs of a batch with itself, similarity being the dot product.
        regularization: as in `NPairLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without a positive or without
        a negative.
    """
    scale = n_pair_scale(pairs)
    squared_norms = ops.diagonal(pairs.similarity)
    of_pair = ops.softplus(negative_log_sum_exp(pairs) - pairs.similarity)
    of_pair = of_pair + 0.25 * regularization * (ops.expand_dims(squared_norms, 1) + squared_norms)
    kept = ops.where(pairs.positive, of_pair, ops.zeros_like(of_pair))
    return scale[:, 0] * ops.sum(kept, axis=-1)


@keras.saving.register_keras_serializable(package="keras_ms")
class NPairLoss(PairLoss):
    """Computes the N-pair loss, on embeddings that are not normalised.

    Use it to compare one positive with all negatives of an anchor at once, each weighted by its
    share in a softmax. The dot products have no bound, so the norms are held by an L2 term
    instead: the model must not end in an L2 normalisation
    (`keras_ms.SupervisedContrastiveLoss` is the normalised relative).

    Reference: Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective,
    NeurIPS 2016, Eq. 6; batches here may hold more than two images of a class, each positive in
    turn being the one of the paper.

    Args:
        regularization: factor of the L2 term, a quarter of which multiplies the squared norm of
            the anchor plus the mean squared norm of its positives; >= 0. Defaults to 0.002, as in
            TensorFlow 1's `npairs_loss`, whose term this is.
        name, **options: `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype, of any length as long as a
            squared norm is a finite number of the loss's dtype.

    Corner cases:
        - An anchor without a positive or without a negative has the loss 0, L2 term included. The
          mean is over all anchors of the batch nevertheless.
        - The anchor itself is left out by index: an exact duplicate is an ordinary positive.
        - Items masked with a Keras mask are neither anchors nor candidates.
        - An embedding with a NaN or infinity makes the loss NaN.
        - It takes the batch as a whole: no `block_size`, no cross-batch memory.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.NPairLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.407312

    `model.compile(optimizer, loss=keras_ms.NPairLoss())`
    """

    def __init__(self, regularization=0.002, name="n_pair", **options):
        if not (math.isfinite(regularization) and regularization >= 0):
            raise ValueError(
                f"Expected `regularization` >= 0. Received: regularization={regularization}"
            )
        self.regularization = float(regularization)
        super().__init__(
            pair_loss=partial(n_pair, regularization=self.regularization),
            weighting=partial(n_pair_weights, regularization=self.regularization),
            whole_batch=True,
            normalize=False,
            name=name,
            **options,
        )

    def get_config(self):
        return {**super().get_config(), "regularization": self.regularization}
