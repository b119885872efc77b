"""Our losses beside pytorch-metric-learning's: value and gradient, on frozen values.

Where the peer computes something else than we do, the test says what, and compares what can be
compared. It has no binomial deviance loss. Its Multi-Similarity loss is in
test_multi_similarity.py, the proxy losses in test_proxy_parity.py.
"""

from functools import partial

import numpy as np
import peers
import pytest
import tensorflow as tf
from gradients import value_and_gradient
from peers import PEER, batch, cosine, each_batch, minus_distance, share, total, total_of_pairs

from keras_ms.losses.angular import AngularLoss
from keras_ms.losses.circle import CircleLoss, circle, circle_weights
from keras_ms.losses.contrastive import ContrastiveLoss, contrastive, contrastive_weights
from keras_ms.losses.histogram import HistogramLoss
from keras_ms.losses.lifted_structure import (
    LiftedStructureLoss,
    lifted_structure,
    lifted_structure_weights,
)
from keras_ms.losses.margin import MarginLoss, draw_probabilities, margin_statistics
from keras_ms.losses.n_pair import NPairLoss, n_pair
from keras_ms.losses.pair_loss import PairLoss
from keras_ms.losses.supervised_contrastive import (
    SupervisedContrastiveLoss,
    supervised_contrastive,
    supervised_contrastive_weights,
)
from keras_ms.losses.triplet import TripletLoss, triplet_all
from keras_ms.pairs.pairs import Pairs


def assert_agrees(function, case, key, rtol=1e-6):
    peers.assert_agrees(
        function, case.embeddings, PEER[f"{key}/value"], PEER[f"{key}/gradient"], rtol
    )


def gaps(similarity, case):
    """S_an - S_ap of every triplet, (anchors, positives, negatives); -9 where it is none."""
    triplets = case.positive[:, :, None] & case.negative[:, None, :]
    return np.where(triplets, similarity[:, None, :] - similarity[:, :, None], -9)


@each_batch
@pytest.mark.parametrize("peer, factor", [("contrastive_cosine", 1), ("contrastive_squared", 2)])
def test_contrastive(peer, factor, name):
    """The peer averages positive and negative terms apart, each over those that are not 0. A
    squared distance is 2 - 2 S: its margin of 1 is our threshold of 0.5, its values are twice
    ours."""
    case, threshold = batch(name), 0.5
    per_positive = factor / (case.similarity[case.positive] < 1).sum()
    per_negative = factor / max((case.similarity[case.negative] > threshold).sum(), 1)
    both = total(ContrastiveLoss, {"threshold": threshold}, case, per_negative)
    # with no negative above 1 the positives are alone
    rest = total(ContrastiveLoss, {"threshold": 1.0}, case, per_positive - per_negative)
    assert_agrees(lambda x: both(x) + rest(x), case, f"{peer}/{name}")


@each_batch
def test_contrastive_on_distances(name):
    """By default the peer works on distances D. That is our loss with -D for similarity: a
    positive's D is 1 - (-D) less 1, and [1 - D]+ of a negative has the threshold -1."""
    case = batch(name)
    nothing = np.zeros_like(case.positive)
    num_near = max((2 - 2 * case.similarity[case.negative] < 1).sum(), 1)
    positives = total_of_pairs(
        contrastive, minus_distance, case.positive, nothing, 1 / case.positive.sum()
    )
    negatives = total_of_pairs(
        lambda pairs: contrastive(pairs, threshold=-1.0),
        minus_distance,
        nothing,
        case.negative,
        1 / num_near,
    )
    assert_agrees(lambda x: positives(x) - 1 + negatives(x), case, f"contrastive/{name}")


@each_batch
@pytest.mark.parametrize("peer, factor", [("triplet_cosine", 1), ("triplet_squared", 2)])
def test_triplet_all(peer, factor, name):
    """The peer averages over the violating triplets of the batch, we over all of an anchor. On
    squared distances its margin and its values are twice ours."""
    case = batch(name)
    margin = float(PEER[f"{peer}/margin"]) / factor
    num_violating = (gaps(case.similarity, case) + margin > 0).sum()
    num_triplets = case.positive.sum(1) * case.negative.sum(1)
    settings = {"margin": margin, "mining": "all"}
    function = total(TripletLoss, settings, case, factor * num_triplets / num_violating)
    assert_agrees(function, case, f"{peer}/{name}")


