"""The metric terms of HDML: which negatives are hardened, the loss on real and synthetic tuples.

Each class here offers the same five things to `keras_ms.hdml.model.HDML`:

- `alpha`, the default of HDML's alpha, in units of its metric loss;
- `normalize`, whether it compares unit vectors rather than embeddings as they are;
- `triplets(labels, embeddings)`, the `Triplets` to harden;
- `metric_loss(labels, embeddings)`, J_m, a scalar;
- `synthetic_loss(labels, embeddings, synthetic, triplets, official)`, J_syn, a scalar, from the
  embeddings of the reconstructed batch and of the hardened negatives.
"""

from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number, whole_number
from keras_ms.hdml.formulas import (
    Triplets,
    masked_mean,
    n_pair_cross_entropy,
    squared_length,
    triplet_sum,
)
from keras_ms.losses.multi_similarity import MultiSimilarityLoss
from keras_ms.losses.n_pair import NPairLoss, first_two_of_class
from keras_ms.losses.pair_loss import PairLoss
from keras_ms.pairs.closed_form import in_closed_form
from keras_ms.pairs.labels import label_keys
from keras_ms.pairs.pairs import Pairs, pair_masks
from keras_ms.pairs.reductions import BEYOND_ANY_SIMILARITY
from keras_ms.pairs.unit_vectors import normalised_rows


@keras.saving.register_keras_serializable(package="keras_ms")
class NPairTuples:
    """The N-pair loss: an anchor and a positive of every class, every other positive hardened.

    The first two items of each class are the pair; with more images a class (`images_per_class`
    above 2) the others only serve the generator and the classifier. P pairs make P^2 synthetic
    positives, so the largest number of pairs, half the batch, sets the cost.

    Args:
        regularization: factor of the L2 term, a quarter of it multiplies the mean squared norm of
            anchors plus that of positives; >= 0. Defaults to 0.002, as in `keras_ms.NPairLoss`.
    """

    alpha = 90.0  # published
    normalize = False

    def __init__(self, regularization: float = 0.002):
        self.regularization = real_number("regularization", regularization, least=0)

    def triplets(self, labels: Tensor, embeddings: Tensor) -> Triplets:
        # anchor i, its positive i, and the positive j of another class; for j = i both distances
        # are equal, so that the augmentor leaves the positive where it is
        first, second = first_two_of_class(label_keys(labels))
        size = ops.shape(first)[0]
        exists = second > first
        own, other = ops.repeat(ops.arange(size), size), ops.tile(ops.arange(size), [size])
        return Triplets(
            ops.take(first, own),
            ops.take(second, own),
            ops.take(second, other),
            ops.logical_and(ops.take(exists, own), ops.take(exists, other)),
        )

    def metric_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        first, second = first_two_of_class(label_keys(labels))
        anchors, positives = ops.take(embeddings, first, 0), ops.take(embeddings, second, 0)
        exists = second > first
        similarity = ops.matmul(anchors, ops.transpose(positives))
        norms = squared_length(anchors) + squared_length(positives)
        return n_pair_cross_entropy(similarity, exists) + self._l2(masked_mean(norms, exists))

    def synthetic_loss(
        self,
        labels: Tensor,
        embeddings: Tensor,
        synthetic: Tensor,
        triplets: Triplets,
        official: bool,
    ) -> Tensor:
        first, second = first_two_of_class(label_keys(labels))
        size = ops.shape(first)[0]
        anchors = ops.take(embeddings, first, 0)
        positives = ops.reshape(synthetic, (size, size, synthetic.shape[1]))
        similarity = ops.squeeze(ops.matmul(positives, ops.expand_dims(anchors, 2)), 2)
        loss = n_pair_cross_entropy(similarity, second > first)
        if official:
            norms = masked_mean(squared_length(anchors), second > first)
            norms = norms + masked_mean(squared_length(synthetic), triplets.valid)
            loss = loss + self._l2(norms)
        return loss

    def _l2(self, squared_norms):
        return 0.25 * self.regularization * squared_norms

    def get_config(self) -> dict[str, Any]:
        return {"regularization": self.regularization}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NPairTuples":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_ms")
