"""The N-pair loss."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.whole_batch_weighting import (
    n_pair_scale,
    n_pair_shares,
    n_pair_weights,
    negative_log_sum_exp,
)
from keras_ms.pairs.closed_form import in_closed_form
from keras_ms.pairs.labels import label_codes
from keras_ms.pairs.mining import mine_all, mine_one_pair_per_class
from keras_ms.pairs.pairs import Pairs, pair_masks


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
    norms = ops.expand_dims(squared_norms, 1) + squared_norms
    of_pair = _of_pair(pairs) + 0.25 * regularization * norms
    kept = ops.where(pairs.positive, of_pair, ops.zeros_like(of_pair))
    return scale[:, 0] * ops.sum(kept, axis=-1)


@keras.saving.register_keras_serializable(package="keras_ms")
class NPairLoss(PairLoss):
    """Computes the N-pair loss, on embeddings that are not normalised.

    Use it to compare one positive with all negatives of an anchor at once, each weighted by its
    share in a softmax. The dot products have no bound, so the norms are held by an L2 term
    instead: the model must not end in an L2 normalisation, on which it hardly learns. Of a
    model of `keras_ms.build_embedder` train `keras_ms.without_normalization(embedder)`
    (`keras_ms.SupervisedContrastiveLoss` is the normalised relative).

    Reference: Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective,
    NeurIPS 2016, Eq. 6; batches here may hold more than two images of a class, each positive in
    turn being the one of the paper.

    Args:
        one_pair_per_class: whether only the first two items of each class take part, the one as
            anchor, the other as its positive and as negative of the other anchors: the batches of
            the paper, and a fraction of the time. Defaults to False, every item being an anchor,
            which uses all images of a balanced batch.
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

    def __init__(self, regularization=0.002, one_pair_per_class=False, name="n_pair", **options):
        if one_pair_per_class not in (True, False):
            raise ValueError(
                "Expected `one_pair_per_class` to be True or False. Received: "
                f"one_pair_per_class={one_pair_per_class!r}"
            )
        if not (math.isfinite(regularization) and regularization >= 0):
            raise ValueError(
                f"Expected `regularization` >= 0. Received: regularization={regularization}"
            )
        self.regularization = float(regularization)
        self.one_pair_per_class = bool(one_pair_per_class)
        super().__init__(
            pair_loss=partial(n_pair, regularization=self.regularization),
            weighting=partial(n_pair_weights, regularization=self.regularization),
            miner=mine_one_pair_per_class if self.one_pair_per_class else mine_all,
            whole_batch=_OnePairPerClass(self.regularization) if self.one_pair_per_class else True,
            normalize=False,
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "regularization": self.regularization,
            "one_pair_per_class": self.one_pair_per_class,
        }


class _OnePairPerClass:
    """The losses after `mine_one_pair_per_class`, of a matrix of classes instead of one of items.

    Args:
        regularization: as in `NPairLoss`.
    """

    def __init__(self, regularization):
        self.regularization = regularization

    def __call__(self, pairwise, rows, keys):
        first, second = pairwise.program(first_two_of_class, keys)
        if keras.backend.backend() == "jax":  # whose conditions take no gradients of our own
            return self._losses(pairwise, rows, first, second)
        # at most half of the batch, and a quarter in batches of four images a class: four times
        # fewer pairs, where XLA must know the size
        quarter = (ops.shape(rows)[0] + 3) // 4
        return ops.cond(
            ops.sum(ops.sign(second)) <= quarter,
            lambda: self._losses(pairwise, rows, first[:quarter], second[:quarter]),
            lambda: self._losses(pairwise, rows, first, second),
        )

    def _losses(self, pairwise, rows, first, second):
        anchors, positives = ops.take(rows, first, axis=0), ops.take(rows, second, axis=0)

        def losses_and_gradient(similarity):
            losses, weights = pairwise.program(_losses_and_weights, similarity, first, second)
            return losses, lambda upstream: ops.expand_dims(upstream, 1) * weights

        def gradient_again(similarity, upstream):
            _, weights = _losses_and_weights(similarity, first, second)
            return ops.expand_dims(upstream, 1) * weights

        similarity = ops.matmul(anchors, ops.transpose(positives))
        losses = in_closed_form(losses_and_gradient, similarity, gradient_again)
        norms = ops.sum(anchors * anchors + positives * positives, axis=-1)
        # an anchor without negatives has the loss 0, L2 term included
        counts = ops.logical_and(second > first, ops.sum(ops.sign(second)) > 1)
        losses = losses + 0.25 * self.regularization * ops.where(
            counts, norms, ops.zeros_like(norms)
        )
        # where no pair is left, `first` is 0 and the loss is 0
        return ops.scatter(ops.expand_dims(first, 1), losses, ops.shape(rows)[:1])


def first_two_of_class(keys):
    """The first two items of every class that has two.

    Args:
        keys: (batch, parts), as in `keras_ms.pairs.row_wise.Pairwise`.

    Returns:
        `(first, second)`, both (pairs,) int32, in the order of the first; `pairs` is half the
        batch, rounded up. Where there are fewer such classes, both are 0 at the end.
    """
    positive, _ = pair_masks(*label_codes(keys))
    size = ops.shape(keys)[0]
    index = ops.arange(size, dtype="int32")
    # of another item of the same class; for the first item of a class that is the second
    least = ops.min(ops.where(positive, index, size), axis=-1)
    is_first = ops.logical_and(index < least, least < size)
    order = ops.sort(ops.where(is_first, index, size))[: (size + 1) // 2]
    exists = order < size
    first = ops.where(exists, order, 0)
    return first, ops.where(exists, ops.take(least, first), 0)


def _losses_and_weights(similarity, first, second):
    exists, index = second > first, ops.arange(ops.shape(first)[0])
    both = ops.logical_and(ops.expand_dims(exists, 1), ops.expand_dims(exists, 0))
    own = ops.expand_dims(index, 1) == ops.expand_dims(index, 0)
    positive, negative = ops.logical_and(both, own), ops.logical_and(both, ops.logical_not(own))
    pairs = Pairs(similarity, positive, negative)
    scale = n_pair_scale(pairs)
    kept = ops.where(positive, _of_pair(pairs), ops.zeros_like(similarity))
    return scale[:, 0] * ops.sum(kept, axis=-1), scale * n_pair_shares(pairs)


def _of_pair(pairs):
    """log(1 + sum_N e^{S_in - S_ip}) of every pair (i, p)."""
    return ops.softplus(negative_log_sum_exp(pairs) - pairs.similarity)
