"""What a loss does to the pairs of a batch: its weights, the pairs it mines, their similarities."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ms.arguments import Tensor, is_endless, knows_its_length, reads_once, type_in_words
from keras_ms.losses.composite import CompositeLoss
from keras_ms.losses.pair_loss import PairLoss
from keras_ms.pairs.rounding import rounding_bound
from keras_ms.pairs.unit_vectors import normalised_rows, refuse_complex

# Of a dataset that does not know its length: a few batches tell what there is to know, and so many
# that it goes on for ever.
_MOST_BATCHES = 1000
_FORM = (
    "Expected `batches` as a finite tf.data.Dataset of (images, labels), such as "
    "keras_ms.balanced_batches(…).take(4), or a list of pairs of arrays [(images, labels), …]. "
)


class PairWeights(NamedTuple):
    """Every pair of a batch as a loss sees it; NumPy arrays.

    Attributes:
        weights: (batch, batch) float, dL/dS_ij with L the loss of the batch as its `reduction`
            says. Above 0 pushes the pair apart, below 0 pulls it together. A pair appears twice,
            once for each of its items as anchor (row). Of N-pair, the diagonal holds the L2 term.
        similarity: (batch, batch) float, what the weights are derivatives by: cosine similarities,
            dot products for a loss that does not normalise.
        positive: (batch, batch) bool, the mined positive pairs.
        negative: (batch, batch) bool, the mined negative pairs.
        num_positives: (batch,) int, mined positives of each anchor.
        num_negatives: (batch,) int, mined negatives of each anchor.
    """

    weights: np.ndarray
    similarity: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    num_positives: np.ndarray
    num_negatives: np.ndarray


def pair_weights(
    loss: PairLoss | CompositeLoss, embeddings: Tensor, labels: Any, sample_weight: Any = None
) -> PairWeights:
    """The General Pair Weighting view of a loss: how much each pair of a batch counts.

    At this step the loss and the sum of weight times similarity have the same gradient with
    respect to the embeddings, and so to the network.

    Relations: the matrix of one batch, to look at; `PairStatistics` sums it up during `fit`, and
    the functions of `keras_ms.weighting` compute it for pairs that are there.

    Args:
        loss: a pair-based loss of keras_ms (`PairLoss`), or a `CompositeLoss` of such.
        embeddings: (batch, dimension), any float dtype.
        labels: integer class ids, (batch,) or (batch, 1).
        sample_weight: optional (batch,) weights of the anchors.

    Returns:
        PairWeights. Memory grows with the square of the batch.

    Raises:
        ValueError: another kind of loss, labels or embeddings of the wrong kind, embeddings that
            hold NaN or infinity, classes that are not in the tree of a hierarchical triplet loss,
            or a composite of losses on different similarities.

    Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning, CVPR 2019, Section 3.

    Example:

    >>> embeddings = np.array([[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]])
    >>> result = pair_weights(keras_ms.MultiSimilarityLoss(), embeddings, [0, 0, 1])
    >>> result.weights.round(2)
    array([[ 0.  ,  0.  ,  0.  ],
           [-0.11,  0.  ,  0.33],
           [ 0.  ,  0.  ,  0.  ]], dtype=float32)
    >>> result.num_positives
    array([0, 1, 0])
    """
    if isinstance(loss, CompositeLoss):
        return _sum_of_weights(loss, embeddings, labels, sample_weight)
    _check_pair_based(loss)
    if not hasattr(embeddings, "dtype"):
        embeddings = np.asarray(embeddings)
    refuse_complex(embeddings)
    embeddings = ops.convert_to_tensor(embeddings, dtype=loss.dtype)
    keys = loss.label_keys(labels, embeddings)
    if len(embeddings.shape) != 2 or embeddings.shape[0] != keys.shape[0]:
        raise ValueError(
            "Expected embeddings of shape (batch, dimension), one for each label. Received: shape "
            f"{tuple(embeddings.shape)} and {keys.shape[0]} labels"
        )
    loss.check_known(labels, embeddings)
    if not np.isfinite(ops.convert_to_numpy(embeddings)).all():
        raise ValueError("Expected finite embeddings. Received some with NaN or infinity")
    rows = normalised_rows(embeddings) if loss.normalize else embeddings
    similarity = ops.matmul(rows, ops.transpose(rows))
    pairwise = loss.pairwise(embeddings.shape[1])
    mined = pairwise.pairs(similarity, keys)
    upstream = _upstream(loss, keys.shape[0], sample_weight)
    if loss.whole_batch:
        weights = pairwise.weighting(mined, upstream)
    else:
        weights = ops.expand_dims(upstream, 1) * pairwise.weighting(mined)
    positive, negative = (ops.convert_to_numpy(mask) for mask in mined[1:])
    return PairWeights(
        ops.convert_to_numpy(weights),
        ops.convert_to_numpy(similarity),
        positive,
        negative,
        positive.sum(axis=1),
        negative.sum(axis=1),
    )


def _check_pair_based(loss):
    for part in loss.losses if isinstance(loss, CompositeLoss) else [loss]:
        if isinstance(part, CompositeLoss):
            _check_pair_based(part)
        elif not isinstance(part, PairLoss):
            raise ValueError(
                "Expected a pair-based loss of keras_ms, such as MultiSimilarityLoss(). Received: "
                f"{part!r}"
            )


def _upstream(loss, size, sample_weight):
    """dL/d(loss of anchor i): what the reduction and the sample weights make of an anchor."""
    weight = ops.ones((size,), loss.dtype)
    if sample_weight is not None:
        weight = ops.reshape(ops.cast(sample_weight, loss.dtype), (size,))
    if loss.reduction == "mean_with_sample_weight":
        return ops.divide_no_nan(weight, ops.sum(weight))
    return weight if loss.reduction in ("sum", "none", None) else weight / size


def _sum_of_weights(composite, embeddings, labels, sample_weight):
    parts = [pair_weights(loss, embeddings, labels, sample_weight) for loss in composite.losses]
    first = parts[0]
    # of unit vectors the two are the same up to rounding, however many dimensions are summed
    tolerance = 1e-5 + 2 * rounding_bound(np.shape(embeddings)[1])
    for part in parts[1:]:
        if not np.allclose(part.similarity, first.similarity, atol=tolerance):
            raise ValueError(
                "The losses of this composite take different similarities (cosine, and dot "
                "products), so their weights do not add up. Look at each loss by itself"
            )
    positive = np.any([part.positive for part in parts], axis=0)
    negative = np.any([part.negative for part in parts], axis=0)
    return PairWeights(
        np.asarray(sum(factor * part.weights for factor, part in zip(composite.factors, parts))),
        first.similarity,
        positive,
        negative,
        positive.sum(axis=1),
        negative.sum(axis=1),
    )


class PairStatistics(keras.callbacks.Callback):
    """Logs what the loss finds to do: the pairs it still mines and how similar pairs are.

    After every epoch it embeds a few training batches and adds to the logs (and so to the history,
    CSVLogger, TensorBoard, the progress bar)

    - `mined_positives`, `mined_negatives`: pairs kept by the loss's mining, per anchor;
    - `weighted_positives`, `weighted_negatives`: those of them with a weight other than 0;
    - `positive_similarity`, `negative_similarity`: mean cosine similarity of all pairs of the same
      and of different classes. Collapse shows as both going to 1.

    Put it before the callbacks that read the logs.

    Reference: the weights are those of Wang et al., Multi-Similarity Loss with General Pair
    Weighting for Deep Metric Learning, CVPR 2019, Section 3.

    Relations: `MinedAnchors` is a metric of the batches that are trained on anyway, at no further
    pass, and counts anchors by the miner of `MultiSimilarityLoss`; this asks the miner and the
    weighting of the loss that trains. `pair_weights` gives the matrix of one batch;
    `ExplainZeroLoss` speaks up only where nothing is learned.

    Args:
        loss: the pair-based loss that is trained with.
        batches: batches (images, labels) of training data: a finite `tf.data.Dataset`, such as
            `keras_ms.balanced_batches(...).take(4)`, or a list of pairs of arrays. They are read
            again after every epoch. Four batches of 80 hold 25,000 pairs; each costs one pass
            through the model.
        prefix: begins the names. Defaults to "".

    Raises:
        ValueError: another kind of loss, batches that are no pairs (images, labels), have no end or
            can be read once only; in `fit`, where a dataset does not tell before.

    Example:

    >>> callback = PairStatistics(keras_ms.MultiSimilarityLoss(), [(images, labels)])
    >>> model.fit(..., callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, loss: PairLoss | CompositeLoss, batches: Iterable[Any], *, prefix: str = ""):
        super().__init__()
        _check_pair_based(loss)
        _check_batches(batches)
        self.loss = loss
        self.batches = batches
        self.prefix = prefix

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs.update({self.prefix + name: value for name, value in self.measure().items()})

    def measure(self) -> dict[str, float]:
        """The statistics of the batches with the current weights: a dict of floats."""
        per_batch = []
        for batch in self.batches:
            _check_pair(batch)
            if len(per_batch) == _MOST_BATCHES and not knows_its_length(self.batches):
                raise ValueError(
                    f"{_FORM}Received a dataset that did not end within {_MOST_BATCHES:,} batches: "
                    "cut it with .take(4)"
                )
            embeddings = ops.convert_to_numpy(self.model(batch[0], training=False))
            labels = ops.convert_to_numpy(batch[1]).reshape(-1)
            per_batch.append(_statistics(self.loss, embeddings, labels))
        if not per_batch:
            raise ValueError(f"{_FORM}Received none: they are empty")
        names = per_batch[0]
        return {
            name: float(np.mean([statistics[name] for statistics in per_batch])) for name in names
        }