class TripletTuples:
    """The triplet loss on unnormalised embeddings: one triplet for every item of the batch.

    The positive is the next item of the anchor's class, the negative the first of another class
    from half a batch further on, both in the order of the batch, which starts over at its end.
    Batches are drawn at random, and so is what meets there. Memory grows with the batch.

    Args:
        margin: in squared Euclidean distance, >= 0. Defaults to 1, the official code's.
    """

    alpha = 7.0  # published
    normalize = False

    def __init__(self, margin: float = 1.0):
        self.margin = real_number("margin", margin, least=0)

    def triplets(self, labels: Tensor, embeddings: Tensor) -> Triplets:
        positive, negative = pair_masks(label_keys(labels))
        size = ops.shape(positive)[0]
        index = ops.arange(size)
        steps_to = ops.mod(ops.expand_dims(index, 0) - ops.expand_dims(index, 1), size)
        steps_from_half = ops.mod(steps_to - size // 2, size)
        exists = ops.logical_and(ops.any(positive, axis=-1), ops.any(negative, axis=-1))
        return Triplets(
            index,
            ops.argmin(ops.where(positive, steps_to, size), axis=-1),
            ops.argmin(ops.where(negative, steps_from_half, size), axis=-1),
            exists,
        )

    def metric_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        triplets = self.triplets(labels, embeddings)
        return self._loss(embeddings, ops.take(embeddings, triplets.negative, 0), triplets)

    def synthetic_loss(
        self,
        labels: Tensor,
        embeddings: Tensor,
        synthetic: Tensor,
        triplets: Triplets,
        official: bool,
    ) -> Tensor:
        return self._loss(embeddings, synthetic, triplets)

    def _loss(self, embeddings, negatives, triplets):
        positives = ops.take(embeddings, triplets.positive, 0)
        return triplet_sum(embeddings, positives, negatives, triplets.valid, self.margin)

    def get_config(self) -> dict[str, Any]:
        return {"margin": self.margin}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TripletTuples":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_ms")
