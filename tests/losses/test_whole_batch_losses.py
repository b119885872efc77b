"""N-pair, angular and histogram: losses whose anchors look at other rows than their own."""

import keras
import numpy as np
import oracles_triplets as oracles
import pytest
import tensorflow as tf
from gradients import value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ms.losses.angular import AngularLoss, angular, angular_weights
from keras_ms.losses.histogram import HistogramLoss, histogram, histogram_weights
from keras_ms.losses.n_pair import NPairLoss, first_two_of_class, n_pair, n_pair_weights
from keras_ms.pairs.labels import valid_where
from keras_ms.pairs.pairs import Pairs

# many batches here have no pair, or none that counts
pytestmark = pytest.mark.filterwarnings("ignore:.*No anchor of this batch has a mined pair")


def squared_tangent(angle):
    return np.tan(np.deg2rad(angle)) ** 2


class Case:
    """One loss in its three forms: the class, its function and weighting, its two oracles."""

    def __init__(self, kind, function, weighting, rows, plain, settings, own_settings=None):
        self.kind, self.function, self.weighting = kind, function, weighting
        self.rows, self.plain, self.settings = rows, plain, settings
        self.own_settings = own_settings or settings
        self.normalize = kind is not NPairLoss


CASES = {
    **{
        f"n_pair {value}": Case(
            NPairLoss, n_pair, n_pair_weights, oracles.n_pair, oracles.plain_n_pair,
            {"regularization": value},
        )
        for value in (0.02,)
    },
    **{
        f"angular {value}": Case(
            AngularLoss, angular, angular_weights, oracles.angular, oracles.plain_angular,
            {"angle": value}, {"squared_tangent": squared_tangent(value)},
        )
        for value in (36, 60)
    },
    **{
        f"histogram {value}": Case(
            HistogramLoss, histogram, histogram_weights, oracles.histogram,
            oracles.plain_histogram, {"num_steps": value},
        )
        for value in (12, 101)
    },
}  # fmt: skip
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
kinds = pytest.mark.parametrize("kind", [NPairLoss, AngularLoss, HistogramLoss])
DEFAULTS = {
    NPairLoss: (oracles.n_pair, {"regularization": 0.002}),
    AngularLoss: (oracles.angular, {"angle": 45}),
    HistogramLoss: (oracles.histogram, {"num_steps": 101}),
}
# shared, because each new loss is compiled anew
COMPILED = {kind: kind(jit_compile=True) for kind in DEFAULTS}
UNCOMPILED = {kind: kind(jit_compile=False) for kind in DEFAULTS}


@pytest.mark.parametrize(
    "case",
    [
        # the same loss with another value, computed for seconds
        pytest.param(
            case,
            marks=[pytest.mark.slow, pytest.mark.release]
            if name in ("angular 36", "angular 60", "histogram 101")
            else (),
        )
        for name, case in CASES.items()
    ],
    ids=CASES,
)
def test_rows_and_weights_are_those_of_the_literal_loss(case):
    rng = np.random.default_rng(0)
    with_loss = 0
    for number in range(60):
        similarity, positive, negative = oracles.random_pairs(rng, tied=number % 3 == 0)
        if not case.normalize:
            similarity = similarity * 10 ** rng.uniform(-1, 2)
        if number % 4 == 0:  # a padded item
            positive[0] = positive[:, 0] = negative[0] = negative[:, 0] = False
        pairs = Pairs(similarity, positive, negative)
        upstream = rng.random(len(similarity)) if number % 2 else np.ones(len(similarity))
        expected = case.rows(*pairs, **case.settings)
        rows, derivative = oracles.by_similarity(
            case.plain, *pairs, upstream=upstream, **case.settings
        )
        np.testing.assert_allclose(rows, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            case.function(pairs, **case.own_settings), expected, rtol=1e-9, atol=1e-12
        )
        weights = case.weighting(pairs, tf.constant(upstream), **case.own_settings).numpy()
        np.testing.assert_allclose(weights, derivative, rtol=1e-9, atol=1e-12)
        assert (weights[positive] <= 0).all() and (weights[negative] >= 0).all()
        with_loss += expected.any()
    assert with_loss > 25


