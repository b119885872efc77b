"""The pair-based losses by the names that the command line knows them by."""

from keras_ms.htl.loss import HierarchicalTripletLoss
from keras_ms.losses.angular import AngularLoss
from keras_ms.losses.binomial_deviance import BinomialDevianceLoss
from keras_ms.losses.circle import CircleLoss
from keras_ms.losses.contrastive import ContrastiveLoss
from keras_ms.losses.histogram import HistogramLoss
from keras_ms.losses.lifted_structure import LiftedStructureLoss
from keras_ms.losses.margin import MarginLoss
from keras_ms.losses.multi_similarity import MultiSimilarityLoss
from keras_ms.losses.n_pair import NPairLoss
from keras_ms.losses.supervised_contrastive import SupervisedContrastiveLoss
from keras_ms.losses.triplet import TripletLoss

PAIR_LOSSES = {
    "multi_similarity": MultiSimilarityLoss,
    "contrastive": ContrastiveLoss,
    "triplet": TripletLoss,
    "lifted_structure": LiftedStructureLoss,
    "binomial_deviance": BinomialDevianceLoss,
    "n_pair": NPairLoss,
    "histogram": HistogramLoss,
    "margin": MarginLoss,
    "angular": AngularLoss,
    "circle": CircleLoss,
    "supervised_contrastive": SupervisedContrastiveLoss,
}
# with a class tree beside embeddings and labels, which a callback makes during training
LOSSES = {**PAIR_LOSSES, "hierarchical_triplet": HierarchicalTripletLoss}


def named_loss(name, **settings):
    """The loss of this name with these settings; the others keep their defaults.

    Raises:
        ValueError: an unknown name, an unknown setting or a value out of range.

    Example:

    >>> named_loss("contrastive", threshold=0.3).threshold
    0.3
    """
    if name not in LOSSES:
        raise ValueError(f"Unknown loss. Expected one of {sorted(LOSSES)}. Received: {name!r}")
    try:
        return LOSSES[name](**settings)
    except TypeError as error:
        raise ValueError(f"Loss {name}: {error}") from error
