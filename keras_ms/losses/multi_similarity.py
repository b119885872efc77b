"""The Multi-Similarity loss."""

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.mining import mine_all, mine_multi_similarity
from keras_ms.pairs.pairs import Pairs, signed
from keras_ms.pairs.reductions import joined_by, log_one_plus, share, share_scale, sum_exp
from keras_ms.pairs.row_wise import RowForm, RowLoss, RowParts, RowWise

# Two regimes, not two spellings of one: with threshold 1 a negative at similarity 0.82 weighs 1e-4.
PRESETS = {
    # the official code's CUB recipe
    "official": {"alpha": 2.0, "beta": 40.0, "threshold": 0.5, "epsilon": 0.1},
    # the paper's text
    "paper": {"alpha": 2.0, "beta": 50.0, "threshold": 1.0, "epsilon": 0.1},
}


@RowLoss
def multi_similarity(alpha: float = 2.0, beta: float = 40.0, threshold: float = 0.5) -> RowParts:
    """The Multi-Similarity loss of every anchor, from mined pairs (Eq. 15). Call it with Pairs.

    L_i = 1/alpha log(1 + sum_P e^{-alpha (S_ik - threshold)})
        + 1/beta  log(1 + sum_N e^{beta (S_ik - threshold)})

    Args:
        alpha, beta, threshold: as in `MultiSimilarityLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without pairs.
    """
    positive_bound, negative_bound = _bounds(alpha, beta, threshold)

    def value(positive_sum, negative_sum):
        positive_part = log_one_plus(positive_sum, positive_bound) / alpha
        return positive_part + log_one_plus(negative_sum, negative_bound) / beta

    return RowParts(*_sums(alpha, beta, threshold), value)


@keras.saving.register_keras_serializable(package="keras_ms")
@RowWise
def multi_similarity_weights(
    alpha: float = 2.0, beta: float = 40.0, threshold: float = 0.5
) -> RowForm:
    """Pair weights of the Multi-Similarity loss (Eqs 13 and 14), signed.

    Call it with Pairs after mining, `multi_similarity_weights(pairs, alpha=2.0)`.

    On a negative of anchor i: 1 / (e^{beta (threshold - S_ij)} + sum_k e^{beta (S_ik - S_ij)});
    on a positive: -1 / (e^{-alpha (threshold - S_ij)} + sum_k e^{-alpha (S_ik - S_ij)}), the sums
    over the anchor's mined pairs of the same kind. Multiplied out, each is the share of
    e^{exponent} in "1 + sum of e^{exponent}".

    Reference: that of `keras_ms.MultiSimilarityLoss`.

    Args:
        pairs: Pairs, the one argument without a keyword.
        alpha, beta, threshold: as in `MultiSimilarityLoss`.

    Returns:
        (anchors, candidates), same dtype as the similarities, every entry within (-1, 1).

    Example:

    >>> pairs = keras_ms.pairs.Pairs(
    ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
    ...     positive=np.array([[True, True, False, False]]),
    ...     negative=np.array([[False, False, True, True]]),
    ... )
    >>> np.array(multi_similarity_weights(pairs)).round(2) + 0  # + 0: no -0
    array([[-0.2 , -0.36,  1.  ,  0.  ]], dtype=float32)
    """

    bounds = _bounds(alpha, beta, threshold)

    def scales(*sums):
        return tuple(share_scale(total, bound) for total, bound in zip(sums, bounds))

    def weights(pairs, positive_scale, negative_scale):
        above = pairs.similarity - threshold
        pull = share(-alpha * above, positive_scale, bounds[0])
        push = share(beta * above, negative_scale, bounds[1])
        return signed(pairs, ops.where(pairs.positive, pull, push))

    return RowForm(RowParts(*_sums(alpha, beta, threshold), scales), weights)


