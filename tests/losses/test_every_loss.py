"""What every pair-based loss must do, whatever its formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradients import value_and_gradient

import keras_ms
from keras_ms.run.losses import named_loss, pair_loss_names

# every loss, and the forms of a loss that are computed in another way
LOSSES = {name: {} for name in pair_loss_names()}
LOSSES |= {
    "triplet all": {"mining": "all", "margin": 0.3},
    "triplet hard": {"mining": "hard"},
    "lifted_structure two-sided": {"two_sided": True},
    "n_pair one_pair_per_class": {"one_pair_per_class": True, "regularization": 0.02},
    "multi_similarity unmined": {"epsilon": None},
}
every_loss = pytest.mark.parametrize("name", LOSSES)
# one for each way by which the pairwise part alone is compiled within a graph
COMPILED_IN_PART = ("multi_similarity", "triplet", "histogram", "n_pair one_pair_per_class")

FLOAT64 = {"dtype": "float64"}


def build(name, **options):
    return named_loss(name.split()[0], **LOSSES[name], **options)


def batch(size=30, classes=6, seed=0, dimension=8):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    embeddings = rng.normal(size=(classes, dimension))[labels] + rng.normal(size=(size, dimension))
    return labels, embeddings


@every_loss
def test_eager_graph_and_xla_agree(name):
    labels, embeddings = batch()
    embeddings = embeddings.astype(np.float32)
    weights = np.random.default_rng(1).random(30).astype(np.float32)
    eager = build(name, jit_compile=False)
    expected, expected_gradient = value_and_gradient(eager, labels, embeddings, weights)
    assert expected != 0 and np.abs(expected_gradient).max() > 0
    largest = np.abs(expected_gradient).max()
    steps = [(eager, True)]
    if name in COMPILED_IN_PART:
        steps.append((build(name, jit_compile=True), False))
    for loss, whole in steps:

        @tf.function(jit_compile=whole)
        def step(embeddings):
            with tf.GradientTape() as tape:
                tape.watch(embeddings)
                value = loss(labels, embeddings, weights)
            return value, tape.gradient(value, embeddings)

        value, gradient = step(tf.constant(embeddings))
        assert float(value) == pytest.approx(expected, rel=2e-5)
        np.testing.assert_allclose(gradient, expected_gradient, atol=2e-5 * largest)


@every_loss
def test_surrogate_has_the_gradient_of_the_loss(name):
    """The General Pair Weighting theorem with respect to the embeddings: the sum of constant
    weight times similarity has the loss's gradient, sample weights included."""
    rng = np.random.default_rng(2)
    for seed, weights in ((0, None), (1, rng.random(30)), (2, None)):
        labels, embeddings = batch(seed=seed)
        if seed == 2:  # duplicates, within and across classes
            embeddings[:10] = embeddings[rng.integers(30, size=10)]
        loss = build(name, **FLOAT64)
        _, expected = value_and_gradient(loss, labels, embeddings, weights)
        found = keras_ms.pair_weights(loss, embeddings, labels, weights)
        with tf.GradientTape() as tape:
            variable = tf.constant(embeddings)
            tape.watch(variable)
            rows = tf.math.l2_normalize(variable, axis=1) if loss.normalize else variable
            surrogate = tf.reduce_sum(found.weights * tf.matmul(rows, rows, transpose_b=True))
        gradient = tape.gradient(surrogate, variable)
        np.testing.assert_allclose(gradient, expected, atol=1e-9 * max(1, np.abs(expected).max()))


@every_loss
def test_weights_lie_on_pairs_and_point_the_right_way(name):
    labels, embeddings = batch()
    found = keras_ms.pair_weights(build(name), embeddings, labels)
    same = labels[:, None] == labels[None, :]
    other = ~np.eye(30, dtype=bool)
    if not name.startswith("n_pair"):  # its L2 term weighs squared norms
        assert not found.weights[~other].any()
    assert (found.weights[~same] >= 0).all() and found.weights[~same].any()
    positives = found.weights[same & other]
    assert positives.any()
    if name != "supervised_contrastive":  # which may push the easiest positives
        assert (positives <= 0).all()
    assert (found.num_positives <= (same & other).sum(1)).all()
    np.testing.assert_array_equal(found.num_negatives, found.negative.sum(1))


