"""The losses of one HDML step, as a function of its features, its networks and two numbers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.hdml.formulas import (
    cross_entropy,
    generator_loss,
    harden,
    masked_mean,
)
from keras_ms.hdml.tuples import NPairTuples, Tuples
from keras_ms.pairs.unit_vectors import normalised_rows

# what fit logs beside `loss`
LOGGED = (
    "metric_loss",
    "synthetic_loss",
    "generator_loss",
    "classifier_loss",
    "lambda",
    "synthetic_share",
    "negative_similarity",
    "hardened_similarity",
    "synthetic_similarity",
)


class Networks(NamedTuple):
    """What a step applies, each a function of rows.

    embed: features (rows, channels) -> embeddings (rows, dimension), the metric network's last
        layer.
    generate: embeddings and a mask (rows,) of those that exist -> features.
    classify: features -> logits (rows, classes).
    """

    embed: Callable[[Tensor], Tensor]
    generate: Callable[[Tensor, Tensor], Tensor]
    classify: Callable[[Tensor], Tensor]


class StepLosses(NamedTuple):
    """The losses of a step, all scalars.

    metric, generator, classifier: J_metric, J_gen, J_class.
    recorded: what enters J_avg, J_m; in the official code its part of J_metric.
    log: dict, what `fit` logs.
    """

    metric: Tensor
    generator: Tensor
    classifier: Tensor
    recorded: Tensor
    log: dict[str, Tensor]


def step_losses(
    features: Tensor,
    embeddings: Tensor,
    *,
    labels: Tensor,
    own: Tensor,
    networks: Networks,
    tuples: Tuples,
    weight: Tensor,
    share: Tensor,
    lambda_g: float,
    official: bool,
) -> StepLosses:
    """The three losses of a step.

    J_metric = share J_m + (1 - share) J_syn, J_gen and the cross-entropy of the real features.
    J_syn reaches the embeddings through the generator. Where share is 1, value and gradient of
    J_metric are those of J_m, whatever the generator makes.

    Args:
        features: (batch, channels), y.
        embeddings: (batch, dimension), z, before L2 normalisation.
        labels: integer class ids, (batch,).
        own: (batch, classes) bool, one True a row.
        networks: Networks.
        tuples: of `keras_ms.hdml.tuples`.
        weight: scalar, of `hardness_weight`.
        share: scalar, of `real_share`.
        lambda_g: weight of the labels in J_gen.
        official: whether the losses are those of the official code.

    Returns:
        StepLosses.
    """
    triplets = tuples.triplets(labels, embeddings)
    anchor, positive, negative = (ops.take(embeddings, index, axis=0) for index in triplets[:3])
    hardened = harden(anchor, positive, negative, weight)

    # 0 * inf is NaN: where J_syn does not count, no gradient passes in or out of the generator
    counts = share < 1

    def gate(rows):
        return ops.where(counts, rows, ops.stop_gradient(rows))

    # one batch, so that batch normalisation sees the embeddings where they were and where they
    # go; what fills up the triplets is no item
    exists = ops.concatenate([ops.ones_like(embeddings[:, 0], dtype="bool"), triplets.valid])
    generated = networks.generate(gate(ops.concatenate([embeddings, hardened])), exists)
    size = ops.shape(embeddings)[0]
    reconstructed, synthetic = generated[:size], generated[size:]
    # a gradient of 0 times what is not finite would still break the weights of `embed`
    usable = ops.logical_or(counts, ops.isfinite(generated))
    embedded_again = gate(networks.embed(ops.where(usable, generated, ops.zeros_like(generated))))
    batch_again, synthetic_again = embedded_again[:size], embedded_again[size:]

    real_loss = tuples.metric_loss(labels, embeddings)
    synthetic_loss = tuples.synthetic_loss(labels, batch_again, synthetic_again, triplets, official)
    label_loss = _label_loss(
        cross_entropy(networks.classify(reconstructed), own),
        cross_entropy(networks.classify(synthetic), ops.take(own, triplets.negative, axis=0)),
        triplets,
        official,
        isinstance(tuples, NPairTuples),
    )
    preservation = generator_loss(features, reconstructed, label_loss, lambda_g, official)
    classification = ops.mean(cross_entropy(networks.classify(features), own))

    # N-pair tuples hold the positive itself too
    moved = ops.logical_and(triplets.valid, triplets.positive != triplets.negative)
    anchor_again = ops.take(batch_again, triplets.anchor, axis=0)
    log = {
        "metric_loss": real_loss,
        "synthetic_loss": synthetic_loss,
        "generator_loss": preservation,
        "classifier_loss": classification,
        "lambda": weight,
        "synthetic_share": 1 - share,
        "negative_similarity": masked_mean(_similarity(anchor, negative), moved),
        "hardened_similarity": masked_mean(_similarity(anchor, hardened), moved),
        "synthetic_similarity": masked_mean(_similarity(anchor_again, synthetic_again), moved),
    }
    mixed = share * real_loss + (1 - share) * synthetic_loss
    metric = ops.where(counts, mixed, real_loss)
    recorded = share * real_loss if official else real_loss
    return StepLosses(metric, preservation, classification, recorded, log)


def apply_where_finite(
    optimizers: Sequence[Any],
    losses: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
    parts: Sequence[keras.Model],
    statistics: Sequence[Sequence[Tensor]],
) -> None:
    """Trains embedder, generator and classifier, as far as the step is finite.

    One update with NaN or infinity would break weights and the optimizer's moments for good. The
    generator and the classifier are left as they were where any loss or gradient of the step is not
    finite; the embedder, which can do without them, where its own is not.

    Args:
        optimizers: of each part, built; a `LossScaleOptimizer` decides on its own, from the
            gradients, and lowers its scale.
        losses: scalar of each part.
        gradients: of each part's trainable variables, in their order.
        parts: embedder, generator, classifier.
        statistics: values of each part's non-trainable weights before the step, in their order.
    """
    own = [_all_finite([loss, *slopes]) for loss, slopes in zip(losses, gradients)]
    everything = ops.logical_and(ops.logical_and(*own[:2]), own[2])
    for finite, *update in zip(
        (own[0], everything, everything), optimizers, gradients, parts, statistics
    ):
        _apply_or_restore(finite, *update)


def _all_finite(values):
    return ops.all(ops.stack([ops.all(ops.isfinite(v)) for v in values if v is not None]))


def _apply_or_restore(finite, optimizer, gradients, part, statistics):
    def train():
        optimizer.apply(gradients, part.trainable_variables)

    def restore():
        for variable, value in zip(part.non_trainable_weights, statistics):
            variable.assign(value)

    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        train()
        ops.cond(finite, lambda: None, restore)
    else:
        ops.cond(finite, train, restore)


def _label_loss(reconstructed, synthetic, triplets, official, n_pair):
    """J_soft from the cross-entropies of the reconstructed batch and of the synthetic rows."""
    valid = triplets.valid
    if not official:
        return ops.sum(ops.where(valid, synthetic, ops.zeros_like(synthetic)))
    if not n_pair:
        counted = ops.concatenate([ops.ones_like(reconstructed, dtype="bool"), valid])
        return masked_mean(ops.concatenate([reconstructed, synthetic]), counted)
    # every anchor stands in as many triplets as any other
    anchors = ops.take(reconstructed, triplets.anchor, axis=0)
    return ops.mean(reconstructed) + masked_mean(synthetic, valid) + masked_mean(anchors, valid)


def _similarity(rows, others):
    return ops.sum(normalised_rows(rows) * normalised_rows(others), axis=-1)
