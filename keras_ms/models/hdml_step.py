"""The losses of one HDML step, as a function of its features, its networks and two numbers."""

from typing import NamedTuple

from keras import ops

from keras_ms.models.hardened_tuples import NPairTuples
from keras_ms.models.hardness_aware import (
    cross_entropy,
    generator_loss,
    harden,
    masked_mean,
)
from keras_ms.pairs import unit_length


class Networks(NamedTuple):
    """What a step applies, each a function of rows.

    embed: features (rows, channels) -> embeddings (rows, dimension), the metric network's last
        layer.
    generate: embeddings -> features.
    classify: features -> logits (rows, classes).
    """

    embed: object
    generate: object
    classify: object


class StepLosses(NamedTuple):
    """metric, generator, classifier: scalars J_metric, J_gen, J_class; log: dict of scalars."""

    metric: object
    generator: object
    classifier: object
    log: dict


def step_losses(
    features, embeddings, labels, own, networks, tuples, weight, share, lambda_g, official
):
    """The three losses of a step.

    J_metric = share J_m + (1 - share) J_syn, J_gen and the cross-entropy of the real features. No
    gradient is stopped: J_syn reaches the embeddings through the generator.

    Args:
        features: (batch, channels), y.
        embeddings: (batch, dimension), z, before L2 normalisation.
        labels: integer class ids, (batch,).
        own: (batch, classes) bool, one True a row.
        networks: Networks.
        tuples: of `keras_ms.models.hardened_tuples`.
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

    # one batch, so that batch normalisation sees the embeddings where they were and where they go
    generated = networks.generate(ops.concatenate([embeddings, hardened]))
    size = ops.shape(embeddings)[0]
    reconstructed, synthetic = generated[:size], generated[size:]
    embedded_again = networks.embed(generated)
    batch_again, synthetic_again = embedded_again[:size], embedded_again[size:]

    real_loss = tuples.metric_loss(labels, embeddings)
    synthetic_loss = tuples.synthetic_loss(
        labels, batch_again, synthetic_again, triplets, official
    )
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
    metric = share * real_loss + (1 - share) * synthetic_loss
    return StepLosses(metric, preservation, classification, log)


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
    return ops.sum(unit_length(rows) * unit_length(others), axis=-1)