class PairTuples:
    """A pair-based loss on cosine similarities: the hardest negatives of every anchor hardened.

    This form is the library's own. Each anchor's `negatives_per_anchor` most similar negatives
    are pulled toward it, no nearer than its most similar positive. The synthetic loss is the
    loss, its mining included, of the reconstructed anchor with all its reconstructed positives
    and with its own synthetic negatives. Memory grows with batch times `negatives_per_anchor`.

    Args:
        loss: loss of this library on cosine similarities that is separable by anchor, with the
            mean as reduction. Defaults to None: `keras_ms.MultiSimilarityLoss()`.
        negatives_per_anchor: integer >= 1. Defaults to 8: after mining, the Multi-Similarity loss
            of a batch midway in training had about 6 negatives an anchor (docs/losses.md).
    """

    alpha = 0.5  # the Multi-Similarity loss is about 1 at first: lambda starts near 0.6
    normalize = True

    def __init__(self, loss: PairLoss | None = None, negatives_per_anchor: int = 8):
        loss = MultiSimilarityLoss() if loss is None else loss
        if not isinstance(loss, PairLoss) or loss.whole_batch or not loss.normalize:
            raise ValueError(
                "Expected `loss` to be a pair-based loss of keras_ms that is separable by anchor, "
                "such as keras_ms.MultiSimilarityLoss(), or keras_ms.NPairLoss(). Received: "
                f"{loss!r}"
            )
        if loss.margins is not None:
            raise ValueError(
                "Expected a `loss` without margins of its own between classes, which synthetic "
                f"negatives have none of, such as keras_ms.TripletLoss(). Received: {loss!r}"
            )
        _check_mean(loss)
        self.loss = loss
        self.negatives_per_anchor = whole_number("negatives_per_anchor", negatives_per_anchor)

    def triplets(self, labels: Tensor, embeddings: Tensor) -> Triplets:
        positive, negative = pair_masks(label_keys(labels))
        unit = ops.stop_gradient(normalised_rows(embeddings))
        similarity = ops.matmul(unit, ops.transpose(unit))
        far = ops.full_like(similarity, -BEYOND_ANY_SIMILARITY)
        number, size = self.negatives_per_anchor, ops.shape(similarity)[0]
        # columns to spare, where a batch has fewer items than negatives are asked for
        candidates = ops.pad(
            ops.where(negative, similarity, far),
            [[0, 0], [0, number]],
            constant_values=-BEYOND_ANY_SIMILARITY,
        )
        hardest, hardest_index = ops.top_k(candidates, number)
        exists = ops.logical_and(
            hardest > -BEYOND_ANY_SIMILARITY, ops.any(positive, axis=-1, keepdims=True)
        )
        nearest = ops.argmax(ops.where(positive, similarity, far), axis=-1)
        return Triplets(
            ops.repeat(ops.arange(size), number),
            ops.repeat(nearest, number),
            ops.reshape(ops.minimum(hardest_index, size - 1), (-1,)),
            ops.reshape(exists, (-1,)),
        )

    def metric_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        return ops.cast(self.loss(labels, embeddings), embeddings.dtype)

    def synthetic_loss(
        self,
        labels: Tensor,
        embeddings: Tensor,
        synthetic: Tensor,
        triplets: Triplets,
        official: bool,
    ) -> Tensor:
        number = self.negatives_per_anchor
        unit, negatives = normalised_rows(embeddings), normalised_rows(synthetic)
        negatives = ops.reshape(negatives, (-1, number, negatives.shape[1]))
        to_negatives = ops.squeeze(ops.matmul(negatives, ops.expand_dims(unit, 2)), 2)
        to_batch = ops.matmul(unit, ops.transpose(unit))
        positive, _ = pair_masks(label_keys(labels))
        exists = ops.reshape(triplets.valid, (-1, number))
        pairwise = self.loss.pairwise(embeddings.shape[1])

        def mined(similarity):
            is_positive = ops.concatenate([positive, ops.zeros_like(exists)], axis=1)
            is_negative = ops.concatenate([ops.zeros_like(positive), exists], axis=1)
            return pairwise.miner(Pairs(similarity, is_positive, is_negative))

        def losses_and_gradient(similarity):
            pairs = mined(similarity)
            losses = pairwise.pair_loss(pairs)
            return losses, lambda upstream: ops.expand_dims(upstream, 1) * pairwise.weighting(pairs)

        def differentiable_gradient(similarity, upstream):
            return ops.expand_dims(upstream, 1) * pairwise.differentiable_weights(mined(similarity))

        similarity = ops.concatenate([to_batch, to_negatives], axis=1)
        return ops.mean(in_closed_form(losses_and_gradient, similarity, differentiable_gradient))

    def get_config(self) -> dict[str, Any]:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "negatives_per_anchor": self.negatives_per_anchor,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PairTuples":
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


TUPLES = {
    "n_pair": NPairTuples,
    "triplet": TripletTuples,
    "multi_similarity": PairTuples,
}

# of any kind
Tuples = NPairTuples | TripletTuples | PairTuples


def tuples_of(metric_loss: Any) -> Tuples:
    """The tuples of a metric loss: a name of TUPLES, tuples, or a loss of this library.

    Raises:
        ValueError: any other argument.
    """
    if isinstance(metric_loss, tuple(TUPLES.values())):
        return metric_loss
    if isinstance(metric_loss, NPairLoss):
        _check_mean(metric_loss)
        if metric_loss.dtype != "float32":
            raise ValueError(
                "N-pair tuples are computed in the precision of the embedder's layer 'embedding'. "
                f"Expected an NPairLoss of dtype 'float32', the default, or NPairTuples("
                f"regularization). Received: dtype={metric_loss.dtype!r}"
            )
        return NPairTuples(metric_loss.regularization)
    if isinstance(metric_loss, PairLoss):
        return PairTuples(metric_loss)
    if not isinstance(metric_loss, str) or metric_loss not in TUPLES:
        raise ValueError(
            f"Invalid value for argument `metric_loss`. Expected one of {sorted(TUPLES)}, a loss "
            f"of keras_ms or NPairTuples, TripletTuples, PairTuples. Received: {metric_loss!r}"
        )
    return TUPLES[metric_loss]()


def _check_mean(loss):
    if loss.reduction not in ("sum_over_batch_size", "mean"):
        raise ValueError(
            "Expected a `loss` with the reduction 'sum_over_batch_size'. Received: "
            f"reduction={loss.reduction!r}"
        )
