"""The supervised contrastive loss, of which NT-Xent is a special case."""

import math
from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.losses.weighting import supervised_contrastive_totals, supervised_contrastive_weights


def supervised_contrastive(pairs, temperature=0.1):
    """The supervised contrastive loss of every anchor.

    L_i = -1 / |P| sum_P log(e^{S_ik / temperature} / sum over all pairs of e^{S_ia / temperature})

    Args:
        pairs: Pairs, after mining.
        temperature: as in `SupervisedContrastiveLoss`.

    Returns:
        (anchors,), same dtype as the similarities; 0 for an anchor without positives.
    """
    positive_total, negative_total, share = supervised_contrastive_totals(pairs, temperature)
    scaled = pairs.similarity / temperature
    zero = ops.zeros_like(scaled)
    mean = ops.sum(ops.where(pairs.positive, share * scaled, zero), axis=-1, keepdims=True)
    # log of the whole sum less the mean, split so that a loss far below 1 keeps its precision
    value = (positive_total - mean) + ops.softplus(negative_total - positive_total)
    has_positive = ops.any(pairs.positive, axis=-1)
    return ops.where(has_positive, value[:, 0], ops.zeros_like(value[:, 0]))


@keras.saving.register_keras_serializable(package="keras_ms")
class SupervisedContrastiveLoss(PairLoss):
    """Computes the supervised contrastive (SupCon) loss over all pairs of a batch.

    A softmax over all other items of the batch says which of them belongs to the anchor; the
    loss is the mean cross entropy over the anchor's positives.

    L_i = -1 / |P| sum_P log(e^{S_ik / temperature} / sum over all a != i of e^{S_ia / temperature})

    With one positive per anchor it is NT-Xent (InfoNCE) of SimCLR: pass two views of every image
    in one batch and give the two the same id.

    Reference: Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020, Eq. 2 (the sum
    outside the logarithm). NT-Xent: Chen et al.: A Simple Framework for Contrastive Learning of
    Visual Representations, ICML 2020.

    Args:
        temperature: divides the similarities, > 0: the lower, the more the hardest pairs count.
            Defaults to 0.1, the paper's.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Inputs:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside.

    Corner cases:
        - An anchor without positives has the loss 0. One without negatives has the formula's
          value, which is least when its positives are equally similar.
        - The weights of positives can have either sign: one that takes more than 1 / |P| of the
          softmax is pushed away. So a positive pair can be weighted like a negative one.

    Raises:
        ValueError: settings out of range, labels that are not integer ids, embeddings that are
            not (batch, dimension).

    Example:

    >>> loss = keras_ms.SupervisedContrastiveLoss()
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.239516
    """

    def __init__(self, temperature=0.1, name="supervised_contrastive", **options):
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"Expected `temperature` > 0. Received: temperature={temperature}")
        self.temperature = float(temperature)
        super().__init__(
            pair_loss=partial(supervised_contrastive, temperature=self.temperature),
            weighting=partial(supervised_contrastive_weights, temperature=self.temperature),
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
