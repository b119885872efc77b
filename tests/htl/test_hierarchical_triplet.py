"""The hierarchical triplet loss against the literal sum over all triplets, and inside Keras."""

import keras
import numpy as np
import oracles_class_tree as oracles
import pytest
import tensorflow as tf
from gradients import value_and_gradient
from numpy.testing import assert_allclose

from keras_ms.htl.class_tree import ClassTree
from keras_ms.htl.loss import HierarchicalTripletLoss, violate_margins
from keras_ms.losses.pair_weights import pair_weights
from keras_ms.models.cross_batch_memory import CrossBatchMemory
from keras_ms.pairs.labels import positions_among

pytestmark = pytest.mark.filterwarnings("ignore:.*No anchor of this batch has a mined pair")


def training_set(seed, classes=7, images=4, dimension=4):
    """(embeddings, labels): three clusters of classes, whose distances differ."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(2**62, classes, replace=False)) - 2**61
    centres = rng.normal(size=(3, dimension))[rng.integers(3, size=classes)]
    centres = centres + 0.4 * rng.normal(size=centres.shape)
    embeddings = np.repeat(centres, images, axis=0)
    return embeddings + 0.3 * rng.normal(size=embeddings.shape), np.repeat(ids, images)


def tree_of(embeddings, labels, linkage="average"):
    """The tree by ClassTree and by the oracle."""
    spread, thresholds, merged_at, closest = oracles.tree(embeddings, labels, 16, linkage)
    assert closest > 1e-6
    return ClassTree.build(embeddings, labels, 16, linkage), (spread, thresholds, merged_at)


def batch_of(embeddings, labels, rng, classes, images):
    chosen = rng.choice(np.unique(labels), classes, replace=False)
    rows = np.concatenate(
        [rng.choice(np.flatnonzero(labels == c), images, replace=False) for c in chosen]
    )
    # the batch has moved on since the tree was built
    return embeddings[rows] + 0.2 * rng.normal(size=embeddings[rows].shape), labels[rows]


@pytest.mark.parametrize("linkage, beta", [("average", 0.1), ("single", -0.3)])
def test_value_and_gradient_are_those_of_the_sum_over_all_triplets(linkage, beta):
    compared = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        tree, literal = tree_of(*training_set(seed), linkage)
        embeddings, labels = batch_of(*training_set(seed), rng, 4, 3)
        expected, closest = oracles.loss(embeddings, labels, *literal, beta)
        loss = HierarchicalTripletLoss(tree, beta, dtype="float64", jit_compile=False)
        value, gradient = value_and_gradient(loss, labels, embeddings)
        assert value == pytest.approx(expected, rel=1e-12) and value > 0
        single = HierarchicalTripletLoss(tree, beta, jit_compile=False)
        assert float(single(labels, embeddings)) == pytest.approx(expected, rel=1e-5)
        if closest > 1e-5:
            slope = oracles.gradient(
                lambda x: oracles.loss(x, labels, *literal, beta)[0], embeddings
            )
            assert_allclose(gradient, slope, atol=1e-8)
            compared += 1
    assert compared >= 2


def test_margins_are_asymmetric_and_read_from_the_tree():
    embeddings, labels = training_set(0)
    tree, (spread, thresholds, merged_at) = tree_of(embeddings, labels)
    loss = HierarchicalTripletLoss(tree, dtype="float64")
    ids = tree.class_ids
    keys = loss.label_keys(ids, np.zeros((len(ids), 2)))
    names = "tree_keys", "nodes", "thresholds", "spreads"
    margins = np.asarray(violate_margins(keys, keys, **dict(zip(names, loss._state)), beta=0.1))
    for i, a in enumerate(ids):
        for j, n in enumerate(ids):
            if i != j:
                expected = 0.1 + thresholds[merged_at[a, n]] - spread[a]
                assert margins[i, j] == pytest.approx(expected, abs=1e-12)
    assert np.abs(margins - margins.T).max() > 0.01
    assert len(np.unique(tree.merge_levels(ids[:, None], ids[None]))) > 3


def degenerate(name):
    if name == "identical points":
        return np.ones((8, 3)), np.repeat([1, 2, 3, 4], 2)
    if name == "two classes":
        return training_set(1, classes=2, images=3)
    if name == "all distances equal":
        return np.repeat(np.eye(4), 2, axis=0), np.repeat(range(4), 2)
    opposite = np.repeat([[1.0, 0.0], [-1.0, 0.0]], 3, axis=0)
    return opposite, np.repeat([0, 1], 3)


@pytest.mark.parametrize(
    "name", ["identical points", "two classes", "all distances equal", "opposite collapsed classes"]
)
def test_degenerate_batches(name):
    embeddings, labels = degenerate(name)
    tree = ClassTree.build(embeddings, labels)
    literal = oracles.tree(embeddings, labels, 16, "average")[:3]
    # the tree of identical points has rounding errors for distances: take its own numbers
    spread = dict(zip(tree.class_ids.tolist(), tree.spreads))
    merged_at = {(p, q): tree.merge_levels(p, q) for p, q in literal[2]}
    loss = HierarchicalTripletLoss(tree, dtype="float64")
    value, gradient = value_and_gradient(loss, labels, embeddings)
    expected, _ = oracles.loss(embeddings, labels, spread, tree.thresholds, merged_at, 0.1)
    assert value == pytest.approx(expected, abs=1e-12)
    assert np.isfinite(gradient).all()


def test_classes_of_one_image_have_no_triplet_as_anchors():
    embeddings, labels = training_set(2)
    keep = np.r_[0:9]  # the third class keeps one image
    tree = ClassTree.build(embeddings[keep], labels[keep])
    assert tree.spreads[2] == pytest.approx(tree.thresholds[0])
    rows = HierarchicalTripletLoss(tree, reduction="none")(labels[keep], embeddings[keep])
    assert rows[8] == 0 and (np.asarray(rows[:8]) > 0).any()
    alone = HierarchicalTripletLoss(tree)(labels[:4], embeddings[:4])
    assert float(alone) == 0


def test_class_ids_are_found_exactly():
    rng = np.random.default_rng(0)
    random_ids = rng.integers(-(2**62), 2**62, 300)
    edges = [0, 1, -1, -2, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, -(2**31), -(2**63), 2**63 - 1]
    ids = np.unique(np.concatenate([random_ids, edges]))
    loss = HierarchicalTripletLoss()
    for number in (1, 2, 3, 255, 256, len(ids)):
        known = np.sort(rng.choice(ids, number, replace=False))
        position, is_known = positions_among(
            loss.label_keys(ids, np.zeros((len(ids), 1))),
            loss.label_keys(known, np.zeros((number, 1))),
        )
        expected = np.isin(ids, known)
        assert (np.asarray(is_known) == expected).all()
        assert (known[np.asarray(position)][expected] == ids[expected]).all()


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64"])
def test_negative_class_ids_of_any_width_are_in_the_tree(kind):
    embeddings, labels = training_set(3)
    tree, _ = tree_of(embeddings, labels)
    shifted = (np.unique(labels, return_inverse=True)[1] - 3).astype(kind)
    same = HierarchicalTripletLoss(tree_of(embeddings, shifted)[0])
    value = float(same(shifted, embeddings))
    assert value == pytest.approx(float(HierarchicalTripletLoss(tree)(labels, embeddings)))
    assert float(same(shifted.astype("int64"), embeddings)) == value


@pytest.mark.slow
@pytest.mark.release
def test_eager_graph_xla_and_blocks_agree():
    embeddings, labels = training_set(3)
    tree, _ = tree_of(embeddings, labels)
    embeddings = (embeddings + np.random.default_rng(0).normal(size=embeddings.shape)).astype("f4")
    weights = np.random.default_rng(1).random(len(labels)).astype("f4")
    loss = HierarchicalTripletLoss(tree, jit_compile=False)
    expected, expected_gradient = value_and_gradient(loss, labels, embeddings, weights)
    assert expected > 0
    found = []
    for options in (
        {"jit_compile": True},
        {"block_size": 5},
        {"block_size": 5, "jit_compile": True},
    ):
        other = HierarchicalTripletLoss(tree, **options)
        found.append(value_and_gradient(other, labels, embeddings, weights))
    for jit_compile in (False, True):

        @tf.function(jit_compile=jit_compile)
        def step(embeddings):
            with tf.GradientTape() as tape:
                tape.watch(embeddings)
                value = loss(labels, embeddings, weights)
            return value, tape.gradient(value, embeddings)

        found.append(step(tf.constant(embeddings)))
    for value, gradient in found:
        assert float(value) == pytest.approx(expected, rel=2e-5)
        assert_allclose(gradient, expected_gradient, atol=2e-5 * np.abs(expected_gradient).max())


def test_pair_weights_are_those_of_the_gradient():
    embeddings, labels = training_set(3)
    loss = HierarchicalTripletLoss(tree_of(embeddings, labels)[0], dtype="float64")
    _, gradient = value_and_gradient(loss, labels, embeddings)
    unit = oracles.unit(embeddings)
    result = pair_weights(loss, embeddings, labels)
    by_unit = (result.weights + result.weights.T) @ unit
    along = np.sum(by_unit * unit, axis=1, keepdims=True) * unit
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert np.abs(gradient).max() > 0
    assert_allclose((by_unit - along) / norms, gradient, atol=1e-12)
    assert_allclose(result.similarity, unit @ unit.T, atol=1e-12)


def model():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="orthogonal")]
    )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"jit_compile": True}, marks=[pytest.mark.slow, pytest.mark.release]),
        {"jit_compile": False},
        pytest.param({"run_eagerly": True}, marks=[pytest.mark.slow, pytest.mark.release]),
    ],
)
def test_a_compiled_step_sees_the_new_tree(options):
    keras.utils.set_random_seed(0)
    inputs, labels = training_set(4)
    inputs = inputs.astype("float32")
    trained = model()
    first = ClassTree.build(inputs, labels)
    loss = HierarchicalTripletLoss(first)
    # no learning: only the tree changes the value
    trained.compile(keras.optimizers.SGD(0.0), loss=loss, **options)
    embeddings = trained.predict(inputs, verbose=0)
    second = ClassTree.build(embeddings * [1, 1, 0.1], labels)
    values = []
    for tree in (first, second, first):
        loss.assign_tree(tree)
        history = trained.fit(inputs, labels, batch_size=28, shuffle=False, verbose=0).history
        fresh = HierarchicalTripletLoss(tree)(labels, embeddings)
        assert history["loss"][0] == pytest.approx(float(fresh), rel=1e-5)
        values.append(history["loss"][0])
    assert values[0] == values[2] and abs(values[0] - values[1]) > 1e-3


@pytest.mark.slow
@pytest.mark.release
def test_saved_model_reloads_with_its_tree(tmp_path):
    inputs, labels = training_set(5)
    tree, _ = tree_of(inputs, labels)
    trained = model()
    trained.compile("sgd", loss=HierarchicalTripletLoss(tree, beta=0.3, block_size=9))
    expected = trained.evaluate(inputs, labels, batch_size=28, verbose=0)
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(inputs, labels, batch_size=28, verbose=0) == expected
    config = loaded.loss.get_config()
    assert config == trained.loss.get_config() and config["beta"] == 0.3
    empty = HierarchicalTripletLoss.from_config(HierarchicalTripletLoss().get_config())
    assert empty.tree is None


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    inputs, labels = training_set(6)
    loss = HierarchicalTripletLoss(ClassTree.build(inputs, labels))
    trained = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype=policy)])
    trained.compile(keras.optimizers.SGD(0.05), loss=loss, jit_compile=False)
    history = trained.fit(inputs, labels, batch_size=28, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]


@pytest.mark.slow
@pytest.mark.release
def test_cross_batch_memory_takes_the_margins_too():
    embeddings, labels = training_set(7)
    tree, _ = tree_of(embeddings, labels)
    loss = HierarchicalTripletLoss(tree, reduction="none")
    keys = loss.label_keys(labels, embeddings)
    rows = np.asarray(loss.per_anchor(keys, embeddings))
    # the batch's second half as memory of the first
    half = len(labels) // 2
    memory = keys[half:], keras.ops.convert_to_tensor(embeddings[half:])
    against = loss.per_anchor(keys[:half], embeddings[:half], memory)
    assert_allclose(against, rows[:half], rtol=1e-5)
    trained = CrossBatchMemory(model(), HierarchicalTripletLoss(tree), 16)
    trained.compile("sgd")
    history = trained.fit(embeddings, labels, batch_size=14, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
@pytest.mark.release
def test_lists_are_taken_as_by_every_loss():
    embeddings, labels = training_set(8)
    loss = HierarchicalTripletLoss(ClassTree.build(embeddings, labels))
    value = loss(labels.tolist(), embeddings.tolist())
    assert float(value) == pytest.approx(float(loss(labels, embeddings)), abs=1e-6)


def test_unknown_classes_are_noticed():
    embeddings, labels = training_set(8)
    loss = HierarchicalTripletLoss(ClassTree.build(embeddings[4:], labels[4:]))
    with pytest.raises(ValueError, match=f"1 classes .* the first is {labels[0]}"):
        loss(labels, embeddings)
    # what a picture of the batch would show is no weight of a tree
    with pytest.raises(ValueError, match=f"1 classes .* the first is {labels[0]}"):
        pair_weights(loss, embeddings, labels)
    with pytest.raises(ValueError, match="class tree"):
        pair_weights(HierarchicalTripletLoss(), embeddings, labels)
    keys = loss.label_keys(labels, embeddings)
    rows = tf.function(loss.per_anchor)(keys, embeddings)
    # the others as if the unknown class were not there: it has no margin
    assert np.isnan(rows[:4]).all() and (np.asarray(rows[4:]) > 0).any()
    assert_allclose(rows[4:], loss.per_anchor(keys[4:], embeddings[4:]), rtol=1e-6)
    half = len(labels) // 2
    remembered = keras.ops.convert_to_tensor(embeddings)
    with_unknown, without = (
        loss.per_anchor(keys[half:], embeddings[half:], (keys[start:half], remembered[start:half]))
        for start in (0, 4)
    )
    assert_allclose(with_unknown, without, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.release
def test_before_the_first_tree():
    embeddings, labels = training_set(8)
    loss = HierarchicalTripletLoss()
    with pytest.raises(ValueError, match="no class tree yet"):
        pair_weights(loss, embeddings, labels)
    loss.expect_tree(7, 16)
    assert loss.tree is None and loss.get_config()["tree"] is None
    for ids in (labels, labels * 0, labels * 0 - 1):
        with pytest.raises(ValueError, match="no class tree yet"):
            loss(ids, embeddings)
        rows = tf.function(loss.per_anchor)(loss.label_keys(ids, embeddings), embeddings)
        assert np.isnan(rows).all()
    with pytest.raises(ValueError, match="7 classes and 16 levels.*7 classes and 4 levels"):
        loss.expect_tree(7, 4)
    tree, _ = tree_of(embeddings, labels)
    loss.assign_tree(tree)
    assert float(loss(labels, embeddings)) == float(
        HierarchicalTripletLoss(tree)(labels, embeddings)
    )


def test_wrong_uses():
    embeddings, labels = training_set(9)
    tree = ClassTree.build(embeddings, labels)
    with pytest.raises(ValueError, match="no class tree yet"):
        HierarchicalTripletLoss()(labels, embeddings)
    trained = model()
    trained.compile("sgd", loss=HierarchicalTripletLoss())
    with pytest.raises(ValueError, match="RebuildClassTree"):
        trained.fit(embeddings, labels, verbose=0)
    loss = HierarchicalTripletLoss(tree)
    with pytest.raises(ValueError, match="7 classes and 16 levels"):
        loss.assign_tree(ClassTree.build(embeddings, labels, levels=4))
    with pytest.raises(ValueError, match="ClassTree"):
        loss.assign_tree("tree")
    with pytest.raises(ValueError, match="beta=nan"):
        HierarchicalTripletLoss(tree, beta=float("nan"))
    with pytest.raises(ValueError, match="margin"):
        HierarchicalTripletLoss(tree, margin=0.1)
