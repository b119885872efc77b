"""The General Pair Weighting theorem for the losses whose anchors stand apart and for the
two-sided lifted structure loss: every weighting is the derivative of its loss with respect to the
similarities."""

from functools import partial

import numpy as np
import oracles
import oracles_row_losses as literal
import pytest
import tensorflow as tf

from keras_ms import weighting
from keras_ms.losses.binomial_deviance import binomial_deviance
from keras_ms.losses.circle import circle
from keras_ms.losses.contrastive import contrastive
from keras_ms.losses.lifted_structure import lifted_structure, two_sided_lifted_structure
from keras_ms.losses.margin import draw_probabilities, margin_loss, margin_statistics
from keras_ms.losses.supervised_contrastive import supervised_contrastive
from keras_ms.pairs.labels import label_keys
from keras_ms.pairs.pairs import Pairs, pair_masks

FUNCTIONS = {
    "contrastive": (contrastive, weighting.contrastive_weights),
    "binomial_deviance": (binomial_deviance, weighting.binomial_deviance_weights),
    "lifted_structure": (lifted_structure, weighting.lifted_structure_weights),
    "circle": (circle, weighting.circle_weights),
    "supervised_contrastive": (
        supervised_contrastive,
        weighting.supervised_contrastive_weights,
    ),
    "margin": (margin_loss, weighting.margin_weights),
}

CASES = [
    ("contrastive", {"threshold": 0.5}),
    ("contrastive", {"threshold": -0.1}),
    ("binomial_deviance", {"alpha": 2.0, "beta": 50.0, "threshold": 0.5}),
    ("binomial_deviance", {"alpha": 1.0, "beta": 3.0, "threshold": -0.2}),
    ("lifted_structure", {"threshold": 1.0}),
    ("lifted_structure", {"threshold": -2.5}),  # some anchors are at 0
    ("circle", {"margin": 0.25, "gamma": 256.0}),
    ("circle", {"margin": 0.4, "gamma": 8.0}),
    ("supervised_contrastive", {"temperature": 0.1}),
    ("supervised_contrastive", {"temperature": 1.0}),
    ("margin", {"margin": 0.2, "boundary": 1.2, "cutoff": 1.4, "dimension": 5}),
    ("margin", {"margin": 0.5, "boundary": 0.4, "cutoff": None, "dimension": 64}),
    ("margin", {"margin": 0.2, "boundary": 1.2, "cutoff": 0.9, "dimension": 2}),
]