DEGENERATE = {
    "no image": (np.zeros(0, int), np.zeros((0, 4))),
    "one class": ([3] * 6, np.random.default_rng(0).normal(size=(6, 4))),
    "all singletons": (range(6), np.random.default_rng(0).normal(size=(6, 4))),
    "one image": ([0], np.ones((1, 4))),
    "collapsed": ([0] * 4 + [1] * 4, np.ones((8, 4))),
    "zero vectors": ([0, 0, 1, 1], np.zeros((4, 4))),
    "opposite": ([0, 0, 1, 1], np.array([[1, 0], [-1, 0], [1, 0], [-1, 0]])),
    "one pair of each kind": ([0, 0, 1], np.array([[1, 0], [0, 1], [0.6, 0.8]])),
}


@every_loss
def test_degenerate_batches_are_finite(name):
    loss = build(name, jit_compile=False)
    for dtype in ("float32", "float16", "bfloat16"):
        for case, (labels, embeddings) in DEGENERATE.items():
            embeddings = tf.cast(np.asarray(embeddings, np.float32), dtype)
            value, gradient = value_and_gradient(loss, np.array(labels), embeddings)
            assert np.isfinite(value), case
            assert np.isfinite(gradient).all(), case
            if case in ("all singletons", "one image"):
                # no positive pair; some losses push negatives apart by themselves
                pushes = ("contrastive", "binomial_deviance", "multi_similarity unmined", "margin")
                assert name in pushes or value == 0, case
            if case in ("one image", "no image"):
                assert value == 0 and not gradient.any()


@every_loss
def test_a_batch_of_no_image_is_0_where_its_size_is_open(name):
    loss = build(name, jit_compile=False)
    shapes = [tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, 4))]
    step = tf.function(loss, input_signature=shapes)
    assert float(step(tf.zeros((0,), tf.int64), tf.zeros((0, 4)))) == 0
    assert build(name, reduction="none")(np.zeros(0, int), np.zeros((0, 4), "float32")).shape == (
        0,
    )


@every_loss
def test_norms_from_tiny_to_huge(name):
    labels, embeddings = batch(size=12, classes=3)
    loss = build(name)
    if not loss.normalize:  # dot products grow with the norms
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        value, gradient = value_and_gradient(loss, labels, (1e3 * embeddings).astype(np.float32))
        assert np.isfinite(value) and np.isfinite(gradient).all()
        return
    expected, _ = value_and_gradient(loss, labels, embeddings.astype(np.float32))
    for scale in (1e-30, 1e-10, 1e10, 1e30):
        value, gradient = value_and_gradient(loss, labels, (scale * embeddings).astype(np.float32))
        assert value == pytest.approx(expected, rel=1e-4)
        assert np.isfinite(gradient).all()


@every_loss
def test_low_precision_embeddings_of_any_length_have_a_finite_gradient(name):
    rng = np.random.default_rng(5)
    labels, embeddings = batch(size=12, classes=3)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    lengths = 10.0 ** np.append(rng.uniform(-7, 3, size=10), [-7, 3])
    if not build(name).normalize:  # squared norms of 1e6 are dot products like any other
        lengths = np.minimum(lengths, 100)
    embeddings *= lengths[:, None]
    embeddings[4] = 0
    loss = build(name, jit_compile=False)
    for dtype in ("float16", "bfloat16", "float32"):
        value, gradient = value_and_gradient(loss, labels, tf.cast(embeddings, dtype))
        assert np.isfinite(value), dtype
        assert np.isfinite(gradient).all(), dtype
        assert gradient.any(), dtype


@every_loss
def test_names_of_classes_do_not_matter(name):
    labels, embeddings = batch(size=20, classes=4)
    embeddings = embeddings.astype(np.float32)
    loss = build(name)
    expected = float(loss(labels, embeddings))
    for names in ([0, 2**24, 2**24 + 1, 2**40], [-1, 2**62, 2**32, 0], [5, 6, 7, 2**16]):
        assert float(loss(np.array(names)[labels], embeddings)) == expected
        assert float(loss(np.array(names)[labels][:, None], embeddings)) == expected
    assert float(loss(labels.astype("uint8"), embeddings)) == expected
    with pytest.raises(ValueError, match="integer class ids"):
        loss(labels.astype("float32"), embeddings)


@every_loss
def test_order_does_not_matter(name):
    labels, embeddings = batch()
    order = np.random.default_rng(3).permutation(30)
    if name == "n_pair one_pair_per_class":  # takes the first two of a class: they stay the first
        first = order[labels[order].argsort(kind="stable")]
        order[labels[order].argsort(kind="stable")] = (
            np.sort(first.astype("int64") + 100 * labels[first]) % 100
        )
    loss = build(name, **FLOAT64)
    value, gradient = value_and_gradient(loss, labels, embeddings)
    moved, moved_gradient = value_and_gradient(loss, labels[order], embeddings[order])
    assert moved == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(moved_gradient, gradient[order], atol=1e-10)


