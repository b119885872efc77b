"""The triplet losses, their weights and the two miners."""

import keras
import numpy as np
import oracles_triplets as oracles
import pytest
import tensorflow as tf
from gradients import value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ms.losses.triplet import MININGS, TripletLoss
from keras_ms.pairs.mining import mine_hard, mine_semi_hard
from keras_ms.pairs.pairs import Pairs

# many batches here have no pair, or none that counts
pytestmark = pytest.mark.filterwarnings("ignore:.*No anchor of this batch has a mined pair")

ROWS = {mining: getattr(oracles, f"triplet_{mining}") for mining in MININGS}
PLAIN = {mining: getattr(oracles, f"plain_triplet_{mining}") for mining in MININGS}
# shared, because each new loss is compiled anew
LOSSES = {mining: TripletLoss(mining=mining, jit_compile=False) for mining in MININGS}
COMPILED = {mining: TripletLoss(mining=mining, jit_compile=True) for mining in MININGS}
minings = pytest.mark.parametrize("mining", MININGS)


def distance_to_a_jump(embeddings, labels, mining, margin):
    """How far the nearest triplet is from where the gradient, or with semi-hard triplets the
    value, jumps."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cube, exists = oracles.plain_cube(unit @ unit.T, *oracles.masks(labels))
    at = [0, -margin] if mining == "semi_hard" else [-margin]
    return min(np.abs(cube - jump)[exists].min(initial=np.inf) for jump in at)


@minings
def test_rows_and_weights_are_those_of_the_literal_loss(mining):
    rng = np.random.default_rng(0)
    loss, weighting = MININGS[mining]
    active = 0
    for number in range(60):
        pairs = Pairs(*oracles.random_pairs(rng, tied=number % 2))
        # off the grid of tied similarities, so that no triplet is exactly at the margin
        margin = rng.choice([0.0501, 0.1001, 0.5001])
        expected = ROWS[mining](*pairs, margin)
        rows, derivative = oracles.by_similarity(PLAIN[mining], *pairs, margin=margin)
        np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(loss(pairs, margin), expected, rtol=1e-12, atol=1e-15)
        weights = weighting(pairs, margin).numpy()
        np.testing.assert_allclose(weights, derivative, rtol=1e-12, atol=1e-15)
        assert (weights[pairs.positive] <= 0).all() and (weights[pairs.negative] >= 0).all()
        assert not weights[~(pairs.positive | pairs.negative)].any()
        active += (weights > 0).any()
    assert active > 30


@minings
def test_weights_are_the_slope_of_the_oracle(mining):
    rng = np.random.default_rng(5)
    similarity = rng.uniform(-1, 1, size=(12, 12))  # no two are equal
    positive, negative = oracles.masks(np.arange(12) // 3)
    weights = MININGS[mining][1](Pairs(similarity, positive, negative), 0.3).numpy()
    assert weights.any()
    for i, j in np.ndindex(similarity.shape):
        values = []
        for sign in (1, -1):
            moved = similarity.copy()
            moved[i, j] += sign * 1e-7
            values.append(ROWS[mining](moved, positive, negative, 0.3)[i])
        assert weights[i, j] == pytest.approx((values[0] - values[1]) / 2e-7, abs=1e-6)


@pytest.mark.parametrize(
    "count, more_than",
    [(15, 4), pytest.param(60, 25, marks=[pytest.mark.slow, pytest.mark.release])],
)
@minings
def test_value_and_gradient_on_random_batches(mining, count, more_than):
    rng = np.random.default_rng(1)
    losses = [
        (tolerance, oracles.traced(TripletLoss(0.1, mining, dtype=dtype), dtype))
        for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5))
    ]
    compared = near_jumps = with_loss = 0
    while compared < count:
        labels, embeddings = oracles.random_batch(rng)
        embeddings = embeddings.astype("float32") * np.float32(10 ** rng.uniform(-1, 1))
        weights = rng.random(len(labels)) if compared % 3 == 0 else np.ones(len(labels))
        if distance_to_a_jump(embeddings.astype("float64"), labels, mining, 0.1) < 1e-6:
            near_jumps += 1  # rounding decides, so the batch says nothing
            continue
        compared += 1
        expected, expected_gradient = oracles.by_embeddings(
            PLAIN[mining], embeddings, labels, True, weights, margin=0.1
        )
        expected_gradient = oracles.over_duplicates(embeddings, expected_gradient)
        with_loss += expected > 0
        for tolerance, loss in losses:
            value, gradient = loss(labels, embeddings, weights)
            assert value == pytest.approx(expected, rel=tolerance, abs=tolerance * 1e-2)
            np.testing.assert_allclose(
                oracles.over_duplicates(embeddings, gradient),
                expected_gradient,
                atol=tolerance * max(np.abs(expected_gradient).max(), 1e-3),
            )
    assert with_loss > more_than
    assert near_jumps < count


@minings
@oracles.degenerate_compiled_or_not
def test_degenerate_batches(mining, name, compiled):
    losses = COMPILED if compiled else LOSSES
    labels, embeddings = oracles.DEGENERATE[name]
    embeddings = np.asarray(embeddings, "float32")
    value, gradient = value_and_gradient(losses[mining], labels, embeddings)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.where(norms > 0, norms, 1)
    expected = ROWS[mining](unit @ unit.T, *oracles.masks(list(labels)), 0.1).mean()
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert np.isfinite(gradient).all()
    if name in ("collapsed", "zero vectors"):
        assert value == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@minings
def test_lengths_do_not_matter(mining, scale):
    labels, embeddings = np.arange(8) // 2, oracles.RANDOM.astype("float32")
    expected, _ = value_and_gradient(LOSSES[mining], labels, embeddings)
    value, gradient = value_and_gradient(LOSSES[mining], labels, embeddings * np.float32(scale))
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()


@minings
def test_no_exception_is_made_for_a_broken_embedding(mining):
    embeddings = oracles.RANDOM.astype("float32")
    embeddings[5, 2] = np.nan
    for loss in (LOSSES[mining], COMPILED[mining]):
        value, gradient = value_and_gradient(loss, np.arange(8) // 2, embeddings)
        assert np.isnan(value) and np.isnan(gradient[5]).any()


@pytest.mark.parametrize(
    "mining, jit_compile",
    [
        *((mining, False) for mining in MININGS),
        ("semi_hard", True),
        pytest.param("all", True, marks=[pytest.mark.slow, pytest.mark.release]),
        pytest.param("hard", True, marks=[pytest.mark.slow, pytest.mark.release]),
    ],
)
def test_blocks_equal_the_dense_matrix(mining, jit_compile):
    rng = np.random.default_rng(2)
    labels, embeddings = rng.integers(9, size=50), rng.normal(size=(50, 8)).astype("float32")
    weights = rng.random(50).astype("float32")
    dense = value_and_gradient(LOSSES[mining], labels, embeddings, weights)
    blocks = value_and_gradient(
        TripletLoss(mining=mining, block_size=16, jit_compile=jit_compile),
        labels,
        embeddings,
        weights,
    )
    assert blocks[0] == pytest.approx(dense[0], rel=1e-6)
    np.testing.assert_allclose(blocks[1], dense[1], atol=1e-7)


@minings
@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_order_does_not_matter(mining, seed):
    rng = np.random.default_rng(seed)
    similarity, positive, negative = oracles.random_pairs(rng, tied=True)
    order = rng.permutation(len(similarity))
    moved = Pairs(*(matrix[order][:, order] for matrix in (similarity, positive, negative)))
    loss, weighting = MININGS[mining]
    pairs = Pairs(similarity, positive, negative)
    np.testing.assert_allclose(loss(moved), loss(pairs).numpy()[order], atol=1e-12)
    expected = weighting(pairs).numpy()[order][:, order]
    np.testing.assert_allclose(weighting(moved), expected, atol=1e-12)


@minings
def test_the_surrogate_has_the_gradient_of_the_loss(mining):
    rng = np.random.default_rng(3)
    labels, embeddings = np.arange(24) // 4, tf.constant(rng.normal(size=(24, 6)))
    _, expected = oracles.by_embeddings(PLAIN[mining], embeddings, labels, True, margin=0.1)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        unit = embeddings / tf.norm(embeddings, axis=1, keepdims=True)
        similarity = tf.matmul(unit, unit, transpose_b=True)
        weights = MININGS[mining][1](Pairs(similarity, *oracles.masks(labels)), 0.1)
        surrogate = tf.reduce_sum(tf.stop_gradient(weights) * similarity) / 24
    np.testing.assert_allclose(tape.gradient(surrogate, embeddings), expected, atol=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_miners_keep_what_they_say(tied):
    rng = np.random.default_rng(4)
    num_kept = 0
    for _ in range(60):
        pairs = Pairs(*oracles.random_pairs(rng, tied))
        for mined, expected in (
            (mine_hard(pairs), oracles.mine_hard(*pairs)),
            (mine_semi_hard(pairs, 0.1001), oracles.mine_semi_hard(*pairs, 0.1001)),
        ):
            for mask, kept in zip(mined[1:], expected, strict=True):
                assert {(i, j) for i, j in np.argwhere(mask.numpy())} == kept
                num_kept += len(kept)
    assert num_kept > 500


def test_miners_compile():
    pairs = Pairs(*oracles.random_pairs(np.random.default_rng(9)))
    for miner in (mine_hard, mine_semi_hard):
        for compiled, plain in zip(
            tf.function(miner, jit_compile=True)(pairs), miner(pairs), strict=True
        ):
            np.testing.assert_array_equal(compiled, plain)


# the others under XLA: test_every_loss.py
@pytest.mark.parametrize("mining", ["semi_hard"])
def test_a_step_of_fit_is_the_same_compiled(mining):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(24, 5)).astype("float32"), np.arange(24) // 4
    steps = []
    for jit_compile in (True, False):
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        model.set_weights([np.eye(5, 3), np.zeros(3)])
        model.compile(
            keras.optimizers.SGD(1.0), loss=TripletLoss(mining=mining), jit_compile=jit_compile
        )
        history = model.fit(inputs, labels, batch_size=24, verbose=0)
        steps.append((history.history["loss"][0], model.get_weights()[0]))
    assert steps[0][0] == pytest.approx(steps[1][0], rel=1e-5)
    np.testing.assert_allclose(steps[0][1], steps[1][1], atol=1e-6)
    assert np.abs(steps[0][1] - np.eye(5, 3)).max() > 1e-3


def test_config_round_trip():
    loss = TripletLoss(np.float32(0.25), "all", block_size=64, reduction="sum", name="t")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, TripletLoss)
    assert again.get_config() == loss.get_config()
    assert (again.margin, again.mining, again.block_size) == (0.25, "all", 64)
    assert TripletLoss().mining == "semi_hard"


@pytest.mark.parametrize(
    "argument, value", [("margin", -0.1), ("margin", np.nan), ("mining", "easy"), ("mining", None)]
)
def test_settings_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"Received: {argument}="):
        TripletLoss(**{argument: value})
