"""Large batches in tiles of the upper triangle, against all pairs at once and the oracle."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_ms
from keras_ms.losses.multi_similarity import PRESETS
from keras_ms.pairs import RowForm, RowWise, large_batches
from keras_ms.pairs.labels import label_keys
from keras_ms.pairs.pairs import Pairs
from keras_ms.pairs.unit_vectors import normalised_rows

LOSSES = {
    "multi_similarity": keras_ms.MultiSimilarityLoss,
    "multi_similarity, unmined": lambda **given: keras_ms.MultiSimilarityLoss(
        epsilon=None, **given
    ),
    # exponents that could overflow, so that logarithms of sums are joined
    "multi_similarity, steep": lambda **given: keras_ms.MultiSimilarityLoss(
        alpha=70.0, beta=200.0, **given
    ),
    "contrastive": keras_ms.ContrastiveLoss,
    "binomial_deviance": keras_ms.BinomialDevianceLoss,
    "lifted_structure": keras_ms.LiftedStructureLoss,
    "circle": keras_ms.CircleLoss,
    "supervised_contrastive": keras_ms.SupervisedContrastiveLoss,
    "margin": keras_ms.MarginLoss,
    "margin, all drawn": lambda **given: keras_ms.MarginLoss(cutoff=None, **given),
}
TILE = 8


def batch(size, classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    embeddings = rng.normal(size=(classes, 6))[labels] + rng.normal(size=(size, 6))
    return embeddings, labels


def value_and_gradient(losses, rows, weights):
    rows = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        found = losses(rows)
        total = tf.reduce_sum(found * tf.cast(weights, found.dtype))
    return found.numpy(), tape.gradient(total, rows).numpy()


def compare(name, labels, embeddings, keeps, mask=None, compiled=False, dtype="float64"):
    """The losses and gradients of tiles and of all pairs at once."""
    pairwise = LOSSES[name](dtype=dtype).pairwise(6, compiled=compiled)
    keys = label_keys(labels, dtype, mask=mask)
    rows = normalised_rows(ops.cast(embeddings, dtype))
    if mask is not None:
        rows = ops.where(ops.expand_dims(mask, 1), rows, ops.zeros_like(rows))
    weights = np.random.default_rng(1).uniform(0.3, 2, size=len(labels))
    whole = value_and_gradient(lambda rows: pairwise.losses_within_batch(rows, keys), rows, weights)
    tiles = value_and_gradient(
        lambda rows: pairwise.losses_in_tiles(rows, keys, tile_size=TILE, keeps=keeps),
        rows,
        weights,
    )
    return zip(whole, tiles)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_that_of_all_pairs_at_once(name):
    embeddings, labels = batch(21, 4)
    for keeps in (True, False):
        for whole, tiles in compare(name, labels, embeddings, keeps):
            np.testing.assert_allclose(tiles, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("keeps", [pytest.param(True, marks=pytest.mark.slow), False])
def test_compiled_they_agree_to_single_precision(keeps):
    embeddings, labels = batch(37, 9)
    for whole, tiles in compare(
        "multi_similarity", labels, embeddings, keeps, compiled=True, dtype="float32"
    ):
        assert np.abs(tiles - whole).max() <= 1e-6 * np.abs(whole).max()


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_compiled(name):
    for size in (TILE - 1, 2 * TILE, 5 * TILE + 1):
        embeddings, labels = batch(size, 9)
        for keeps in (True, False):
            for whole, tiles in compare(name, labels, embeddings, keeps, compiled=True):
                np.testing.assert_allclose(tiles, whole, rtol=1e-9, atol=1e-12)


IDS = {
    "few": np.arange(4),
    "one class": np.zeros(1, int),
    "every item its own": np.arange(40),
    "the same low bits": np.arange(4) * 2**32 + 7,
    "far apart": np.array([-(2**62), -1, 0, 2**31 - 1, 2**31, 2**62]),
}


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 7, 8, 9, 15, 16, 17, 25]),
    st.sampled_from(sorted(IDS)),
    st.sampled_from(["multi_similarity", "supervised_contrastive"]),
    st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_sizes_ids_masks_and_duplicates(seed, size, ids, name, keeps):
    rng = np.random.default_rng(seed)
    index = (
        np.arange(size) if ids == "every item its own" else rng.integers(len(IDS[ids]), size=size)
    )
    embeddings = rng.normal(size=(size, 6))
    embeddings[rng.integers(size)] = embeddings[rng.integers(size)]
    mask = rng.random(size) < 0.8
    for whole, tiles in compare(name, IDS[ids][index], embeddings, keeps, mask):
        np.testing.assert_allclose(tiles, whole, rtol=1e-9, atol=1e-12)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(large_batches, "TILES_FROM", 20)
    monkeypatch.setattr(large_batches, "TILE", 16)
    monkeypatch.setattr(large_batches, "TILES_KEPT_TO", 39)
    monkeypatch.setattr(large_batches, "num_threads", lambda: 1)


def taken(loss, size, monkeypatch):
    """The tile size and whether tiles are kept, where the loss takes tiles."""
    calls = []

    def spy(rows, keys, *, tile_size, keeps):
        calls.append((tile_size, keeps))
        return ops.zeros_like(rows[:, 0])

    pairwise = loss.pairwise(6, compiled=True)
    monkeypatch.setattr(pairwise, "losses_in_tiles", spy)
    embeddings, labels = batch(size, 5)
    loss.per_anchor(loss.label_keys(labels, embeddings), ops.cast(embeddings, "float32"))
    return calls


def test_large_batches_take_them(small_tiles, monkeypatch):
    compiled = {"jit_compile": True}
    loss = keras_ms.MultiSimilarityLoss
    assert taken(loss(**compiled), 19, monkeypatch) == []
    assert taken(loss(**compiled), 20, monkeypatch) == [(16, True)]
    # even blocks: three of 16 for 33, not two of 32
    assert taken(loss(**compiled), 33, monkeypatch) == [(16, True)]
    assert taken(loss(**compiled), 40, monkeypatch) == [(16, False)]
    assert taken(loss(**compiled, block_size=None), 33, monkeypatch) == []
    assert taken(keras_ms.TripletLoss(**compiled), 33, monkeypatch) == []


def test_two_threads_take_them_from_twice_the_size_on(small_tiles, monkeypatch):
    monkeypatch.setattr(large_batches, "num_threads", lambda: 2)
    loss = keras_ms.MultiSimilarityLoss(jit_compile=True)
    assert taken(loss, 39, monkeypatch) == []
    assert taken(loss, 40, monkeypatch) == [(16, False)]


def test_the_number_of_threads_is_what_tensorflow_was_told(monkeypatch):
    threading = tf.config.threading
    told = "get_intra_op_parallelism_threads"
    monkeypatch.setattr(threading, told, lambda: 3)
    assert large_batches.num_threads() == 3
    monkeypatch.setattr(threading, told, lambda: 0)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    assert large_batches.num_threads() == 5
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    assert large_batches.num_threads() >= 1


@RowWise
def own_weights():
    return RowForm(
        statistics=lambda pairs: (ops.max(pairs.similarity, axis=-1, keepdims=True),),
        entry=lambda pairs, most: ops.where(
            pairs.positive, -most, ops.zeros_like(pairs.similarity)
        ),
    )


def test_functions_whose_parts_are_unknown_keep_the_other_path(small_tiles):
    loss = keras_ms.WeightedPairLoss(own_weights, jit_compile=False, dtype="float64")
    pairwise = loss.pairwise(6)
    assert pairwise.is_row_wise and not pairwise.has_parts
    embeddings, labels = batch(33, 5)
    assert np.isfinite(float(loss(labels, embeddings)))


@pytest.mark.parametrize("size", [33, pytest.param(41, marks=pytest.mark.slow)])
def test_the_loss_is_that_of_the_oracle(small_tiles, size):
    embeddings, labels = batch(size, 7)
    weights = np.random.default_rng(2).uniform(0.3, 2, size=size)
    loss = keras_ms.MultiSimilarityLoss(jit_compile=True, dtype="float64")
    expected = oracles.multi_similarity(
        embeddings, labels, **PRESETS["official"], anchor_weights=weights
    )
    rows = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = loss(labels, rows, weights)
    assert float(value) == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(tape.gradient(value, rows), expected[1], rtol=1e-7, atol=1e-12)


@pytest.mark.slow
def test_a_broken_embedding_stays_visible(small_tiles):
    embeddings, labels = batch(33, 5)
    embeddings[7, 2] = np.nan
    loss = keras_ms.MultiSimilarityLoss(jit_compile=True)
    rows = tf.constant(embeddings, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = loss(labels, rows)
    assert np.isnan(value.numpy()) and np.isnan(tape.gradient(value, rows).numpy()[7]).any()


@pytest.mark.slow
def test_a_model_compiled_with_xla_trains_in_tiles_as_at_once(small_tiles):
    embeddings, labels = batch(33, 5)
    weights = []
    for block_size in ("auto", None):
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, use_bias=False)])
        model.set_weights([np.eye(6)[:, :4]])
        loss = keras_ms.MultiSimilarityLoss(block_size=block_size, jit_compile=True)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=True)
        model.fit(embeddings, labels, batch_size=33, shuffle=False, verbose=0)
        weights.append(model.get_weights()[0])
    assert np.abs(weights[0] - np.eye(6)[:, :4]).max() > 1e-4
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-7)


@pytest.mark.slow
def test_second_derivatives(small_tiles):
    embeddings, labels = batch(33, 5)
    direction = np.random.default_rng(3).normal(size=embeddings.shape)
    along = []
    for block_size in ("auto", None):
        loss = keras_ms.MultiSimilarityLoss(
            block_size=block_size, jit_compile=True, dtype="float64"
        )
        rows = tf.constant(embeddings)
        with tf.GradientTape() as outer:
            outer.watch(rows)
            with tf.GradientTape() as tape:
                tape.watch(rows)
                value = loss(labels, rows)
            total = tf.reduce_sum(tape.gradient(value, rows) * direction)
        along.append(outer.gradient(total, rows).numpy())
    np.testing.assert_allclose(along[0], along[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_row_join_to_the_row(name):
    rng = np.random.default_rng(0)
    positive = rng.random((5, 12)) < 0.3
    positive[0] = False
    # a part without pairs of a kind, and a row without any
    positive[1, :6], positive[2, 6:] = False, False
    negative = ~positive & (rng.random((5, 12)) < 0.8)
    negative[0] = False
    pairs = Pairs(*map(ops.convert_to_tensor, (rng.uniform(-1, 1, (5, 12)), positive, negative)))
    pairwise = LOSSES[name](dtype="float64").pairwise(6)
    miner, weighting = pairwise.row_forms
    for parts in (miner.statistics, weighting.statistics, pairwise.loss_parts):
        whole = parts.of(pairs, -1)
        halves = [
            parts.of(Pairs(*(each[:, columns] for each in pairs)), -1)
            for columns in (slice(0, 6), slice(6, 12))
        ]
        joined = [join(one, other) for join, one, other in zip(parts.join, *halves)]
        columns = parts.of(Pairs(*map(ops.transpose, pairs)), 0)
        for expected, found, of_columns in zip(whole, joined, columns):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
            np.testing.assert_allclose(ops.transpose(of_columns), expected, rtol=1e-12)