@every_loss
def test_a_broken_embedding_stays_visible(name):
    labels, embeddings = batch()
    for bad in (np.nan, np.inf):
        broken = embeddings.astype(np.float32)
        broken[5, 2] = bad
        value, _ = value_and_gradient(build(name), labels, broken)
        assert np.isnan(value)


@every_loss
def test_masked_items_take_no_part(name):
    labels, embeddings = batch()
    expected, _ = value_and_gradient(build(name, **FLOAT64, reduction="sum"), labels, embeddings)
    padded = np.concatenate([embeddings, np.full((5, 8), np.nan)])
    tensor = keras.ops.convert_to_tensor(padded, dtype="float64")
    tensor._keras_mask = keras.ops.convert_to_tensor([True] * 30 + [False] * 5)
    loss = build(name, **FLOAT64, reduction="sum")
    per_anchor = loss.per_anchor(
        loss.label_keys(np.concatenate([labels, [0] * 5]), tensor), tensor
    ).numpy()
    assert np.isfinite(per_anchor).all()
    assert not per_anchor[30:].any() or name == "histogram"
    if not name.endswith("two-sided"):  # its divisor counts the anchors
        assert per_anchor[:30].sum() == pytest.approx(expected, rel=1e-9)


@every_loss
def test_blocks_equal_the_dense_loss(name):
    labels, embeddings = batch(size=53)
    weights = np.random.default_rng(4).random(53)
    loss = build(name, **FLOAT64, block_size=None)
    in_blocks = build(name, **FLOAT64, block_size=16)
    if loss.whole_batch:
        with pytest.raises(ValueError, match="block_size"):
            in_blocks(labels, embeddings)
        return
    expected, expected_gradient = value_and_gradient(loss, labels, embeddings, weights)
    value, gradient = value_and_gradient(in_blocks, labels, embeddings, weights)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12)


@every_loss
def test_against_a_memory_the_rows_are_those_of_the_union(name):
    labels, embeddings = batch(size=40)
    loss = build(name, **FLOAT64)
    keys = loss.label_keys(labels, embeddings)
    memory = keys[15:], embeddings[15:]
    if loss.whole_batch:
        with pytest.raises(ValueError, match="cross-batch memory"):
            loss.per_anchor(keys[:15], embeddings[:15], memory)
        return
    union = loss.per_anchor(keys, embeddings).numpy()
    rows = loss.per_anchor(keys[:15], embeddings[:15], memory).numpy()
    np.testing.assert_allclose(rows, union[:15], rtol=1e-12)
    assert rows.any()


# the others are saved by the same code
@pytest.mark.parametrize(
    "name",
    [
        name
        if name in COMPILED_IN_PART
        else pytest.param(name, marks=[pytest.mark.slow, pytest.mark.release])
        for name in LOSSES
    ],
)
def test_a_compiled_model_is_saved_and_trained_on(name, tmp_path):
    labels, embeddings = batch()
    inputs = embeddings.astype(np.float32)
    start = keras.initializers.GlorotUniform(seed=0)  # the same in every run
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, kernel_initializer=start)])
    # tracing the step takes longer than these steps; of every loss: test_eager_graph_and_xla_agree
    eagerly = name not in COMPILED_IN_PART
    model.compile(keras.optimizers.SGD(0.1), build(name), run_eagerly=eagerly)
    model.optimizer.build(model.trainable_variables)  # else fit traces its step twice
    model.fit(inputs, labels, batch_size=20, verbose=0)  # and a partial batch of 10
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.loss.get_config() == model.loss.get_config()
    again.run_eagerly = True
    before = again.evaluate(inputs, labels, batch_size=30, verbose=0)
    assert before == pytest.approx(float(model.loss(labels, model(inputs))), rel=1e-5)
    again.fit(inputs, labels, batch_size=30, epochs=10, shuffle=False, verbose=0)
    if name != "lifted_structure":  # moves slowly at this learning rate
        assert again.evaluate(inputs, labels, batch_size=30, verbose=0) < before


@every_loss
def test_unknown_options_are_refused(name):
    with pytest.raises(ValueError, match="sharpness. Expected some of .*, reduction, dtype"):
        build(name, sharpness=2)
    with pytest.raises(ValueError, match="float32 or float64"):
        build(name, dtype="float16")
