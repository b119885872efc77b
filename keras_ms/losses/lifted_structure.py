"""The lifted structure loss, one-sided (General Pair Weighting's form) and as first published."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.pairs import Pairs, has_pair, log_sums_exp, signed
from keras_ms.pairs.reductions import LOG_OF_ZERO, log_add
from keras_ms.pairs.row_wise import RowForm, RowLoss, RowParts, RowWise
from keras_ms.pairs.unit_vectors import distances


@RowLoss
def lifted_structure(threshold: float = 1.0) -> RowParts:
    """The one-sided lifted structure loss of every anchor. Call it with Pairs after mining.

    L_i = [log sum_P e^{threshold - S_ik} + log sum_N e^{S_ik}]+

    Args:
        threshold: as in `LiftedStructureLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without positives or without
        negatives.
    """

    def value(positive_total, negative_total):
        return ops.relu(positive_total + negative_total)

    return RowParts(*_totals(threshold), value)


@keras.saving.register_keras_serializable(package="keras_ms")
@RowWise
def lifted_structure_weights(threshold: float = 1.0) -> RowForm:
    """Pair weights of the lifted structure loss in its one-sided form, signed. Call it with Pairs
    after mining.

    On a negative of an anchor whose loss is above 0: 1 / sum_N e^{S_ik - S_ij}, a softmax over
    the negatives; on a positive: -1 / sum_P e^{S_ij - S_ik}.

    Reference: that of `keras_ms.LiftedStructureLoss`.

    Args:
        pairs: Pairs, the one argument without a keyword.
        threshold: as in `LiftedStructureLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities; each kind sums to 1 or 0 in a row.

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(lifted_structure_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[-0.43, -0.57,  0.65,  0.35]], dtype=float32)
    """

    def totals_of_active(positive_total, negative_total):
        active = positive_total + negative_total > 0
        # a total beyond all bounds makes every share of it 0
        never = ops.full_like(positive_total, -LOG_OF_ZERO)
        return (
            ops.where(active, positive_total, never),
            ops.where(active, negative_total, never),
        )

    def weights(pairs, positive_total, negative_total):
        exponents = _exponents(pairs, threshold)
        total = ops.where(pairs.positive, positive_total, negative_total)
        return signed(pairs, ops.exp(exponents - total))

    return RowForm(RowParts(*_totals(threshold), totals_of_active), weights)


def lifted_structure_totals(pairs: Pairs, threshold: float, axis: int = -1) -> list[Tensor]:
    """log sum_P e^{threshold - S} and log sum_N e^S of every anchor.

    Args:
        pairs: Pairs.
        threshold: as in `LiftedStructureLoss`.
        axis: 0 for the columns in place of the rows. Defaults to -1.

    Returns:
        Two (anchors, 1), or (1, candidates), same dtype as the similarities; -1e9 for an anchor
        without pairs of the kind.

    Example:

     >>> pairs = keras_ms.pairs.Pairs(
     ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
     ...     positive=np.array([[True, True, False, False]]),
     ...     negative=np.array([[False, False, True, True]]),
     ... )
    >>> [round(float(total[0, 0]), 4) for total in lifted_structure_totals(pairs, 1.0)]
    [0.9544, 1.1375]
    """
    return log_sums_exp(_exponents(pairs, threshold), pairs, axis)


def _totals(threshold):
    """`of` and `join` of RowParts."""

    def of(pairs, axis):
        return tuple(lifted_structure_totals(pairs, threshold, axis))

    return of, (log_add, log_add)


def _exponents(pairs, threshold):
    return ops.where(pairs.positive, threshold - pairs.similarity, pairs.similarity)


def two_sided_lifted_structure(pairs: Pairs, margin: float = 1.0) -> Tensor:
    """The two-sided lifted structure loss, shared out among the anchors.

    1 / (2 |P|) sum_P [D_ij + log(sum_{N_i} e^{m - D_ik} + sum_{N_j} e^{m - D_jl})]+^2, where P are
    all positive pairs of the batch.

    Args:
        pairs: Pairs, square: |P| is counted over the batch.
        margin: m, as in `LiftedStructureLoss`.

    Returns:
        (anchors,), same dtype as the similarities: what the anchor's pairs add, times the number
        of anchors, so that the mean over the anchors is the value above.
    """
    term, factor, _ = two_sided_lifted_structure_terms(pairs, margin)
    return factor / 2 * ops.sum(term * term, axis=-1)


def two_sided_lifted_structure_weights(
    pairs: Pairs, upstream: Tensor, margin: float = 1.0
) -> Tensor:
    """Pair weights of the two-sided lifted structure loss, signed.

    Reference: that of `keras_ms.LiftedStructureLoss`.

    Args:
        pairs: Pairs, square, after mining.
        upstream: (anchors,), factor of every anchor's loss.
        margin: as in `keras_ms.LiftedStructureLoss`.

    Returns:
        (anchors, anchors): the derivative of the sum of upstream times loss.

    Example:

    >>> embeddings = np.array([[1.0, 0.0], [0.866, 0.5], [0.5, 0.866]], "float32")
    >>> labels = np.array([0, 0, 1])
    >>> same = labels[:, None] == labels
    >>> positive = same & ~np.eye(3, dtype=bool)  # no item is its own
    >>> pairs = keras_ms.pairs.Pairs(embeddings @ embeddings.T, positive, ~same)
    >>> weights = two_sided_lifted_structure_weights(pairs, np.ones(3, "float32"))
    >>> np.array(weights).round(2) + 0  # + 0: no -0
    array([[ 0.  , -4.29,  1.7 ],
           [-4.29,  0.  ,  5.31],
           [ 0.  ,  0.  ,  0.  ]], dtype=float32)
    """
    distance, inverse = distances(pairs.similarity)
    term, factor, total = two_sided_lifted_structure_terms(pairs, margin)
    # half a square: derivative by the bracket, which holds D_ij, log T_i and log T_j
    by_term = factor * ops.expand_dims(upstream, 1) * term
    both = total + ops.transpose(total)
    both = ops.where(both > 0, both, ops.ones_like(both))
    # T_i stands in the pairs (i, j) and (j, i), whose sum T_i + T_j is the same
    by_sum = by_term / both
    by_total = ops.sum(by_sum, axis=1, keepdims=True)
    by_total = by_total + ops.expand_dims(ops.sum(by_sum, axis=0), 1)
    push = by_total * ops.exp(-distance) * inverse
    push = ops.where(pairs.negative, push, ops.zeros_like(push))
    return ops.where(pairs.positive, -by_term * inverse, push)


def two_sided_lifted_structure_terms(pairs: Pairs, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """What an ordered positive pair (i, j) adds to the two-sided lifted structure loss.

    With T_i = sum_{N_i} e^{-D_ik} the two-sided sum is e^margin (T_i + T_j), a number per anchor
    each, so that no third index is needed.

    Args:
        pairs: Pairs, square.
        margin: as in `keras_ms.LiftedStructureLoss`.

    Returns:
        `(term, factor, total)`: [D_ij + margin + log(T_i + T_j)]+ of positive pairs, 0 elsewhere,
        (anchors, anchors); the number of anchors over the number of ordered positive pairs, which
        makes the mean over the anchors one over the pairs, a scalar; T, (anchors, 1).
    """
    distance, _ = distances(pairs.similarity)
    zero = ops.zeros_like(distance)
    total = ops.sum(ops.where(pairs.negative, ops.exp(-distance), zero), axis=-1, keepdims=True)
    both = total + ops.transpose(total)
    counts = ops.logical_and(pairs.positive, both > 0)
    logarithm = ops.log(ops.where(counts, both, ops.ones_like(both)))
    term = ops.where(counts, ops.relu(distance + margin + logarithm), zero)

    # an item that a Keras mask leaves out has no pair; Keras's mean does not count it either
    num_anchors = ops.sum(ops.cast(has_pair(pairs), distance.dtype))
    num_positive = ops.sum(ops.cast(pairs.positive, distance.dtype))
    return term, num_anchors / ops.maximum(num_positive, ops.ones_like(num_positive)), total


@keras.saving.register_keras_serializable(package="keras_ms")
class LiftedStructureLoss(PairLoss):
    """Computes the lifted structure loss over all pairs of a batch.

    Every positive pair is compared with all negatives at once: the weight of a negative is its
    part in a softmax over the negatives, so the nearest ones count most.

    One-sided, as General Pair Weighting reads it:
    L_i = [log sum_P e^{threshold - S_ik} + log sum_N e^{S_ik}]+

    Two-sided, as published, with D = sqrt(2 - 2S) and P all positive pairs of the batch:
    L = 1 / (2 |P|) sum_P [D_ij + log(sum_{N_i} e^{m - D_ik} + sum_{N_j} e^{m - D_jl})]+^2

    Reference: Oh Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured
    Feature Embedding, CVPR 2016, Eq. 4; one-sided form of Wang et al., CVPR 2019, Section 3.

    Relations: one-sided, `CircleLoss` without a pair's own factor, and the limit of
    `MultiSimilarityLoss` without the 1 in its logarithms; two-sided, a triplet loss that looks at
    the negatives of both ends of a positive pair.

    Args:
        threshold: lambda of the one-sided form, in cosine similarity. For one positive and one
            negative it is the margin of a triplet; with more, the two sums put nearly every
            anchor above 0 and it hardly matters. Not to be set with `two_sided`. Defaults to
            None, which stands for 1, the published margin.
        two_sided: whether to compute the published form. Defaults to False: the one-sided form
            is a sum over anchors, and can be computed block by block and with a memory.
        margin: m of the two-sided form, in units of distance (0 to 2). Only to be set with
            `two_sided`. Defaults to None, which stands for 1, the published margin.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - Two-sided, an anchor's value is what its pairs add, times the number of anchors: their
          mean is the published value, every pair counted from both its ends. A pair takes the
          sample weight of the anchor it is counted from. The loss depends on the batch as a
          whole, so it takes no `block_size` and no cross-batch memory.
        - The distance of two equal embeddings has no derivative; it is taken to be 0.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.LiftedStructureLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.544658
    >>> round(float(keras_ms.LiftedStructureLoss(two_sided=True)([0, 0, 1], embeddings)), 6)
    1.096344
    """

    def __init__(
        self,
        threshold: float | None = None,
        two_sided: bool = False,
        margin: float | None = None,
        *,
        name: str = "lifted_structure",
        **options: Any,
    ):
        given, unread = ("margin", "threshold") if two_sided else ("threshold", "margin")
        values = {"threshold": threshold, "margin": margin}
        if values[unread] is not None:
            raise ValueError(
                f"With two_sided={two_sided} the loss reads `{given}` and not `{unread}`. "
                f"Received: {unread}={values[unread]}"
            )
        value = 1.0 if values[given] is None else real_number(given, values[given])
        self.two_sided = bool(two_sided)
        self.threshold = None if two_sided else value
        self.margin = value if two_sided else None
        if two_sided:
            functions = {
                "pair_loss": partial(two_sided_lifted_structure, margin=value),
                "weighting": partial(two_sided_lifted_structure_weights, margin=value),
            }
        else:
            functions = {
                "pair_loss": partial(lifted_structure, threshold=value),
                "weighting": partial(lifted_structure_weights, threshold=value),
            }
        settings = {
            "threshold": self.threshold,
            "two_sided": self.two_sided,
            "margin": self.margin,
        }
        super().__init__(
            **functions,
            whole_batch=self.two_sided,
            name=name,
            **checked_options(self, settings, options),
        )