def _check_batches(batches):
    if reads_once(batches):
        raise ValueError(
            f"{_FORM}They are read again after every epoch. Received a {type_in_words(batches)}, "
            "which can be read once: give list(itertools.islice(batches, 4))"
        )
    if is_endless(batches):
        raise ValueError(f"{_FORM}Received one that repeats forever: cut it with .take(4)")
    spec = getattr(batches, "element_spec", None)  # what a tf.data.Dataset gives
    if spec is not None:
        _check_pair(spec)
    elif isinstance(batches, (list, tuple)):
        if not batches:
            raise ValueError(f"{_FORM}Received none: they are empty")
        for batch in batches:
            _check_pair(batch)
    elif hasattr(batches, "shape") or not hasattr(batches, "__iter__"):
        raise ValueError(f"{_FORM}Received: {type_in_words(batches)}")


def _check_pair(batch):
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        length = f" and length {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise ValueError(f"{_FORM}Received a batch of type {type_in_words(batch)}{length}")


def _statistics(loss, embeddings, labels):
    if not np.isfinite(embeddings).all():
        names = ("mined", "weighted"), ("positives", "negatives")
        broken = [f"{kind}_{sign}" for kind in names[0] for sign in names[1]]
        return dict.fromkeys([*broken, "positive_similarity", "negative_similarity"], np.nan)
    weighed = pair_weights(loss, embeddings, labels)
    unit = ops.convert_to_numpy(normalised_rows(ops.cast(embeddings, "float32")))
    cosine = unit @ unit.T
    same = labels[:, None] == labels[None, :]
    other = ~np.eye(len(labels), dtype=bool)
    return {
        "mined_positives": weighed.num_positives.mean(),
        "mined_negatives": weighed.num_negatives.mean(),
        "weighted_positives": np.count_nonzero(weighed.weights[same & other]) / len(labels),
        "weighted_negatives": np.count_nonzero(weighed.weights[~same]) / len(labels),
        "positive_similarity": _mean(cosine[same & other]),
        "negative_similarity": _mean(cosine[~same]),
    }


def _mean(values):
    return values.mean() if values.size else np.nan