NOISE = np.random.default_rng(5).normal(size=(6, 4))
BATCHES = {
    "random": ([0, 0, 1, 2, 1, 0, 3, 3, 2, 2, 4, 0], np.random.default_rng(1).normal(size=(12, 5))),
    "clustered": (
        np.arange(12) // 4,
        np.eye(5)[np.arange(12) // 4] + 0.3 * np.random.default_rng(2).normal(size=(12, 5)),
    ),
    "duplicates": ([0, 0, 1, 1, 0, 2], np.concatenate([NOISE[:2], NOISE[:2], NOISE[:2]])),
    "opposite": ([0, 0, 1, 1], np.array([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])),
    "one class": ([3] * 6, NOISE),
    "all singletons": (range(6), NOISE),
    "one image": ([0], NOISE[:1]),
    "one positive, one negative": ([0, 0, 1], NOISE[:3]),
    "collapsed": ([0] * 3 + [1] * 3, np.ones((6, 4))),
}


def pairs_of(batch):
    labels, embeddings = BATCHES[batch]
    similarity = oracles.similarities(embeddings)
    masks = [mask.numpy() for mask in pair_masks(label_keys(np.array(labels)))]
    return labels, Pairs(similarity, *masks)


def derivative(function, similarity, upstream):
    similarity = tf.constant(similarity)
    with tf.GradientTape() as tape:
        tape.watch(similarity)
        rows = function(similarity)
        total = tf.reduce_sum(upstream * rows)
    gradient = tape.gradient(total, similarity, unconnected_gradients="zero")
    return rows.numpy(), tf.convert_to_tensor(gradient).numpy()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name, settings", CASES)
def test_weights_are_the_derivative_of_the_loss(name, settings, batch):
    labels, pairs = pairs_of(batch)
    loss, weights = FUNCTIONS[name]
    upstream = np.random.default_rng(0).uniform(0.1, 2, size=len(labels))
    rows, expected = derivative(
        lambda s: literal.forward(name, s, labels, **settings), pairs.similarity, upstream
    )
    np.testing.assert_allclose(
        rows, literal.rows(name, pairs.similarity, labels, **settings), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(loss(pairs, **settings), rows, rtol=1e-9, atol=1e-12)
    found = weights(pairs, **settings).numpy()
    assert found.shape == pairs.similarity.shape
    scale = max(np.abs(expected).max(), 1e-6)
    np.testing.assert_allclose(upstream[:, None] * found, expected, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("margin", [1.0, -2.0])  # with -2 some brackets are at 0
def test_two_sided_weights_are_the_derivative_of_the_loss(margin, batch):
    labels, pairs = pairs_of(batch)
    upstream = np.random.default_rng(0).uniform(0.1, 2, size=len(labels))
    rows, expected = derivative(
        lambda s: literal.two_sided_forward(s, labels, margin), pairs.similarity, upstream
    )
    value = literal.two_sided_lifted_structure(pairs.similarity, labels, margin)
    assert rows.mean() == pytest.approx(value, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(
        two_sided_lifted_structure(pairs, margin), rows, rtol=1e-9, atol=1e-12
    )
    found = weighting.two_sided_lifted_structure_weights(pairs, upstream, margin).numpy()
    scale = max(np.abs(expected).max(), 1e-6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * scale)


# circle and margin hold factors that their definitions take out of the gradient
@pytest.mark.parametrize("name, settings", [c for c in CASES if c[0] not in ("circle", "margin")])
def test_weights_are_the_slope_of_the_loops(name, settings):
    labels, pairs = pairs_of("random")
    found = FUNCTIONS[name][1](pairs, **settings).numpy()
    step = 1e-6
    for i, j in [(0, 1), (3, 7), (10, 4), (8, 9), (5, 5)]:
        values = []
        for sign in (1, -1):
            moved = pairs.similarity.copy()
            moved[i, j] += sign * step
            values.append(literal.rows(name, moved, labels, **settings)[i])
        slope = (values[0] - values[1]) / (2 * step)
        assert found[i, j] == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name, settings", CASES)
def test_the_surrogate_has_the_gradient_of_the_loss(name, settings):
    labels, embeddings = BATCHES["random"]
    embeddings = tf.constant(embeddings)
    sample_weight = np.random.default_rng(0).uniform(0.1, 2, size=len(labels))
    masks = pair_masks(label_keys(np.array(labels)))

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            unit = embeddings / tf.norm(embeddings, axis=1, keepdims=True)
            value = function(tf.matmul(unit, unit, transpose_b=True))
        return tape.gradient(value, embeddings).numpy()

    def surrogate(similarity):
        by_pair = FUNCTIONS[name][1](Pairs(similarity, *masks), **settings)
        by_pair = tf.stop_gradient(sample_weight[:, None] * by_pair)
        return tf.reduce_sum(by_pair * similarity)

    expected = gradient(
        lambda s: tf.reduce_sum(sample_weight * literal.forward(name, s, labels, **settings))
    )
    found = gradient(surrogate)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name, settings", CASES)
@pytest.mark.parametrize("batch", ["random", "clustered", "duplicates"])
def test_signs(name, settings, batch):
    _, pairs = pairs_of(batch)
    weights = FUNCTIONS[name][1](pairs, **settings).numpy()
    assert (weights[pairs.negative] >= 0).all()
    assert (weights[~(pairs.positive | pairs.negative)] == 0).all()
    if name == "supervised_contrastive":  # signed: the rows sum to 0 whatever the signs
        np.testing.assert_allclose(weights.sum(1), 0, atol=1e-12 / settings["temperature"])
    else:
        assert (weights[pairs.positive] <= 0).all()


def test_a_positive_can_be_pushed():
    similarity = np.array([[1.0, 0.9, -0.9]])
    pairs = Pairs(similarity, np.array([[False, True, True]]), np.zeros((1, 3), bool))
    weights = weighting.supervised_contrastive_weights(pairs, temperature=0.1).numpy()
    np.testing.assert_allclose(weights, [[0, 5, -5]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name, settings",
    [
        ("contrastive", {"threshold": 2.0}),
        ("binomial_deviance", {"alpha": 1e4, "beta": 1e4, "threshold": 0.0}),
        ("lifted_structure", {"threshold": 1e4}),
        ("circle", {"margin": 0.25, "gamma": 1e5}),
        ("supervised_contrastive", {"temperature": 1e-4}),
        ("margin", {"cutoff": None, "dimension": 4096}),
    ],
)
def test_extreme_scales_stay_finite(name, settings, dtype):
    similarity = np.array([[1, 1, -1, 1, -1], [1, 1, 1, 0.3, -1]], dtype)
    kind = np.array([[0, 1, 1, -1, -1], [1, 0, -1, -1, -1]])
    loss, weights = FUNCTIONS[name]
    pairs = Pairs(similarity, kind > 0, kind < 0)
    value, found = loss(pairs, **settings).numpy(), weights(pairs, **settings).numpy()
    assert value.dtype == found.dtype == dtype
    assert np.isfinite(value).all() and np.isfinite(found).all()
    if name == "circle":  # all weight on the hardest pair of each kind
        np.testing.assert_allclose(found[0], [0, 0, -2.25e5, 1.25e5, 0], rtol=1e-5)


def test_small_losses_keep_their_precision_in_float32():
    """A well separated batch: the loss is of the order of e^-20."""
    similarity = np.array([[1.0, 0.9, -0.1, 0.05]])
    kind = np.array([[0, 1, -1, -1]])
    rows, expected = derivative(
        lambda s: literal.forward("supervised_contrastive", s, [0, 0, 1, 1], temperature=0.05),
        np.broadcast_to(similarity, (4, 4)).copy(),
        np.eye(4)[0],
    )
    pairs = Pairs(similarity.astype("float32"), kind > 0, kind < 0)
    value = supervised_contrastive(pairs, temperature=0.05).numpy()
    weights = weighting.supervised_contrastive_weights(pairs, temperature=0.05).numpy()
    assert rows[0] < 1e-7
    np.testing.assert_allclose(value[0], rows[0], rtol=1e-5)
    np.testing.assert_allclose(weights[0], expected[0], rtol=1e-5)


def test_draw_probabilities_are_the_published_density():
    """One anchor and negatives at every distance: p times q is the same for all of them that are
    drawn, and those closer than 0.5 are drawn as often as one at 0.5."""
    at = np.array([0.2, 0.5, 0.8, 1.1, 1.39, 1.41, 1.9])
    similarity = (1 - at**2 / 2)[None]
    pairs = Pairs(similarity, np.zeros((1, 7), bool), np.ones((1, 7), bool))
    for cutoff, drawn in ((1.4, 5), (None, 7)):
        settings = {"cutoff": cutoff, "dimension": 16}
        _, log_total = margin_statistics(pairs, **settings)
        p = draw_probabilities(pairs, log_total, **settings).numpy()[0]
        assert p.sum() == pytest.approx(1) and (p[:drawn] > 0).all() and not p[drawn:].any()
        assert p[0] == pytest.approx(p[1])
        density = at**14 * (1 - at**2 / 4) ** 6.5
        np.testing.assert_allclose((p * density)[1:drawn], p[1] * density[1], rtol=1e-9)


def test_the_expectation_is_the_mean_of_draws():
    """Drawing one negative per positive as published has the expected value as its mean."""
    labels, pairs = pairs_of("clustered")
    settings = {"margin": 0.2, "boundary": 1.2, "cutoff": 1.6, "dimension": 5}
    expected = margin_loss(pairs, **settings).numpy()
    rng = np.random.default_rng(0)
    positives, negatives = literal.kinds(labels)
    for i in (0, 5):
        at = np.array([literal.distance(s) for s in pairs.similarity[i]])
        p = literal.draw_probabilities(pairs.similarity[i, negatives[i]], 1.6, 5)
        drawn = rng.choice(negatives[i], p=p, size=(20000, len(positives[i])))
        pull = np.maximum(at[positives[i]] - 1.0, 0).mean()
        push = np.maximum(1.4 - at[drawn], 0).mean()
        assert pull + push == pytest.approx(expected[i], abs=5e-3)


def test_partial_settings_reach_the_statistics():
    _, pairs = pairs_of("random")
    form = partial(weighting.circle_weights, gamma=8.0)
    np.testing.assert_array_equal(form(pairs), weighting.circle_weights(pairs, gamma=8.0))