@each_batch
def test_triplet_all_on_distances(name):
    """By default the peer works on distances: our loss with -D for similarity."""
    case, margin = batch(name), float(PEER["triplet/margin"])
    similarity = -np.sqrt(np.maximum(2 - 2 * case.similarity, 0))
    num_violating = max((gaps(similarity, case) + margin > 0).sum(), 1)
    function = total_of_pairs(
        lambda pairs: triplet_all(pairs, margin),
        minus_distance,
        case.positive,
        case.negative,
        case.positive.sum(1) * case.negative.sum(1) / num_violating,
    )
    assert_agrees(function, case, f"triplet/{name}")


@each_batch
def test_triplet_hard(name):
    """The peer averages over the anchors whose loss is not 0."""
    case, margin = batch(name), float(PEER["triplet_hard/margin"])
    num_violating = (gaps(case.similarity, case).max((1, 2)) + margin > 0).sum()
    settings = {"margin": margin, "mining": "hard"}
    function = total(TripletLoss, settings, case, 1 / num_violating)
    assert_agrees(function, case, f"triplet_hard/{name}")


def test_triplet_semi_hard():
    """The peer's miner keeps every negative that is less similar than the positive by up to the
    margin; we take the hardest one of them, by TensorFlow's rule. For anchors with one negative
    that is the same."""
    case, margin = batch("trio"), float(PEER["triplet_semi_hard/margin"])
    num_kept = (gaps(case.similarity, case) + margin > 0).sum()
    assert num_kept == 2 and gaps(case.similarity, case).max() < 0
    function = total(TripletLoss, {"margin": margin, "mining": "semi_hard"}, case, 1 / num_kept)
    assert_agrees(function, case, "triplet_semi_hard/trio")


@each_batch
def test_lifted_structure(name):
    """Two-sided, both as in the paper."""
    case = batch(name)
    settings = {"two_sided": True, "margin": float(PEER["lifted_structure/neg_margin"])}
    function = total(LiftedStructureLoss, settings, case, 1 / len(case.labels))
    assert_agrees(function, case, f"lifted_structure/{name}")


@each_batch
def test_generalized_lifted_structure(name):
    """One-sided. The peer takes the logarithm of a sum over no positives for 0, so an anchor
    without a positive has a loss from its negatives; with us it has none."""
    case, peer = batch(name), "generalized_lifted_structure"
    threshold = float(PEER[f"{peer}/pos_margin"])
    own = total(LiftedStructureLoss, {"threshold": threshold}, case, 1 / len(case.labels))
    alone = ~case.positive.any(1)
    assert alone.any() == (name in ("random", "trio"))

    def of_negatives_alone(x):
        terms = tf.where(case.negative, tf.exp(cosine(x)), 0.0)
        losses = tf.nn.relu(tf.math.log(tf.reduce_sum(terms, axis=1)))
        return tf.reduce_sum(losses[alone]) / len(case.labels)

    assert_agrees(lambda x: own(x) + of_negatives_alone(x), case, f"{peer}/{name}")


@pytest.mark.parametrize("name", ["balanced", "random", "pairs"])
@pytest.mark.parametrize("peer", ["n_pairs", "n_pairs_dot"])
def test_n_pairs(peer, name):
    """The peer takes the first two images of a class, one as anchor, and for negatives the other
    classes' second images only; by default we take every image as anchor and every image of
    another class for a negative. On the same pairs the loss is the same, and so is that of
    one_pair_per_class, which divides by the batch where the peer divides by the pairs. By default
    the peer normalises the embeddings; the paper does not."""
    case = batch(name)
    classes = [np.flatnonzero(case.labels == label)[:2] for label in np.unique(case.labels)]
    anchors, positives = np.array([items for items in classes if len(items) == 2]).T
    function = peers.mean_of_paired(
        lambda pairs: n_pair(pairs, regularization=0.0),
        anchors,
        positives,
        np.eye(len(anchors), dtype=bool),
        normalise=peer == "n_pairs",
    )
    assert_agrees(function, case, f"{peer}/{name}")
    if peer == "n_pairs_dot":
        settings = {"one_pair_per_class": True, "regularization": 0.0}
        assert_agrees(total(NPairLoss, settings, case, 1 / len(anchors)), case, f"{peer}/{name}")


