"""The margin loss with distance-weighted sampling."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.distance_weighting import (
    distances,
    draw_probabilities,
    margin_statistics,
    margin_weights,
)
from keras_ms.losses.pair_loss import PairLoss, common_options


def margin_loss(pairs, margin=0.2, boundary=1.2, cutoff=1.4, dimension=128):
    """The margin loss of every anchor, with distance-weighted sampling in expectation.

    L_i = mean_P [D_ik - boundary + margin]+ + sum_N p(k | i) [boundary + margin - D_ik]+

    Args:
        pairs: Pairs, after mining.
        margin, boundary, cutoff: as in `MarginLoss`.
        dimension: size of the embeddings, on which p depends; 128 are the paper's.

    Returns:
        (anchors,), same dtype as the similarities; the mean over no pair is 0.
    """
    distance, _ = distances(pairs.similarity)
    positive_share, log_total = margin_statistics(pairs, cutoff, dimension)
    pull = positive_share * ops.relu(distance - (boundary - margin))
    # how often a negative is drawn is a constant for the gradient
    push = ops.stop_gradient(draw_probabilities(pairs, log_total, cutoff, dimension))
    push = push * ops.relu(boundary + margin - distance)
    return ops.sum(ops.where(pairs.positive, pull, push), axis=-1)


@keras.saving.register_keras_serializable(package="keras_ms")
class MarginLoss(PairLoss):
    """Computes the margin loss with distance-weighted sampling of the negatives.

    Positives are pulled within boundary - margin of the anchor and negatives pushed beyond
    boundary + margin. In many dimensions nearly all negatives are about sqrt(2) away; drawing
    them with a probability of 1 / density of their distance shows the loss the close ones too.

    L_i = mean_P [D_ik - boundary + margin]+ + sum_N p(k | i) [boundary + margin - D_ik]+
    with D = sqrt(2 - 2S), p proportional to 1 / q(D) and
    q(D) = D^{d-2} (1 - D^2 / 4)^{(d-3)/2} in d dimensions.

    The paper draws one negative per positive; this loss takes the expectation over the draws,
    in which every negative counts with its probability (a constant for the gradient). It has the
    same mean gradient without the noise of drawing, and is repeatable.

    Reference: Wu, Manmatha, Smola, Krahenbuhl: Sampling Matters in Deep Embedding Learning,
    ICCV 2017, Sections 4.1 and 4.2.

    Args:
        margin: half the width of the gap between positives and negatives (alpha in the paper), in
            units of distance (0 to 2), >= 0. Defaults to 0.2, the paper's.
        boundary: distance that parts positives from negatives (beta in the paper), > 0. Defaults
            to 1.2, where the paper starts. The paper can learn it per class; here it is fixed,
            since Keras does not train variables of a loss.
        cutoff: distance from which on negatives are not drawn, > 0, or None to draw from all.
            Defaults to 1.4: farther negatives have no loss at the default margin and boundary,
            and would only take probability from those that have.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - An anchor without positives still pushes its negatives; one without negatives, or
          without any closer than `cutoff`, still pulls its positives; one without pairs has the
          loss 0.
        - Negatives closer than 0.5 are drawn as those at 0.5 (the paper's clipping).
        - The distance of two equal embeddings has no derivative; it is taken to be 0, so that a
          negative that duplicates the anchor has a loss and no gradient.
        - In many dimensions p is steep: float32 gives it to about 1e-7 times the dimension.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.MarginLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.645565
    """

    def __init__(self, margin=0.2, boundary=1.2, cutoff=1.4, name="margin", **options):
        if not (math.isfinite(margin) and margin >= 0):
            raise ValueError(f"Expected `margin` >= 0. Received: margin={margin}")
        if not (math.isfinite(boundary) and boundary > 0):
            raise ValueError(f"Expected `boundary` > 0. Received: boundary={boundary}")
        if cutoff is not None and not (math.isfinite(cutoff) and cutoff > 0):
            raise ValueError(
                f"Expected `cutoff` > 0, or None to draw from all. Received: cutoff={cutoff}"
            )
        self.margin = float(margin)
        self.boundary = float(boundary)
        self.cutoff = None if cutoff is None else float(cutoff)
        chosen = {"margin": self.margin, "boundary": self.boundary, "cutoff": self.cutoff}
        super().__init__(
            pair_loss=partial(margin_loss, **chosen),
            weighting=partial(margin_weights, **chosen),
            uses_dimension=True,
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "margin": self.margin,
            "boundary": self.boundary,
            "cutoff": self.cutoff,
        }
