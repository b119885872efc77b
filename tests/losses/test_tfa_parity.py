"""Our losses beside TensorFlow Addons': value and gradient, on frozen values.

Its losses of a batch compute in float32 whatever they are given. Where it computes something else
than we do, the test says what, and compares what can be compared.
"""

import numpy as np
import peers
import pytest
import tensorflow as tf
from peers import batch, cosine, each_batch, minus_distance, share, total, total_of_pairs

from keras_ms.losses.contrastive import ContrastiveLoss
from keras_ms.losses.lifted_structure import LiftedStructureLoss
from keras_ms.losses.n_pair import n_pair
from keras_ms.losses.supervised_contrastive import supervised_contrastive
from keras_ms.losses.triplet import TripletLoss, triplet_hard, triplet_semi_hard

ADDONS = peers.frozen_by("tfa_values")
FLOAT32 = {"rtol": 1e-6, "gradient_rtol": 1e-5}


def assert_agrees(function, embeddings, key, **tolerances):
    value, gradient = ADDONS[f"{key}/value"], ADDONS[f"{key}/gradient"]
    peers.assert_agrees(function, embeddings, value, gradient, **tolerances)


def margin_of(peer):
    return float(ADDONS[f"{peer}/margin"])


@each_batch
def test_triplet_semi_hard(name):
    """On squared distances, whose margin and values are twice ours; mean over the batch's positive
    pairs."""
    case = batch(name)
    settings = {"margin": margin_of("triplet_semi_hard") / 2, "mining": "semi_hard"}
    function = total(TripletLoss, settings, case, 2 * share(case.positive.sum(1)))
    assert_agrees(function, case.embeddings, f"triplet_semi_hard/{name}", **FLOAT32)


@each_batch
def test_triplet_semi_hard_unsquared(name):
    """By default the peer works on unsquared distances: our loss with -D for similarity."""
    case, peer = batch(name), "triplet_semi_hard_unsquared"
    function = total_of_pairs(
        lambda pairs: triplet_semi_hard(pairs, margin_of(peer)),
        minus_distance,
        case.positive,
        case.negative,
        share(case.positive.sum(1)),
    )
    assert_agrees(function, case.embeddings, f"{peer}/{name}", **FLOAT32)


@pytest.mark.parametrize("name", ["balanced", "pairs"])
def test_triplet_hard(name):
    """On squared distances, whose margin and values are twice ours."""
    case = batch(name)
    settings = {"margin": margin_of("triplet_hard") / 2, "mining": "hard"}
    function = total(TripletLoss, settings, case, 2 / len(case.labels))
    assert_agrees(function, case.embeddings, f"triplet_hard/{name}", **FLOAT32)


@each_batch
@pytest.mark.parametrize(
    "peer, similarity, factor",
    [("triplet_hard", cosine, 2), ("triplet_hard_unsquared", minus_distance, 1)],
)
def test_triplet_hard_with_anchors_without_positives(peer, similarity, factor, name):
    """The peer takes such an anchor for its own positive, at distance 0; with us it has no loss.
    By default it works on unsquared distances: our loss with -D for similarity."""
    case = batch(name)
    own_positive = np.diag(~case.positive.any(1))
    assert own_positive.any() == (name in ("random", "trio"))
    function = total_of_pairs(
        lambda pairs: triplet_hard(pairs, margin_of(peer) / factor),
        similarity,
        case.positive | own_positive,
        case.negative,
        factor / len(case.labels),
    )
    assert_agrees(function, case.embeddings, f"{peer}/{name}", **FLOAT32)


@each_batch
def test_lifted_structure(name):
    """Two-sided, both as in the paper."""
    case = batch(name)
    settings = {"two_sided": True, "margin": margin_of("lifted_structure")}
    function = total(LiftedStructureLoss, settings, case, 1 / len(case.labels))
    assert_agrees(function, case.embeddings, f"lifted_structure/{name}", **FLOAT32)


@each_batch
def test_contrastive(name):
    """The peer takes distances D from the caller, here of the pairs i < j, and their mean. Its
    positive part is D^2 = 2 - 2 S, twice ours. Its negative part is a squared hinge on D, another
    loss than ours: it is added here as the peer states it."""
    case, margin = batch(name), margin_of("contrastive")
    num_unordered = len(case.labels) * (len(case.labels) - 1) / 2
    # no negative is above 1; our sum has every pair twice, which makes up for the factor of 2
    positives = total(ContrastiveLoss, {"threshold": 1.0}, case, 1 / num_unordered)

    def negatives(x):
        hinge = tf.nn.relu(margin + minus_distance(x)) ** 2
        return tf.reduce_sum(tf.where(case.negative, hinge, 0.0)) / 2 / num_unordered

    assert_agrees(lambda x: positives(x) + negatives(x), case.embeddings, f"contrastive/{name}")


def test_n_pairs():
    """The peer takes similarities from the caller, here of even with odd items."""
    function = peers.mean_of_paired(
        lambda pairs: n_pair(pairs, regularization=0.0),
        np.arange(0, 16, 2),
        np.arange(1, 16, 2),
        np.eye(8, dtype=bool),
    )
    assert_agrees(function, batch("pairs").embeddings, "n_pairs/pairs")


def test_n_pairs_with_classes_that_come_twice():
    """The peer lets the positives of an anchor share the target of one softmax over all
    candidates. That is the supervised contrastive loss; each positive of the N-pair loss has a
    sum of its own."""
    embeddings = batch("balanced").embeddings.reshape(8, 5, 8)[:, :4].reshape(32, 8)
    labels = np.repeat(np.arange(8), 2)
    function = peers.mean_of_paired(
        lambda pairs: supervised_contrastive(pairs, temperature=1.0),
        np.arange(0, 32, 2),
        np.arange(1, 32, 2),
        labels[:, None] == labels,
    )
    assert_agrees(function, embeddings, "n_pairs/shared")