@pytest.mark.parametrize("name", ["balanced", "pairs"])
def test_n_pairs_regularisation(name):
    """The peer adds weight * mean |x|^2. The mean of our term over the anchors of classes of one
    size is 0.5 * regularization * mean |x|^2."""
    case, peer = batch(name), "n_pairs_regularised"
    regularization = 2 * float(PEER[f"{peer}/embedding_reg_weight"])
    per_anchor = 1 / len(case.labels)
    both = total(NPairLoss, {"regularization": regularization}, case, per_anchor)
    rest = total(NPairLoss, {"regularization": 0.0}, case, -per_anchor)
    terms = [
        PEER[f"{peer}/{name}/{kind}"] - PEER[f"n_pairs_dot/{name}/{kind}"]
        for kind in ("value", "gradient")
    ]
    peers.assert_agrees(lambda x: both(x) + rest(x), case.embeddings, *terms)


@each_batch
def test_nt_xent(name):
    """The peer sums for every positive over that one and the negatives: the N-pair loss of
    similarity / temperature, and with one positive an anchor also the supervised contrastive
    loss. Mean over the batch's positive pairs."""
    case, temperature = batch(name), float(PEER["nt_xent/temperature"])
    weights = share(case.positive.sum(1))
    function = total_of_pairs(
        lambda pairs: n_pair(pairs, regularization=0.0),
        lambda x: cosine(x) / temperature,
        case.positive,
        case.negative,
        weights,
    )
    assert_agrees(function, case, f"nt_xent/{name}")
    if name in ("pairs", "trio"):
        settings = {"temperature": temperature}
        function = total(SupervisedContrastiveLoss, settings, case, weights)
        assert_agrees(function, case, f"nt_xent/{name}")


@pytest.mark.parametrize("name", ["balanced", "random", "pairs"])
@pytest.mark.parametrize("peer, rtol", [("histogram", 1e-6), ("histogram_default", 1e-5)])
def test_histogram(peer, rtol, name):
    """One value for the batch. The peer rounds the nodes of its histograms to float32: those of
    64 bins are exact, those of its default of 100 are not."""
    case = batch(name)
    settings = {"num_steps": int(PEER[f"{peer}/n_bins"]) + 1}
    function = total(HistogramLoss, settings, case, 1 / len(case.labels))
    assert_agrees(function, case, f"{peer}/{name}", rtol)


@each_batch
def test_angular(name):
    """Mean over the batch's positive pairs. The peer leaves the negatives as long as they come, so
    that its gradient may lengthen them; on unit embeddings the rest of it is ours."""
    case, settings = batch(name), {"angle": float(PEER["angular/alpha"])}
    unit = case.embeddings / np.linalg.norm(case.embeddings, axis=1, keepdims=True)
    gradient = PEER[f"angular/{name}/gradient"]
    along = (gradient * unit).sum(axis=1, keepdims=True) * unit
    assert np.abs(along).max() > 0.01
    function = total(AngularLoss, settings, case, share(case.positive.sum(1)))
    peers.assert_agrees(function, unit, PEER[f"angular/{name}/value"], gradient - along)


def test_margin():
    """Without a miner the peer takes every negative alike, we by its probability: the same for
    anchors with one negative. The peer holds its boundary in float32, and divides by the number
    of terms that are not 0."""
    case, margin = batch("trio"), float(PEER["margin/margin"])
    boundary = float(np.float32(PEER["margin/beta"]))
    distance = np.sqrt(np.maximum(2 - 2 * case.similarity, 0))
    has_positive = case.positive.any(1)
    num_terms = (case.positive & (distance > boundary - margin)).sum() + (
        case.negative & has_positive[:, None] & (distance < boundary + margin)
    ).sum()
    settings = {"margin": margin, "boundary": boundary}
    function = total(MarginLoss, settings, case, has_positive / num_terms)
    assert_agrees(function, case, "margin/trio")


