"""The formulas of hardness-aware deep metric learning (HDML), as pure functions.

Notation of the paper: y a backbone feature, z its embedding; "hat" is moved, "tilde" generated from
what was moved. Everything has a static shape, compiles under XLA and stays finite, gradients
included, wherever distances or averages are 0.

Reference: Zheng, Chen, Lu, Zhou: Hardness-Aware Deep Metric Learning, CVPR 2019.
"""

from typing import NamedTuple

from keras import ops

from keras_ms.arguments import Tensor

# exponent of a logit that does not count: e^-1e30 is 0, and no inf - inf can arise
_NEVER = -1e30

# official code: factor of the cross-entropy, a mean there, beside the error, a sum
CROSS_ENTROPY_FACTOR = 1e4


class Triplets(NamedTuple):
    """Which items of a batch are hardened: the negative is pulled toward the anchor until it is
    as near as the positive.

    anchor, positive, negative: (triplets,) int32, indices into the batch.
    valid: (triplets,) bool; where False, the triplet fills up a static shape and counts nowhere.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    valid: Tensor


def harden(anchor: Tensor, positive: Tensor, negative: Tensor, weight: float | Tensor) -> Tensor:
    """Pulls a negative toward its anchor, no nearer than the positive (the augmentor).

    With d+ = |z - z+| and d- = |z - z-|: if d- > d+,
    z^- = z + [weight d- + (1 - weight) d+] (z- - z) / d-, else z^- = z-.

    Args:
        anchor, positive, negative: (..., dimension), embeddings before L2 normalisation, of
            shapes that broadcast.
        weight: scalar in [0, 1], lambda: 1 leaves the negative where it is, 0 brings it to the
            distance of the positive.

    Returns:
        (..., dimension). Where the anchor, the positive or the negative coincide, value and
        gradient are finite: a negative on its anchor stays there.
    """
    offset = negative - anchor
    to_positive, to_negative = _length(positive - anchor), _length(offset)
    farther = to_negative > to_positive
    # inner where: no division by 0, whose derivative would reach the gradient as 0 * inf
    divisor = ops.where(farther, to_negative, ops.ones_like(to_negative))
    length = weight * to_negative + (1 - weight) * to_positive
    return ops.where(farther, anchor + length / divisor * offset, negative)


def hardness_weight(alpha: float, average_metric_loss: Tensor) -> Tensor:
    """lambda = e^{-alpha / J_avg}: near 1 while the metric loss is large, towards 0 as it falls.

    Args:
        alpha: float >= 0, in units of the metric loss; 0 never hardens.
        average_metric_loss: scalar, J_avg.

    Returns:
        Scalar in [0, 1]. 0 for a J_avg of 0 or less, 1 for infinity, and 1 for NaN: what is not
        known makes nothing harder.
    """
    return _exponential_of_ratio(alpha, average_metric_loss)


def real_share(beta: float, generator_loss: Tensor) -> Tensor:
    """e^{-beta / J_gen}: how much the real tuples count; the synthetic ones count 1 minus that.

    Args:
        beta: float >= 0, in units of the generator loss; 0 trains on real tuples alone.
        generator_loss: scalar, the average J_gen so far.

    Returns:
        Scalar in [0, 1]. 0 for a J_gen of 0 or less, 1 for infinity, and 1 for NaN: a broken
        generator is not trusted.
    """
    return _exponential_of_ratio(beta, generator_loss)


def _exponential_of_ratio(scale, value):
    value = ops.convert_to_tensor(value)
    one = ops.ones_like(value)
    positive = value > 0
    share = ops.exp(-scale / ops.where(positive, value, one))
    at_zero = ops.zeros_like(value) if scale > 0 else one
    return ops.where(positive, share, ops.where(ops.isnan(value), one, at_zero))


def cross_entropy(logits: Tensor, own: Tensor) -> Tensor:
    """Softmax cross-entropy of every row.

    Args:
        logits: (rows, classes).
        own: (rows, classes) bool, one True a row.

    Returns:
        (rows,). NaN, with a finite gradient, for a row without its class: no error can be raised
        inside a compiled step, and NaN is seen.
    """
    of_own = ops.sum(ops.where(own, logits, ops.zeros_like(logits)), axis=-1)
    values = ops.logsumexp(logits, axis=-1) - of_own
    return ops.where(ops.any(own, axis=-1), values, ops.full_like(values, float("nan")))


def generator_loss(
    features: Tensor,
    reconstructed: Tensor,
    label_loss: Tensor,
    lambda_g: float = 0.5,
    official: bool = False,
) -> Tensor:
    """J_gen: what the generator is trained on, to preserve features and labels.

    Paper: sum (y - y')^2 + lambda_g J_soft, with J_soft the sum of the cross-entropies of the
    synthetic features. Official code: (1 - lambda_g) sum (y - y')^2 + 1e4 lambda_g J_soft, with
    J_soft a mean, or a sum of means.

    Args:
        features: (batch, channels), y.
        reconstructed: (batch, channels), y', generated from the embeddings of `features`.
        label_loss: scalar, J_soft.
        lambda_g: weight of the labels. Defaults to 0.5, the paper's.
        official: whether to weigh as the official code does.

    Returns:
        Scalar.
    """
    error = ops.sum(ops.square(features - reconstructed))
    if official:
        return (1 - lambda_g) * error + CROSS_ENTROPY_FACTOR * lambda_g * label_loss
    return error + lambda_g * label_loss


def n_pair_cross_entropy(similarity: Tensor, valid: Tensor) -> Tensor:
    """The N-pair loss of one pair a class, from dot products: mean over the classes i of
    log(1 + sum_{j != i} e^{S_ij - S_ii}).

    Args:
        similarity: (classes, classes), of anchor i with the positive of class j.
        valid: (classes,) bool, which of the classes exist.

    Returns:
        Scalar, 0 where no class exists.
    """
    of_existing = ops.where(valid, similarity, ops.full_like(similarity, _NEVER))
    values = ops.logsumexp(of_existing, axis=-1) - ops.diagonal(similarity)
    return masked_mean(values, valid)


def triplet_sum(
    anchor: Tensor, positive: Tensor, negative: Tensor, valid: Tensor, margin: float = 1.0
) -> Tensor:
    """Sum over the triplets of [|z - z+|^2 - |z - z-|^2 + margin]+, on unnormalised embeddings.

    Args:
        anchor, positive, negative: (triplets, dimension).
        valid: (triplets,) bool.
        margin: in squared distance. Defaults to 1, the official code's.

    Returns:
        Scalar.
    """
    difference = squared_length(positive - anchor) - squared_length(negative - anchor)
    violations = ops.relu(difference + margin)
    return ops.sum(ops.where(valid, violations, ops.zeros_like(violations)))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the entries where `mask` holds; 0 where there are none."""
    number = ops.sum(ops.cast(mask, values.dtype))
    total = ops.sum(ops.where(mask, values, ops.zeros_like(values)))
    return total / ops.maximum(number, ops.ones_like(number))


def squared_length(rows: Tensor) -> Tensor:
    """(..., dimension) -> (...,)."""
    return ops.sum(ops.square(rows), axis=-1)


def _length(rows):
    """(..., dimension) -> (..., 1); the gradient at 0 is 0."""
    squared = ops.expand_dims(squared_length(rows), -1)
    positive = squared > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, squared, ops.ones_like(squared))), 0.0)