@pytest.mark.parametrize(
    "count, more_than",
    [(15, 4), pytest.param(60, 25, marks=[pytest.mark.slow, pytest.mark.release])],
)
@cases
def test_value_and_gradient_on_random_batches(case, count, more_than):
    rng = np.random.default_rng(1)
    num_steps = case.settings.get("num_steps", 0)
    # the last digit of a similarity, 1e-7, is a larger part of a small step: 5e-6 of one of 101
    single = 5e-5 if num_steps > 100 else 1e-5
    losses = [
        (tolerance, oracles.traced(case.kind(**case.settings, dtype=dtype), dtype))
        for dtype, tolerance in (("float64", 1e-9), ("float32", single))
    ]
    compared = skipped = with_loss = 0
    while compared < count:
        labels, embeddings = oracles.random_batch(rng)
        embeddings = embeddings.astype("float32")
        if case.normalize:
            embeddings *= np.float32(10 ** rng.uniform(-1, 1))
        if num_steps and near_a_node(embeddings, num_steps, 1e-6):
            skipped += 1  # rounding decides between two steps, so the batch says nothing
            continue
        compared += 1
        weights = rng.random(len(labels)) if compared % 3 == 0 else np.ones(len(labels))
        expected, expected_gradient = oracles.by_embeddings(
            case.plain, embeddings, labels, case.normalize, weights, **case.settings
        )
        with_loss += expected > 0
        largest = max(np.abs(expected_gradient).max(), 1e-3)
        for tolerance, loss in losses:
            value, gradient = loss(labels, embeddings, weights)
            assert value == pytest.approx(expected, rel=tolerance, abs=tolerance * 1e-2)
            np.testing.assert_allclose(gradient, expected_gradient, atol=tolerance * largest)
    assert with_loss > more_than
    assert skipped < count


def near_a_node(embeddings, num_steps, distance):
    """Whether a similarity is this close to a node that is not the first or the last."""
    unit = embeddings.astype("float64")
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    inner = np.linspace(-1, 1, num_steps)[1:-1]
    return np.abs(similarity[:, None] - inner).min(initial=np.inf) < distance


@kinds
@oracles.degenerate_compiled_or_not
def test_degenerate_batches(kind, name, compiled):
    losses = COMPILED if compiled else UNCOMPILED
    labels, embeddings = oracles.DEGENERATE[name]
    embeddings = np.asarray(embeddings, "float32")
    value, gradient = value_and_gradient(losses[kind], labels, embeddings)
    rows, chosen = DEFAULTS[kind]
    unit = embeddings.astype("float64")
    if kind is not NPairLoss:
        norms = np.linalg.norm(unit, axis=1, keepdims=True)
        unit = unit / np.where(norms > 0, norms, 1)
    expected = rows(unit @ unit.T, *oracles.masks(list(labels)), **chosen).mean()
    # similarities one digit below 1 leave the last node of the histogram a little
    assert value == pytest.approx(expected, rel=5e-5 if kind is HistogramLoss else 1e-5, abs=1e-7)
    assert np.isfinite(gradient).all()
    if name in ("one class", "all singletons", "one image", "one image each"):
        assert value == 0 and not gradient.any()