@pytest.mark.parametrize("name", ["balanced", "random"])
@pytest.mark.parametrize("cutoff", [1.4, 2.1])
def test_margin_with_distance_weighted_sampling(cutoff, name):
    """The peer draws a negative with the probability that we weigh it by, so our loss is its
    expectation, here per anchor and positive, before the peer divides."""
    case = batch(name)
    drawn = PEER[f"sampling/{cutoff}/{name}"]
    pairs = Pairs(
        tf.constant(case.similarity), tf.constant(case.positive), tf.constant(case.negative)
    )
    log_total = margin_statistics(pairs, cutoff, 8)[1]
    own = np.asarray(draw_probabilities(pairs, log_total, cutoff, 8))
    np.testing.assert_allclose(own, drawn, rtol=1e-6, atol=1e-12)

    distance = np.sqrt(np.maximum(2 - 2 * case.similarity, 0))
    pull = np.where(case.positive, np.maximum(distance - 1.0, 0), 0).sum(1)
    push = (drawn * np.maximum(1.4 - distance, 0)).sum(1)
    expected = pull / np.maximum(case.positive.sum(1), 1) + push
    settings = {"margin": 0.2, "boundary": 1.2, "cutoff": cutoff}
    function = total(MarginLoss, settings, case, 1 / len(case.labels))
    assert float(function(case.embeddings)) == pytest.approx(expected.mean(), rel=1e-6)


@each_batch
@pytest.mark.parametrize(
    "peer, loss_class, names",
    [
        ("circle", CircleLoss, {"margin": "m", "gamma": "gamma"}),
        ("supervised_contrastive", SupervisedContrastiveLoss, {"temperature": "temperature"}),
    ],
)
def test_circle_and_supervised_contrastive(peer, loss_class, names, name):
    """The peer averages over the anchors whose loss is not 0: those with a positive."""
    case = batch(name)
    settings = {own: float(PEER[f"{peer}/{its}"]) for own, its in names.items()}
    function = total(loss_class, settings, case, 1 / case.positive.any(1).sum())
    assert_agrees(function, case, f"{peer}/{name}")


# of anchor 0, whose positive has the similarity 0.6 and its negative 0.8
ONE_PAIR_OF_EACH_KIND = {
    "contrastive_cosine": (contrastive, contrastive_weights, {"threshold": 0.5}, 0.4 + 0.3),
    "generalized_lifted_structure": (
        lifted_structure,
        lifted_structure_weights,
        {"threshold": 0.5},
        0.5 - 0.6 + 0.8,
    ),
    # the exponents are 80 * 1.2 * 0.4 of the negative and -80 * 0.8 * 0 of the positive
    "circle": (circle, circle_weights, {"margin": 0.4, "gamma": 80.0}, np.log1p(np.exp(38.4))),
    "supervised_contrastive": (
        supervised_contrastive,
        supervised_contrastive_weights,
        {"temperature": 0.1},
        np.log1p(np.exp((0.8 - 0.6) / 0.1)),
    ),
}


def mine_one_of_each_kind(pairs):
    positive, negative = np.zeros((2, 3, 3), bool)
    positive[0, 1] = negative[0, 2] = True
    return Pairs(pairs.similarity, positive & pairs.positive, negative & pairs.negative)


@pytest.mark.parametrize("peer", ONE_PAIR_OF_EACH_KIND)
def test_one_positive_and_one_negative_pair(peer):
    """The peer returns 0, value and gradient: it takes index lists of at most one entry for empty
    ones. The formulas have a value."""
    assert PEER[f"{peer}/lonely/value"] == 0 and not PEER[f"{peer}/lonely/gradient"].any()
    pair_loss, weighting, settings, expected = ONE_PAIR_OF_EACH_KIND[peer]
    case = batch("lonely")
    loss = PairLoss(
        partial(pair_loss, **settings),
        partial(weighting, **settings),
        mine_one_of_each_kind,
        reduction="sum",
        dtype="float64",
    )
    value, gradient = value_and_gradient(loss, case.labels, case.embeddings)
    assert value == pytest.approx(expected, rel=1e-6)
    assert np.abs(gradient).max() > 0.1


def test_one_triplet():
    """Losses that the peer states on triplets do not have that flaw."""
    case, margin = batch("lonely"), float(PEER["triplet_cosine/margin"])
    function = total_of_pairs(
        lambda pairs: triplet_all(mine_one_of_each_kind(pairs), margin),
        cosine,
        case.positive,
        case.negative,
        1.0,
    )
    assert_agrees(function, case, "triplet_cosine/lonely")