def multi_similarity_exponents(
    pairs: Pairs, alpha: float, beta: float, threshold: float
) -> tuple[tuple[Tensor, Tensor, float], tuple[Tensor, Tensor, float]]:
    """The exponents of Eq. 15, which the loss and its weights share.

    Args:
        pairs: Pairs after mining.
        alpha, beta, threshold: as in `MultiSimilarityLoss`.

    Returns:
        For the positive and for the negative pairs `(exponents, mask, bound)`: float and bool
        (anchors, candidates), and a number that no exponent exceeds.

    Example:

     >>> pairs = keras_ms.pairs.Pairs(
     ...     np.array([[0.9, 0.6, 0.7, 0.1]], "float32"),
     ...     positive=np.array([[True, True, False, False]]),
     ...     negative=np.array([[False, False, True, True]]),
     ... )
    >>> positive, negative = multi_similarity_exponents(pairs, 2.0, 40.0, 0.5)
    >>> np.array(negative[0])[np.array(negative[1])].round(2), negative[2]
    (array([  8., -16.], dtype=float32), 20.0)
    """
    above = pairs.similarity - threshold
    bounds = _bounds(alpha, beta, threshold)
    return (
        (-alpha * above, pairs.positive, bounds[0]),
        (beta * above, pairs.negative, bounds[1]),
    )


def _bounds(alpha, beta, threshold):
    """What no exponent of positives and of negatives exceeds: a similarity is within [-1, 1]."""
    return alpha * (1 + threshold), beta * (1 - threshold)


def _sums(alpha, beta, threshold):
    """`of` and `join` of RowParts: the sums of exponentials of positives and of negatives."""

    def of(pairs, axis):
        kinds = multi_similarity_exponents(pairs, alpha, beta, threshold)
        return tuple(sum_exp(*kind, axis) for kind in kinds)

    return of, tuple(joined_by(bound) for bound in _bounds(alpha, beta, threshold))


@keras.saving.register_keras_serializable(package="keras_ms")
class MultiSimilarityLoss(PairLoss):
    """Computes the Multi-Similarity (MS) loss with its pair mining.

    Use it to train an embedding for retrieval from class labels: it pulls images of a class
    together and pushes others apart, and spends the gradient on the pairs that are hard by
    themselves and relative to the anchor's other pairs. Batches must hold several images of
    several classes (`keras_ms.balanced_batches`).

    Reference: Wang, Han, Huang, Dong, Scott: Multi-Similarity Loss with General Pair Weighting
    for Deep Metric Learning, CVPR 2019, Eqs 11 to 15.

    Relations: the only loss here that mines by default and weighs what is left by both its own
    similarity and that of the anchor's other pairs. Without mining and with means in place of the
    logarithms of sums it is `BinomialDevianceLoss`.

    Args:
        alpha: weight scale of positive pairs, > 0. Defaults to 2.
        beta: weight scale of negative pairs, > 0. Defaults to 40, the official code's value.
        threshold: similarity (lambda in the paper) around which pairs are weighted. Defaults to
            0.5, the official code's value.
        epsilon: mining margin in cosine similarity, >= 0, or None to use every pair. Defaults to
            0.1.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - An anchor whose positives are all more similar, by epsilon, than all its negatives has
          the loss 0. With `epsilon=None` an anchor without positives pushes its negatives, and
          one without negatives pulls its positives.

    Raises:
        ValueError: settings out of range; for the rest as `PairLoss`.

    Example:

    >>> loss = keras_ms.MultiSimilarityLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.187453

    `model.compile(optimizer, loss=keras_ms.MultiSimilarityLoss())`, or
    `MultiSimilarityLoss.from_preset("paper")`.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 40.0,
        threshold: float = 0.5,
        epsilon: float | None = 0.1,
        *,
        name: str = "multi_similarity",
        **options: Any,
    ):
        self.alpha = real_number("alpha", alpha, above=0)
        self.beta = real_number("beta", beta, above=0)
        self.threshold = real_number("threshold", threshold)
        if epsilon is not None:
            epsilon = real_number("epsilon", epsilon, least=0, reason="or None for no mining")
        self.epsilon = epsilon
        scales = {"alpha": self.alpha, "beta": self.beta, "threshold": self.threshold}
        super().__init__(
            pair_loss=partial(multi_similarity, **scales),
            weighting=partial(multi_similarity_weights, **scales),
            miner=(
                mine_all
                if epsilon is None
                else partial(mine_multi_similarity, epsilon=self.epsilon)
            ),
            name=name,
            **checked_options(self, {**scales, "epsilon": self.epsilon}, options),
        )

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> "MultiSimilarityLoss":
        """The loss with named settings: "official" (2, 40, 0.5, 0.1) or "paper" (2, 50, 1, 0.1)."""
        if preset not in PRESETS:
            raise ValueError(
                f"Unknown preset. Expected one of {sorted(PRESETS)}. Received: {preset!r}"
            )
        return cls(**{**PRESETS[preset], **overrides})