@pytest.mark.parametrize("losses", [UNCOMPILED, COMPILED], ids=["uncompiled", "compiled"])
def test_n_pair_takes_long_embeddings(losses):
    rng = np.random.default_rng(0)
    labels, embeddings = np.arange(12) // 3, 1e3 * rng.normal(size=(12, 4)).astype("float32")
    expected, expected_gradient = oracles.by_embeddings(
        oracles.plain_n_pair, embeddings, labels, False, regularization=0.002
    )
    value, gradient = value_and_gradient(losses[NPairLoss], labels, embeddings)
    assert expected > 1e4
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max()
    )


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_angular_at_60_degrees_needs_no_float64(spread):
    rng = np.random.default_rng(0)
    labels = np.arange(60) // 3
    embeddings = (rng.normal(size=4) + spread * rng.normal(size=(60, 4))).astype("float32")
    value, gradient = value_and_gradient(AngularLoss(60), labels, embeddings)
    expected, expected_gradient = oracles.by_embeddings(
        oracles.plain_angular, embeddings, labels, True, angle=60
    )
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        gradient, expected_gradient, atol=2e-5 * np.abs(expected_gradient).max()
    )


@kinds
def test_masked_items_take_part_in_no_pair(kind):
    rng = np.random.default_rng(0)
    labels, embeddings = np.arange(20) // 4, rng.normal(size=(20, 6)).astype("float32")
    valid = np.arange(20) % 5 != 3
    loss = UNCOMPILED[kind]
    keys = valid_where(loss.label_keys(labels, embeddings), valid)
    expected = loss.per_anchor(loss.label_keys(labels[valid], embeddings[valid]), embeddings[valid])
    embeddings[~valid] = np.nan
    rows = loss.per_anchor(keys, tf.constant(embeddings)).numpy()
    np.testing.assert_allclose(rows[valid], expected, rtol=1e-5)
    assert not rows[~valid].any()


@kinds
def test_no_exception_is_made_for_a_broken_embedding(kind):
    embeddings = oracles.RANDOM.astype("float32")
    embeddings[5, 2] = np.nan
    for loss in (UNCOMPILED[kind], COMPILED[kind]):
        value, gradient = value_and_gradient(loss, np.arange(8) // 2, embeddings)
        assert np.isnan(value) and np.isnan(gradient[5]).any()


@kinds
@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_order_does_not_matter(kind, seed):
    rng = np.random.default_rng(seed)
    labels, embeddings = oracles.random_batch(rng)
    order = rng.permutation(len(labels))
    loss = kind(jit_compile=False, dtype="float64")
    value, gradient = value_and_gradient(loss, labels, embeddings)
    moved = value_and_gradient(loss, labels[order], embeddings[order])
    assert moved[0] == pytest.approx(value, rel=1e-10, abs=1e-14)
    np.testing.assert_allclose(moved[1], gradient[order], atol=1e-10)


@cases
def test_the_surrogate_has_the_gradient_of_the_loss(case):
    rng = np.random.default_rng(3)
    labels, embeddings = np.arange(24) // 4, tf.constant(rng.normal(size=(24, 6)))
    weights_of_anchors = rng.random(24)
    _, expected = oracles.by_embeddings(
        case.plain, embeddings, labels, case.normalize, weights_of_anchors, **case.settings
    )
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        rows = embeddings
        if case.normalize:
            rows = rows / tf.norm(rows, axis=1, keepdims=True)
        similarity = tf.matmul(rows, rows, transpose_b=True)
        weights = case.weighting(
            Pairs(similarity, *oracles.masks(labels)), weights_of_anchors, **case.own_settings
        )
        surrogate = tf.reduce_sum(tf.stop_gradient(weights) * similarity) / 24
    np.testing.assert_allclose(tape.gradient(surrogate, embeddings), expected, atol=1e-12)


def test_histogram_sums_many_pairs_without_losing_them():
    rng = np.random.default_rng(0)
    labels, embeddings = np.arange(1000) // 5, rng.normal(size=(1000, 32)).astype("float32")
    single = float(HistogramLoss(jit_compile=False)(labels, embeddings))
    double = float(HistogramLoss(jit_compile=False, dtype="float64")(labels, embeddings))
    assert single == pytest.approx(double, rel=1e-6)
    assert single == float(HistogramLoss(jit_compile=False)(labels, embeddings))


# the others under XLA: test_every_loss.py
@pytest.mark.parametrize("kind", [HistogramLoss])
def test_a_step_of_fit_is_the_same_compiled(kind):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(24, 5)).astype("float32"), np.arange(24) // 4
    steps = []
    for jit_compile in (True, False):
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        model.set_weights([np.eye(5, 3), np.zeros(3)])
        model.compile(keras.optimizers.SGD(1.0), loss=kind(), jit_compile=jit_compile)
        history = model.fit(inputs, labels, batch_size=24, verbose=0)
        steps.append((history.history["loss"][0], model.get_weights()[0]))
    assert steps[0][0] == pytest.approx(steps[1][0], rel=1e-5)
    np.testing.assert_allclose(steps[0][1], steps[1][1], atol=1e-5)
    assert np.abs(steps[0][1] - np.eye(5, 3)).max() > 1e-3


