"""The Multi-Similarity loss."""

import math
from functools import partial

import keras

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.weighting import multi_similarity_exponents, multi_similarity_weights
from keras_ms.pairs.mining import mine_all, mine_multi_similarity
from keras_ms.pairs.pairs import log_one_plus_sum_exp

# Two regimes, not two spellings of one: with threshold 1 a negative at similarity 0.82 weighs 1e-4.
PRESETS = {
    # the official code's CUB recipe
    "official": {"alpha": 2.0, "beta": 40.0, "threshold": 0.5, "epsilon": 0.1},
    # the paper's text
    "paper": {"alpha": 2.0, "beta": 50.0, "threshold": 1.0, "epsilon": 0.1},
}


def multi_similarity(pairs, alpha=2.0, beta=40.0, threshold=0.5):
    """The Multi-Similarity loss of every anchor, from mined pairs (Eq. 15).

    L_i = 1/alpha log(1 + sum_P e^{-alpha (S_ik - threshold)})
        + 1/beta  log(1 + sum_N e^{beta (S_ik - threshold)})

    Args:
        pairs: Pairs, after mining.
        alpha, beta, threshold: as in `MultiSimilarityLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without pairs.
    """
    positive, negative = multi_similarity_exponents(pairs, alpha, beta, threshold)
    positive_part = log_one_plus_sum_exp(*positive) / alpha
    negative_part = log_one_plus_sum_exp(*negative) / beta
    return (positive_part + negative_part)[:, 0]


@keras.saving.register_keras_serializable(package="keras_ms")
class MultiSimilarityLoss(PairLoss):
    """Computes the Multi-Similarity (MS) loss with its pair mining.

    Use it to train an embedding for retrieval from class labels: it pulls images of a class
    together and pushes others apart, and spends the gradient on the pairs that are hard by
    themselves and relative to the anchor's other pairs. Batches must hold several images of
    several classes (`keras_ms.balanced_batches`).

    Reference: Wang, Han, Huang, Dong, Scott: Multi-Similarity Loss with General Pair Weighting
    for Deep Metric Learning, CVPR 2019, Eqs 11 to 15.

    Args:
        alpha: weight scale of positive pairs, > 0. Defaults to 2.
        beta: weight scale of negative pairs, > 0. Defaults to 40, the official code's value.
        threshold: similarity (lambda in the paper) around which pairs are weighted. Defaults to
            0.5, the official code's value.
        epsilon: mining margin in cosine similarity, >= 0, or None to use every pair. Defaults to
            0.1.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1). 64-bit ids are
            told apart exactly (on JAX, unless it is set to 64 bits, 32-bit ids are).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - An anchor without a positive or without a negative has the loss 0, and so has an anchor
          whose positives are all more similar, by epsilon, than all its negatives. The mean is
          over all anchors of the batch nevertheless. A loss that is 0 for the whole batch is
          explained by a warning.
        - The anchor itself is left out by index: an exact duplicate is an ordinary positive.
        - Items masked with a Keras mask are neither anchors nor candidates.
        - An embedding with a NaN or infinity makes the loss NaN.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

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
        alpha=2.0,
        beta=40.0,
        threshold=0.5,
        epsilon=0.1,
        name="multi_similarity",
        **options,
    ):
        for argument, value in (("alpha", alpha), ("beta", beta)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Expected `{argument}` > 0. Received: {argument}={value}")
        if not math.isfinite(threshold):
            raise ValueError(f"Expected a finite `threshold`. Received: threshold={threshold}")
        if epsilon is not None and not (math.isfinite(epsilon) and epsilon >= 0):
            raise ValueError(
                f"Expected `epsilon` >= 0, or None for no mining. Received: epsilon={epsilon}"
            )
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.threshold = float(threshold)
        self.epsilon = None if epsilon is None else float(epsilon)
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
            **common_options(self, options),
        )

    @classmethod
    def from_preset(cls, preset, **overrides):
        """The loss with named settings: "official" (2, 40, 0.5, 0.1) or "paper" (2, 50, 1, 0.1)."""
        if preset not in PRESETS:
            raise ValueError(
                f"Unknown preset. Expected one of {sorted(PRESETS)}. Received: {preset!r}"
            )
        return cls(**{**PRESETS[preset], **overrides})

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "threshold": self.threshold,
            "epsilon": self.epsilon,
        }
