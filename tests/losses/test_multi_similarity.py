import warnings
from pathlib import Path

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from gradients import value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ms.losses.multi_similarity import PRESETS, MultiSimilarityLoss

SETTINGS = [
    *PRESETS.values(),
    {**PRESETS["official"], "epsilon": None},
    {**PRESETS["paper"], "epsilon": None},
    {"alpha": 1.0, "beta": 10.0, "threshold": 0.2, "epsilon": 0.0},
]


# shared, because each new loss is compiled anew
COMPILED = MultiSimilarityLoss(jit_compile=True)
UNCOMPILED = MultiSimilarityLoss(jit_compile=False)


def random_batch(rng):
    size = int(rng.choice([2, 3, 5, 8, 13, 24, 40, 57, 80]))
    labels = rng.integers(rng.integers(1, 41), size=size)
    spread = rng.choice([0.5, 1.0, 3.0])
    centres = rng.normal(size=(41, 16))
    embeddings = centres[labels] + spread * rng.normal(size=(size, 16))
    embeddings *= 10 ** rng.uniform(-1, 1, size=(size, 1))
    # Exact duplicates, within and across classes. Where they are all that is mined the gradient
    # is 0 but for rounding, so tiny batches have none.
    if rng.random() < 0.4 and size > 8:
        embeddings[: size // 3] = embeddings[rng.integers(size, size=size // 3)]
    return labels, embeddings.astype(np.float32)


@pytest.mark.parametrize(
    "count, more_than",
    [(40, 24), pytest.param(200, 120, marks=[pytest.mark.slow, pytest.mark.release])],
)
def test_value_and_gradient_equal_the_oracle_on_random_batches(count, more_than):
    rng = np.random.default_rng(0)
    losses = [MultiSimilarityLoss(**chosen, jit_compile=False) for chosen in SETTINGS]
    compared = near_ties = with_pairs = 0
    worst_value = worst_gradient = 0.0
    while compared < count:
        labels, embeddings = random_batch(rng)
        chosen, loss = SETTINGS[compared % len(SETTINGS)], losses[compared % len(SETTINGS)]
        if chosen is PRESETS["official"] and len(labels) in (3, 57):
            loss = COMPILED  # XLA compiles a program for every batch size
        # float32 may decide a comparison the other way when a similarity is this close to its
        # threshold; both answers are right then, so the batch says nothing
        similarity = oracles.similarities(embeddings)
        if oracles.smallest_distance_to_a_threshold(similarity, labels, chosen["epsilon"]) < 1e-6:
            near_ties += 1
            continue
        compared += 1
        expected, expected_gradient = oracles.multi_similarity(embeddings, labels, **chosen)
        value, gradient = value_and_gradient(loss, labels, embeddings)
        with_pairs += expected > 0
        worst_value = max(worst_value, abs(value - expected) / max(expected, 1e-30))
        largest = max(np.abs(expected_gradient).max(), 1e-30)
        worst_gradient = max(worst_gradient, np.abs(gradient - expected_gradient).max() / largest)
    print(f"worst value {worst_value:.1e}, gradient {worst_gradient:.1e}; {near_ties} near ties")
    assert with_pairs > more_than  # in the others the answer is 0 exactly, for the loss as well
    assert near_ties < 0.2 * count
    assert worst_value <= 1e-5
    assert worst_gradient <= 1e-5


def test_oracle_gradient_is_the_slope_of_the_oracle():
    rng = np.random.default_rng(1)
    labels, embeddings = rng.integers(4, size=12), rng.normal(size=(12, 5))
    anchor_weights = rng.random(12)
    _, gradient = oracles.multi_similarity(embeddings, labels, 2, 40, 0.5, 0.1, anchor_weights)
    for i, j in [(0, 0), (5, 2), (11, 4)]:
        values = []
        for sign in (1, -1):
            moved = embeddings.copy()
            moved[i, j] += sign * 1e-6
            values.append(
                oracles.multi_similarity(moved, labels, 2, 40, 0.5, 0.1, anchor_weights)[0]
            )
        assert gradient[i, j] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_golden_values():
    angles = np.deg2rad([0, 30, 60])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    loss = MultiSimilarityLoss()
    assert float(loss([0, 0, 1], embeddings)) == pytest.approx(0.187453, abs=1e-6)
    assert float(loss([0] * 4 + [1] * 4, np.ones((8, 3)))) == pytest.approx(0.906492, abs=1e-6)
    assert float(loss([0] * 2 + [1] * 2, np.ones((4, 3)))) == pytest.approx(0.67396, abs=1e-6)


seeds = st.integers(0, 10**6)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_order_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    labels, embeddings = rng.integers(5, size=24), rng.normal(size=(24, 8)).astype(np.float32)
    order = rng.permutation(24)
    value, gradient = value_and_gradient(UNCOMPILED, labels, embeddings)
    moved_value, moved_gradient = value_and_gradient(UNCOMPILED, labels[order], embeddings[order])
    assert moved_value == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(moved_gradient, gradient[order], atol=1e-6)


@given(seeds, st.sampled_from([0, 2**24, 2**31, 2**40, 2**62, -(2**40), -3]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_names_of_classes_do_not_matter(seed, offset, as_column):
    rng = np.random.default_rng(seed)
    labels, embeddings = rng.integers(5, size=24), rng.normal(size=(24, 8)).astype(np.float32)
    # neighbouring large ids collide in float32, and ids 2**16 or 2**32 apart in a careless code
    names = offset + rng.permutation([0, 1, 2**16, 2**32 + 1, 2**32])[labels]
    expected = UNCOMPILED(labels, embeddings)
    assert float(UNCOMPILED(names[:, None] if as_column else names, embeddings)) == float(expected)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_every_integer_dtype(dtype):
    info = np.iinfo(dtype)
    names = np.array([info.min, info.max, info.max - 1, info.max // 2], dtype)
    rng = np.random.default_rng(0)
    labels, embeddings = rng.integers(4, size=24), rng.normal(size=(24, 8)).astype(np.float32)
    assert float(COMPILED(names[labels], embeddings)) == float(COMPILED(labels, embeddings))


DEGENERATE = {
    "one class": ([3] * 6, np.random.default_rng(0).normal(size=(6, 4)), 0.0),
    "all singletons": (range(6), np.random.default_rng(0).normal(size=(6, 4)), 0.0),
    "one image": ([0], np.ones((1, 4)), 0.0),
    "collapsed": ([0] * 4 + [1] * 4, np.ones((8, 4)), 0.906492),
    # similarity 0 everywhere: log(1 + e^{2 * 0.5}) / 2 + log(1 + 2 e^{-40 * 0.5}) / 40
    "zero vectors": ([0, 0, 1, 1], np.zeros((4, 4)), 0.6566308),
    # anchors 0 and 1 hold one positive and one negative pair each, anchor 2 has no positive
    "one positive and one negative pair": ([0, 0, 1], [[1, 0], [0, 1], [0.6, 0.8]], None),
    "huge norms": ([0, 0, 1], np.array([[1, 0], [0, 1], [0.6, 0.8]]) * 1e30, None),
    "tiny norms": ([0, 0, 1], np.array([[1, 0], [0, 1], [0.6, 0.8]]) * 1e-30, None),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batches(case, dtype):
    labels, embeddings, expected = DEGENERATE[case]
    if dtype == "float16" and case in ("huge norms", "tiny norms"):
        embeddings = np.asarray(embeddings) / np.max(embeddings) * (6e4 if "huge" in case else 1e-5)
    labels, embeddings = np.array(labels), tf.cast(np.asarray(embeddings, np.float32), dtype)
    value, gradient = value_and_gradient(COMPILED, labels, embeddings)
    if expected is None:
        rounded = np.asarray(embeddings, np.float64)
        expected, _ = oracles.multi_similarity(rounded, labels, **PRESETS["official"])
        assert expected > 0.19
    assert value == pytest.approx(expected, rel=1e-5)
    # the gradient grows as 1 / norm: for a norm of 1e-5 it is beyond float16's range
    assert np.isfinite(gradient).all() or (case == "tiny norms" and dtype == "float16")


@pytest.fixture(scope="module")
def peer_values():
    """Frozen by fixtures/freeze_peer_values.py from pytorch-metric-learning."""
    with np.load(Path(__file__).parents[1] / "fixtures" / "peer_values.npz") as frozen:
        return dict(frozen)


@pytest.mark.parametrize("case", ["official", "paper", "unmined", "wide"])
def test_agrees_with_pytorch_metric_learning(peer_values, case):
    alpha, beta, threshold, epsilon = (float(value) for value in peer_values[f"{case}/settings"])
    loss = MultiSimilarityLoss(
        alpha, beta, threshold, None if np.isnan(epsilon) else epsilon, dtype="float64"
    )
    value, gradient = value_and_gradient(
        loss, peer_values[f"{case}/labels"], peer_values[f"{case}/embeddings"]
    )
    assert value == pytest.approx(float(peer_values[f"{case}/value"]), rel=1e-9)
    np.testing.assert_allclose(gradient, peer_values[f"{case}/gradient"], rtol=1e-6, atol=1e-11)


def test_one_positive_and_one_negative_pair_train(peer_values):
    """pytorch-metric-learning returns 0 here, value and gradient: it takes index lists of at most
    one entry for empty ones. The formula has a value, and so does the oracle."""
    labels, embeddings = peer_values["lonely/labels"], peer_values["lonely/embeddings"]
    assert peer_values["lonely/pairs"].tolist() == [1, 1]
    assert peer_values["lonely/value"] == 0 and not peer_values["lonely/gradient"].any()

    kept = oracles.mine(oracles.similarities(embeddings), labels, 0.1)
    assert kept == ([[1], [], []], [[2], [], []])
    expected, expected_gradient = oracles.multi_similarity(
        embeddings, labels, **PRESETS["official"]
    )
    value, gradient = value_and_gradient(COMPILED, labels, embeddings.astype(np.float32))
    assert expected > 0.19
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_embedding_stays_visible(bad, dtype, jit_compile):
    embeddings = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    embeddings[5, 2] = bad
    loss = COMPILED if jit_compile else UNCOMPILED
    for labels in ([0, 0, 1, 1, 2, 2, 3, 3], [0] * 8, range(8)):
        value, gradient = value_and_gradient(loss, np.array(labels), tf.cast(embeddings, dtype))
        assert np.isnan(value)
        assert np.isnan(gradient[5]).any()


@pytest.mark.parametrize("loss", [COMPILED, UNCOMPILED])
@pytest.mark.parametrize("outer", ["eager", "graph", "xla"])
def test_eager_graph_and_xla_agree(loss, outer):
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=24)
    embeddings = rng.normal(size=(24, 8)).astype(np.float32)
    expected, expected_gradient = value_and_gradient(UNCOMPILED, labels, embeddings)

    def step(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(labels, embeddings)
        return value, tape.gradient(value, embeddings)

    if outer != "eager":
        step = tf.function(step, jit_compile=outer == "xla")
    value, gradient = step(tf.constant(labels), tf.constant(embeddings))
    assert float(value) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)


@pytest.mark.parametrize("loss", [COMPILED, UNCOMPILED])
def test_xla_compiles_for_a_shape_and_not_for_a_batch(loss):
    @tf.function(jit_compile=True)
    def step(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(labels, embeddings)
        return value, tape.gradient(value, embeddings)

    rng = np.random.default_rng(0)
    labels, embeddings = tf.constant(rng.integers(5, size=24)), tf.random.normal((24, 8))
    program = step.experimental_get_compiler_ir(labels, embeddings)(stage="hlo")
    signature = program.split("entry_computation_layout={")[1].split("->")[0]
    assert "s64[24]" in signature and "f32[24,8]" in signature  # inputs, not constants


def test_auto_compiles_large_batches_of_known_size():
    loss = MultiSimilarityLoss()
    for size, unknown, expected in [(80, False, False), (256, True, False), (256, False, True)]:
        labels, embeddings = np.arange(size) // 4, np.random.default_rng(0).normal(size=(size, 4))
        shape = [None, 4] if unknown else [size, 4]
        signature = [tf.TensorSpec(shape[:1], "int64"), tf.TensorSpec(shape, "float64")]
        step = tf.function(loss, input_signature=signature)
        graph = step.get_concrete_function().graph
        jitted = [
            node.attr["_XlaMustCompile"].b
            for node in graph.as_graph_def().node
            if "PartitionedCall" in node.op
        ]
        assert any(jitted) == expected
        assert float(step(labels, embeddings)) == pytest.approx(
            float(UNCOMPILED(labels, embeddings)), rel=1e-5
        )


def test_sample_weight_weighs_anchors():
    rng = np.random.default_rng(0)
    labels, embeddings = rng.integers(5, size=30), rng.normal(size=(30, 8)).astype(np.float32)
    weights = rng.random(30).astype(np.float32)
    expected, expected_gradient = oracles.multi_similarity(
        embeddings, labels, **PRESETS["official"], anchor_weights=weights
    )
    value, gradient = value_and_gradient(COMPILED, labels, embeddings, weights)
    assert value == pytest.approx(expected, rel=1e-5)
    largest = np.abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * largest)


def test_a_loss_of_zero_is_explained_once():
    loss = MultiSimilarityLoss()
    with pytest.warns(UserWarning, match="No anchor of this batch has a mined pair"):
        assert float(loss([0, 0], np.eye(2))) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss([0, 0], np.eye(2))
        # nor is one made by weights of 0 laid on the mining
        weightless = MultiSimilarityLoss()([0, 0, 1], np.ones((3, 2)), sample_weight=[0, 0, 0])
        assert float(weightless) == 0


def test_presets():
    assert MultiSimilarityLoss().get_config() == {
        **MultiSimilarityLoss.from_preset("official").get_config()
    }
    paper = MultiSimilarityLoss.from_preset("paper", epsilon=None)
    assert (paper.alpha, paper.beta, paper.threshold, paper.epsilon) == (2, 50, 1, None)
    with pytest.raises(ValueError, match=r"\['official', 'paper'\]. Received: 'papers'"):
        MultiSimilarityLoss.from_preset("papers")


def test_config_round_trip():
    loss = MultiSimilarityLoss(
        1,
        np.float32(10),
        0.25,
        None,
        block_size=64,
        jit_compile=False,
        reduction="sum",
        name="ms",
        dtype="float64",
    )
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, MultiSimilarityLoss)
    assert again.get_config() == loss.get_config()
    assert again.get_config() == {
        "name": "ms",
        "reduction": "sum",
        "alpha": 1.0,
        "beta": 10.0,
        "threshold": 0.25,
        "epsilon": None,
        "block_size": 64,
        "jit_compile": False,
        "dtype": "float64",
    }


@pytest.mark.parametrize(
    "argument, value",
    [
        ("alpha", 0),
        ("beta", -1),
        ("beta", np.inf),
        ("threshold", np.nan),
        ("epsilon", -0.1),
        ("jit_compile", "yes"),
        ("dtype", "float16"),
        ("dtype", "bfloat16"),
        ("dtype", "mixed_float16"),
    ],
)
def test_settings_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"Received: {argument}="):
        MultiSimilarityLoss(**{argument: value})