@pytest.mark.parametrize(
    "loss",
    [
        NPairLoss(np.float32(0.5), reduction="sum", name="n"),
        AngularLoss(40, dtype="float64"),
        HistogramLoss(51, jit_compile=False),
    ],
)
def test_config_round_trip(loss):
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "kind, argument, value",
    [
        (NPairLoss, "regularization", -1),
        (NPairLoss, "regularization", np.inf),
        (AngularLoss, "angle", 0),
        (AngularLoss, "angle", 61),
        (AngularLoss, "angle", np.nan),
        (HistogramLoss, "num_steps", 1),
        (HistogramLoss, "num_steps", 10.5),
    ],
)
def test_settings_out_of_range(kind, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}`.*Received: .*{value}"):
        kind(**{argument: value})


@kinds
def test_blocks_are_refused(kind):
    with pytest.raises(ValueError, match="takes no `block_size`"):
        kind(block_size=16)([0, 0, 1], oracles.RANDOM[:3])


def literal_one_pair_per_class(embeddings, labels, regularization):
    """Every item's loss with the batches of the paper, one pair of each class."""
    classes = [np.flatnonzero(labels == label)[:2] for label in np.unique(labels)]
    pairs = [tuple(items) for items in classes if len(items) == 2]
    rows = np.zeros(len(labels))
    for anchor, positive in pairs if len(pairs) > 1 else []:
        own = embeddings[anchor] @ embeddings[positive]
        others = [embeddings[anchor] @ embeddings[p] - own for a, p in pairs if a != anchor]
        norms = (embeddings[anchor] ** 2).sum() + (embeddings[positive] ** 2).sum()
        rows[anchor] = np.log(1 + np.exp(others).sum()) + 0.25 * regularization * norms
    return rows


def test_one_pair_per_class():
    """Of the matrix of classes, compiled and not, against the literal sum; the mined matrix, which
    pair_weights shows, gives the same gradient in test_every_loss.py."""
    rng = np.random.default_rng(5)
    options = {"reduction": None, "dtype": "float64"}
    losses = [NPairLoss(0.3, True, **options, jit_compile=compiled) for compiled in (False, True)]
    for size, classes in [(1, 1), (2, 1), (7, 3), (12, 1), (12, 12), (30, 4), (31, 20)] * 3:
        labels = rng.integers(classes, size=size)
        embeddings = rng.normal(size=(size, 4))
        expected = literal_one_pair_per_class(embeddings, labels, 0.3)
        for loss in losses if size in (2, 30) else losses[:1]:
            np.testing.assert_allclose(loss(labels, embeddings), expected, rtol=1e-12)


def test_first_two_of_class():
    codes = np.array([3, 5, 3, 9, 5, 3, 5])
    keys = np.stack([codes, *[np.zeros(7)] * 3, codes < 9], axis=1)
    first, second = first_two_of_class(tf.constant(keys))
    assert first.numpy().tolist() == [0, 1, 0, 0]
    assert second.numpy().tolist() == [2, 4, 0, 0]
