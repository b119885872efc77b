"""The N-pair loss."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.closed_form import in_closed_form
from keras_ms.pairs.mining import mine_all, mine_one_pair_per_class
from keras_ms.pairs.pairs import Pairs, pair_masks
from keras_ms.pairs.reductions import column_numbers, num_pairs


def n_pair(pairs: Pairs, regularization: float = 0.002) -> Tensor:
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
    scale = _scale(pairs)
    squared_norms = ops.diagonal(pairs.similarity)
    norms = ops.expand_dims(squared_norms, 1) + squared_norms
    of_pair = _of_pair(pairs) + 0.25 * regularization * norms
    kept = ops.where(pairs.positive, of_pair, ops.zeros_like(of_pair))
    return scale[:, 0] * ops.sum(kept, axis=-1)


def n_pair_weights(pairs: Pairs, upstream: Tensor, regularization: float = 0.002) -> Tensor:
    """Pair weights of the N-pair loss with its L2 term, signed off the diagonal.

    With q_pn = e^{S_in - S_ip} / (1 + sum_k e^{S_ik - S_ip}): on a negative 1/|P_i| sum_P q_pn,
    on a positive -1/|P_i| sum_N q_pn. On the diagonal, which holds the squared norms, what the L2
    terms of all anchors give.

    Reference: that of `keras_ms.NPairLoss`.

    Args:
        pairs: Pairs, the dot products of the batch with itself.
        upstream: (anchors,), what each anchor's loss is multiplied by.
        regularization: as in `keras_ms.NPairLoss`.

    Returns:
        (anchors, anchors), same dtype as the similarities.

    Example:

    >>> embeddings = np.array([[1.0, 0.0], [0.866, 0.5], [0.5, 0.866]], "float32")
    >>> labels = np.array([0, 0, 1])
    >>> same = labels[:, None] == labels
    >>> positive = same & ~np.eye(3, dtype=bool)  # no item is its own
    >>> pairs = keras_ms.pairs.Pairs(embeddings @ embeddings.T, positive, ~same)
    >>> np.array(n_pair_weights(pairs, np.ones(3, "float32"))).round(2) + 0  # + 0: no -0
    array([[ 0.  , -0.41,  0.41],
           [-0.5 ,  0.  ,  0.5 ],
           [ 0.  ,  0.  ,  0.  ]], dtype=float32)
    """
    scale = _scale(pairs) * ops.expand_dims(upstream, 1)
    zero = ops.zeros_like(pairs.similarity)
    own = scale[:, 0] * ops.sum(ops.cast(pairs.positive, scale.dtype), axis=-1)
    as_positive = ops.sum(ops.where(pairs.positive, scale, zero), axis=0)
    norms = 0.25 * regularization * (own + as_positive)
    diagonal = ops.where(_diagonal(pairs.similarity), norms, zero)
    return scale * _shares(pairs) + diagonal


def _scale(pairs):
    """1/|P_i|, and 0 for an anchor without a positive or without a negative; (anchors, 1)."""
    number = num_pairs(pairs.positive, pairs.similarity.dtype)
    has_negative = ops.any(pairs.negative, axis=-1, keepdims=True)
    one = ops.ones_like(number)
    usable = ops.logical_and(number > 0, has_negative)
    return ops.where(usable, one / ops.maximum(number, one), ops.zeros_like(one))


def _shares(pairs):
    """Of every anchor, the sum over its positives of q_pn on negatives, and minus the sum over its
    negatives on positives; (anchors, candidates)."""
    similarity, total = pairs.similarity, _negative_log_sum_exp(pairs)
    zero = ops.zeros_like(similarity)
    # sum_N q_pn = e^total / (e^{S_ip} + e^total), and q_pn is the share of e^{S_in} in it
    pull = ops.where(pairs.positive, ops.sigmoid(total - similarity), zero)
    share = ops.exp(ops.where(pairs.negative, similarity - total, zero))
    push = ops.where(pairs.negative, share, zero) * ops.sum(pull, axis=-1, keepdims=True)
    return push - pull


def _negative_log_sum_exp(pairs):
    """log(sum over the negatives of e^similarity), (anchors, 1); for an anchor without negatives
    some finite number."""
    similarity = pairs.similarity
    least = ops.min(similarity, axis=-1, keepdims=True)
    # over negatives only: no other entry sets the scale of dot products of any size
    largest = ops.max(ops.where(pairs.negative, similarity, least), axis=-1, keepdims=True)
    shifted = ops.where(pairs.negative, similarity - largest, ops.zeros_like(similarity))
    terms = ops.where(pairs.negative, ops.exp(shifted), ops.zeros_like(shifted))
    total = ops.sum(terms, axis=-1, keepdims=True)
    return largest + ops.log(ops.where(total > 0, total, ops.ones_like(total)))


def _of_pair(pairs):
    """log(1 + sum_N e^{S_in - S_ip}) of every pair (i, p)."""
    return ops.softplus(_negative_log_sum_exp(pairs) - pairs.similarity)


def _diagonal(matrix):
    columns = column_numbers(matrix)
    return columns == ops.transpose(columns)


@keras.saving.register_keras_serializable(package="keras_ms")
class NPairLoss(PairLoss):
    """Computes the N-pair loss, on embeddings that are not normalised.

    Use it to compare one positive with all negatives of an anchor at once, each weighted by its
    share in a softmax. The dot products have no bound, so the norms are held by an L2 term
    instead: the model must not end in an L2 normalisation, on which it hardly learns. Of a
    model of `keras_ms.build_embedder` train `keras_ms.without_normalization(embedder)`. A
    pretrained one that is trained whole begins better with short embeddings,
    `keras_ms.initialize_head(…, squared_norm=10)`: where products are in the hundreds the softmax
    sees one negative alone, and recall falls.

    Reference: Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective,
    NeurIPS 2016, Eq. 6; batches here may hold more than two images of a class, each positive in
    turn being the one of the paper.

    Relations: `SupervisedContrastiveLoss` is the normalised relative, whose softmax holds the
    positives too; `AngularLoss` looks at the similarity of positive and negative as well.

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

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.NPairLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.407312

    `model.compile(optimizer, loss=keras_ms.NPairLoss())`
    """

    def __init__(
        self,
        regularization: float = 0.002,
        one_pair_per_class: bool = False,
        *,
        name: str = "n_pair",
        **options: Any,
    ):
        if one_pair_per_class not in (True, False):
            raise ValueError(
                "Expected `one_pair_per_class` to be True or False. Received: "
                f"one_pair_per_class={one_pair_per_class!r}"
            )
        self.regularization = real_number("regularization", regularization, least=0)
        self.one_pair_per_class = bool(one_pair_per_class)
        settings = {
            "regularization": self.regularization,
            "one_pair_per_class": self.one_pair_per_class,
        }
        super().__init__(
            pair_loss=partial(n_pair, regularization=self.regularization),
            weighting=partial(n_pair_weights, regularization=self.regularization),
            miner=mine_one_pair_per_class if self.one_pair_per_class else mine_all,
            whole_batch=True,
            faster_losses=(
                partial(_losses_of_two_per_class, regularization=self.regularization)
                if self.one_pair_per_class
                else None
            ),
            normalize=False,
            name=name,
            **checked_options(self, settings, options),
        )


def first_two_of_class(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The first two items of every class that has two.

    Args:
        keys: (batch, 5), label keys.

    Returns:
        `(first, second)`, both (pairs,) int32, in the order of the first; `pairs` is half the
        batch, rounded up. Where there are fewer such classes, both are 0 at the end.
    """
    positive, _ = pair_masks(keys)
    size = ops.shape(keys)[0]
    index = ops.arange(size, dtype="int32")
    # of another item of the same class; for the first item of a class that is the second
    least = ops.min(ops.where(positive, index, size), axis=-1)
    is_first = ops.logical_and(index < least, least < size)
    order = ops.sort(ops.where(is_first, index, size))[: (size + 1) // 2]
    exists = order < size
    first = ops.where(exists, order, 0)
    return first, ops.where(exists, ops.take(least, first), 0)


def _losses_of_two_per_class(pairwise, rows, keys, regularization):
    """The losses after `mine_one_pair_per_class`, of a matrix of classes, not items."""
    first, second = pairwise.program(first_two_of_class, keys)
    losses_of = partial(_losses_of_classes, pairwise, rows, regularization=regularization)
    if keras.backend.backend() == "jax":  # whose conditions take no gradients of our own
        return losses_of(first, second)
    # at most half of the batch, and a quarter in batches of four images a class: four times
    # fewer pairs, where XLA must know the size
    quarter = (ops.shape(rows)[0] + 3) // 4
    return ops.cond(
        ops.sum(ops.sign(second)) <= quarter,
        lambda: losses_of(first[:quarter], second[:quarter]),
        lambda: losses_of(first, second),
    )


def _losses_of_classes(pairwise, rows, first, second, regularization):
    anchors, positives = ops.take(rows, first, axis=0), ops.take(rows, second, axis=0)

    def losses_and_gradient(similarity):
        losses, weights = pairwise.program(_losses_and_weights, similarity, first, second)
        return losses, lambda upstream: ops.expand_dims(upstream, 1) * weights

    def differentiable_gradient(similarity, upstream):
        _, weights = _losses_and_weights(similarity, first, second)
        return ops.expand_dims(upstream, 1) * weights

    similarity = ops.matmul(anchors, ops.transpose(positives))
    losses = in_closed_form(losses_and_gradient, similarity, differentiable_gradient)
    norms = ops.sum(anchors * anchors + positives * positives, axis=-1)
    # an anchor without negatives has the loss 0, L2 term included
    counts = ops.logical_and(second > first, ops.sum(ops.sign(second)) > 1)
    losses = losses + 0.25 * regularization * ops.where(counts, norms, ops.zeros_like(norms))
    # where no pair is left, `first` is 0 and the loss is 0
    return ops.scatter(ops.expand_dims(first, 1), losses, ops.shape(rows)[:1])


def _losses_and_weights(similarity, first, second):
    exists, index = second > first, ops.arange(ops.shape(first)[0])
    both = ops.logical_and(ops.expand_dims(exists, 1), ops.expand_dims(exists, 0))
    own = ops.expand_dims(index, 1) == ops.expand_dims(index, 0)
    positive, negative = ops.logical_and(both, own), ops.logical_and(both, ops.logical_not(own))
    pairs = Pairs(similarity, positive, negative)
    scale = _scale(pairs)
    kept = ops.where(positive, _of_pair(pairs), ops.zeros_like(similarity))
    return scale[:, 0] * ops.sum(kept, axis=-1), scale * _shares(pairs)
