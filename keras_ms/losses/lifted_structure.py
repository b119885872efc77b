"""The lifted structure loss, one-sided (General Pair Weighting's form) and as first published."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.distance_weighting import (
    two_sided_lifted_structure_terms,
    two_sided_lifted_structure_weights,
)
from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.weighting import lifted_structure_totals, lifted_structure_weights


def lifted_structure(pairs, threshold=1.0):
    """The one-sided lifted structure loss of every anchor.

    L_i = [log sum_P e^{threshold - S_ik} + log sum_N e^{S_ik}]+

    Args:
        pairs: Pairs, after mining.
        threshold: as in `LiftedStructureLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without positives or without
        negatives.
    """
    positive_total, negative_total = lifted_structure_totals(pairs, threshold)
    return ops.relu(positive_total + negative_total)[:, 0]


def two_sided_lifted_structure(pairs, margin=1.0):
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

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - An anchor without a positive or without a negative has the loss 0.
        - Two-sided, an anchor's value is what its pairs add, times the number of anchors: their
          mean is the published value, every pair counted from both its ends. A pair takes the
          sample weight of the anchor it is counted from. The loss depends on the batch as a
          whole, so it takes no `block_size` and no cross-batch memory.
        - The distance of two equal embeddings has no derivative; it is taken to be 0.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.LiftedStructureLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.544658
    >>> round(float(keras_ms.LiftedStructureLoss(two_sided=True)([0, 0, 1], embeddings)), 6)
    1.096344
    """

    def __init__(
        self, threshold=None, two_sided=False, margin=None, name="lifted_structure", **options
    ):
        given, unread = ("margin", "threshold") if two_sided else ("threshold", "margin")
        values = {"threshold": threshold, "margin": margin}
        if values[unread] is not None:
            raise ValueError(
                f"With two_sided={two_sided} the loss reads `{given}` and not `{unread}`. "
                f"Received: {unread}={values[unread]}"
            )
        value = 1.0 if values[given] is None else values[given]
        if not math.isfinite(value):
            raise ValueError(f"Expected a finite `{given}`. Received: {given}={value}")
        self.two_sided = bool(two_sided)
        self.threshold = None if two_sided else float(value)
        self.margin = float(value) if two_sided else None
        if two_sided:
            functions = {
                "pair_loss": partial(two_sided_lifted_structure, margin=self.margin),
                "weighting": partial(two_sided_lifted_structure_weights, margin=self.margin),
            }
        else:
            functions = {
                "pair_loss": partial(lifted_structure, threshold=self.threshold),
                "weighting": partial(lifted_structure_weights, threshold=self.threshold),
            }
        options = common_options(self, options)
        super().__init__(**functions, whole_batch=self.two_sided, name=name, **options)

    def get_config(self):
        return {
            **super().get_config(),
            "threshold": self.threshold,
            "two_sided": self.two_sided,
            "margin": self.margin,
        }
