"""The triplet loss: all triplets, the hardest, or TensorFlow's semi-hard ones."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.triplets import (
    FAR,
    count,
    semi_hard_excess,
    sides,
    triplet_all,
    triplet_all_weights,
    triplet_hard_weights,
    triplet_semi_hard_weights,
)
from keras_ms.pairs.positives import visit_positives


def triplet_hard(pairs, margin=0.1):
    """Triplet loss of every anchor with its hardest positive and its hardest negative.

    L_i = [max_N S_in - min_P S_ip + margin]+

    Args:
        pairs: Pairs.
        margin: as in `TripletLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without a positive or without
        a negative.
    """
    of = sides(pairs)
    return ops.relu(of.hardest_negative[:, 0] - ops.min(of.positives, axis=-1) + margin)


def triplet_semi_hard(pairs, margin=0.1):
    """Triplet loss of every anchor with TensorFlow's semi-hard negatives.

    L_i = 1/|P_i| sum_P [S_in(p) - S_ip + margin]+, where n(p) is the most similar of the negatives
    less similar than p, or if there is none the least similar of all.

    Args:
        pairs: Pairs.
        margin: as in `TripletLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without a positive or without
        a negative.
    """
    of = sides(pairs)

    def visit(current, total):
        same = count(of.positives == current, total)
        return (total + same * semi_hard_excess(of, current, margin),)

    (total,) = visit_positives(visit, of.positives, FAR, ops.zeros_like(of.divisor))
    return (total / of.divisor)[:, 0]


MININGS = {
    "all": (triplet_all, triplet_all_weights),
    "hard": (triplet_hard, triplet_hard_weights),
    "semi_hard": (triplet_semi_hard, triplet_semi_hard_weights),
}


@keras.saving.register_keras_serializable(package="keras_ms")
class TripletLoss(PairLoss):
    """Computes the triplet loss over the triplets of a batch.

    Use it as the classic baseline, or to keep results comparable with older ones: it asks that
    every positive be more similar to the anchor than a negative by a margin. Batches must hold
    several images of several classes (`keras_ms.balanced_batches`). No triplet is ever listed:
    memory grows with the pairs.

    Reference: Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face Recognition
    and Clustering, CVPR 2015; with mining "hard" Hermans, Beyer, Leibe: In Defense of the Triplet
    Loss for Person Re-Identification, 2017.

    Args:
        margin: by how much a positive has to be more similar than a negative, in cosine
            similarity, >= 0. A squared Euclidean distance is 2 - 2 S, so a margin of squared
            distances is twice as large. Defaults to 0.1, which is FaceNet's 0.2.
        mining: which triplets of an anchor count. `"semi_hard"`: one for each positive, with the
            hardest of the negatives that are less similar than the positive, or if there is none
            the easiest of all (the rule of TensorFlow Addons); `"all"`: all of them, those that
            keep the margin counting 0 in the mean; `"hard"`: the hardest positive with the
            hardest negative. Defaults to `"semi_hard"`, since the hardest negatives can make
            training collapse in its beginning and most of all triplets soon teach nothing.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - An anchor without a positive or without a negative has the loss 0. The mean is over all
          anchors of the batch nevertheless, and within an anchor over its positives or triplets:
          it is not the mean over the triplets of the batch unless classes are of one size.
        - Negatives or positives of exactly equal similarity share the gradient of the one picked.
        - The anchor itself is left out by index: an exact duplicate is an ordinary positive.
        - Items masked with a Keras mask are neither anchors nor candidates.
        - An embedding with a NaN or infinity makes the loss NaN.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.TripletLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)  # only the second is closer than the margin
    0.033333

    `model.compile(optimizer, loss=keras_ms.TripletLoss(mining="hard"))`
    """

    def __init__(self, margin=0.1, mining="semi_hard", name="triplet", **options):
        if not (math.isfinite(margin) and margin >= 0):
            raise ValueError(
                f"Expected `margin` >= 0, in units of cosine similarity. Received: margin={margin}"
            )
        if mining not in MININGS:
            raise ValueError(
                f"Invalid value for argument `mining`. Expected one of {sorted(MININGS)}. "
                f"Received: mining={mining!r}"
            )
        self.margin = float(margin)
        self.mining = mining
        pair_loss, weighting = MININGS[mining]
        super().__init__(
            pair_loss=partial(pair_loss, margin=self.margin),
            weighting=partial(weighting, margin=self.margin),
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {**super().get_config(), "margin": self.margin, "mining": self.mining}
