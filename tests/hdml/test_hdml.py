"""HDML: formulas against literal ones, whole steps, never NaN, saved, resumed, exported."""

import contextlib
import json

import keras
import numpy as np
import oracles_hdml as oracle
import pytest
import tensorflow as tf
from keras import ops

import keras_ms
from keras_ms.hdml import formulas
from keras_ms.hdml.model import HDML, LOGGED
from keras_ms.hdml.picture import draw_hardness
from keras_ms.hdml.tuples import NPairTuples, PairTuples, TripletTuples
from keras_ms.run.folder import RunFolder

CHANNELS, DIMENSION = 5, 3


def head(dtype="float32", seed=0, channels=CHANNELS, **options):
    """As `split_embedder` gives it."""
    features = keras.Input((channels,), name="features", dtype=dtype)
    initializer = keras.initializers.RandomNormal(stddev=0.6, seed=seed)
    linear = keras.layers.Dense(
        DIMENSION, kernel_initializer=initializer, dtype=dtype, name="embedding", **options
    )
    return keras.Model(
        features, keras.layers.UnitNormalization(dtype=dtype, name="l2")(linear(features))
    )


def data(per_class=2, classes=4, seed=0, dtype="float32"):
    return data_of(np.repeat(np.arange(classes), per_class), seed, dtype)


def data_of(labels, seed=0, dtype="float32"):
    """Features and the labels, in another order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(labels)
    centres = rng.normal(size=(labels.max() + 1, CHANNELS))
    return (centres[labels] + 0.7 * rng.normal(size=(labels.size, CHANNELS))).astype(dtype), labels


TUPLES = {
    "n_pair": (lambda: NPairTuples(0.05), {"regularization": 0.05}),
    "triplet": (lambda: TripletTuples(0.7), {"margin": 0.7}),
    "pairs": (
        lambda: PairTuples(keras_ms.MultiSimilarityLoss(dtype="float64"), 3),
        {"negatives_per_anchor": 3},
    ),
}


def model_of(kind="n_pair", mode="paper", dtype="float32", rate=0.05, seed=0, **options):
    keras.utils.set_random_seed(seed)
    compile_options = {
        name: options.pop(name) for name in ("jit_compile", "run_eagerly") if name in options
    }
    model = HDML(head(dtype), 4, TUPLES[kind][0](), mode, **{"beta": 50.0, **options})
    model.compile(
        keras.optimizers.SGD(rate),
        generator_optimizer=keras.optimizers.SGD(rate * 1e-3),
        classifier_optimizer=keras.optimizers.SGD(rate),
        **compile_options,
    )
    return model


# Formulas


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_harden_is_the_literal_augmentor(weight):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 40, 4))
    rows[2, :10] = rows[0, :10] + 0.1 * rng.normal(size=(10, 4))  # nearer than the positive
    rows[2, 10] = rows[0, 10]
    rows[1, 11] = rows[0, 11]
    found = ops.convert_to_numpy(formulas.harden(*map(ops.convert_to_tensor, rows), weight))
    expected = [oracle.harden(a, p, n, weight) for a, p, n in zip(*rows)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_hardened_negatives_stand_between_where_they_were_and_the_positive():
    rng = np.random.default_rng(1)
    anchor, positive, negative = rng.normal(size=(3, 100, 4))
    far = np.linalg.norm(negative - anchor, axis=1) > np.linalg.norm(positive - anchor, axis=1)
    for weight in (0.0, 0.5, 1.0):
        moved = ops.convert_to_numpy(formulas.harden(anchor, positive, negative, weight))
        length = np.linalg.norm(moved - anchor, axis=1)
        bounds = [np.linalg.norm(other - anchor, axis=1) for other in (positive, negative)]
        expected = (1 - weight) * bounds[0] + weight * bounds[1]
        np.testing.assert_allclose(length[far], expected[far], rtol=1e-12)
        np.testing.assert_array_equal(moved[~far], negative[~far])


@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("same", ["anchor=negative", "anchor=positive", "all"])
def test_harden_has_finite_gradients_where_points_coincide(same, jit_compile):
    rng = np.random.default_rng(2)
    anchor, positive, negative = (tf.Variable(row) for row in rng.normal(size=(3, 4, 3)))
    if same != "anchor=positive":
        negative.assign(anchor)
    if same != "anchor=negative":
        positive.assign(anchor)

    @tf.function(jit_compile=jit_compile)
    def slopes():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(formulas.harden(anchor, positive, negative, 0.3) ** 2)
        return value, tape.gradient(value, [anchor, positive, negative])

    value, gradients = slopes()
    assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in gradients)
    if same != "anchor=positive":
        np.testing.assert_allclose(value, np.sum(negative.numpy() ** 2))


def test_weights_at_every_average():
    weight = [
        float(formulas.hardness_weight(7.0, value))
        for value in (0.0, 1e-30, 3.5, 1e30, np.inf, np.nan, -1.0)
    ]
    np.testing.assert_allclose(weight, [0, 0, np.exp(-2), 1, 1, 1, 0], rtol=1e-6)
    share = [float(formulas.real_share(1e4, value)) for value in (0.0, 1e4, np.inf, np.nan)]
    np.testing.assert_allclose(share, [0, np.exp(-1), 1, 1], rtol=1e-6)
    # a scale of 0 never hardens and never takes synthetic tuples
    assert float(formulas.real_share(0.0, 0.0)) == float(formulas.hardness_weight(0.0, 5.0)) == 1


def test_an_unknown_class_is_seen_and_leaves_gradients_finite():
    logits = tf.Variable([[1.0, 2.0], [3.0, 5.0]])
    with tf.GradientTape() as tape:
        values = formulas.cross_entropy(logits, tf.constant([[True, False], [False, False]]))
        kept = tf.reduce_sum(values)
    assert float(values[0]) == pytest.approx(np.log(1 + np.e), rel=1e-6) and np.isnan(values[1])
    assert np.isfinite(tape.gradient(kept, logits)).all()


@pytest.mark.parametrize("kind", list(TUPLES))
@pytest.mark.parametrize("per_class", [1, 2, 3])
def test_triplets_are_the_literal_ones(kind, per_class):
    features, labels = data(per_class, classes=5, seed=per_class)
    tuples, options = TUPLES[kind]
    found = tuples().triplets(labels * 10**12, ops.convert_to_tensor(features))
    valid = ops.convert_to_numpy(found.valid)
    listed = list(zip(*(ops.convert_to_numpy(part)[valid].tolist() for part in found[:3])))
    assert listed == oracle.TRIPLETS[kind](labels.tolist(), features, options)


# One whole step

PARTS = {
    "embed": ("embed_kernel", "embed_bias"),
    "generator": (
        "generator_kernel",
        "generator_bias",
        "generator_gamma",
        "generator_beta",
        "generator_kernel2",
        "generator_bias2",
    ),
    "classifier": ("classifier_kernel", "classifier_bias"),
}


def parameters_of(model):
    groups = [model.embedder, model.generator, model.classifier]
    return {
        name: ops.convert_to_numpy(variable)
        for group, names in zip(groups, PARTS.values())
        for name, variable in zip(names, group.trainable_variables)
    }


@pytest.mark.parametrize(
    "kind, mode, labels",
    [
        ("n_pair", "paper", [0, 0, 1, 1, 2, 2, 3, 3]),
        # with triplets that only fill up the static shape: classes of 1, 3 and 4 images, anchors
        # without a positive, fewer negatives than are asked for
        ("n_pair", "paper", [0, 0, 0, 1, 1, 1, 1, 2, 3]),
        ("n_pair", "official", [0, 0, 0, 1, 1, 1, 1, 2, 3]),
        ("triplet", "official", [0, 0, 0, 1, 1, 2, 3]),
        ("triplet", "paper", [0, 0, 0, 1, 1, 2, 3]),
        ("pairs", "official", [0, 0, 0, 0, 0, 1, 2]),
        ("pairs", "paper", [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
    ],
)
def test_one_step_is_the_literal_one(kind, mode, labels):
    """Values, and the change of every part: the gradient of its own loss, and of no other, at the
    weights before the step."""
    features, labels = data_of(labels, dtype="float64", seed=3)
    options = {"alpha": 2.0, "lambda_g": 0.3, "average_steps": 5, "run_eagerly": True}
    model = model_of(kind, mode, dtype="float64", **options)
    for optimizer in model.optimizers:
        optimizer.learning_rate = 1e-3
    model.averages.metric.assign(1.5)
    model.averages.generator.assign(120.0)
    before = parameters_of(model)
    history = model.fit(features, labels, batch_size=len(labels), shuffle=False, verbose=0).history

    weight, share = np.exp(-2.0 / 1.5), np.exp(-50.0 / 120.0)
    settings = features, labels.tolist(), kind, mode, weight, share, 0.3, TUPLES[kind][1]
    values = oracle.step(before, *settings)
    logged = [history[name][0] for name in ("loss", "generator_loss", "classifier_loss")]
    np.testing.assert_allclose(logged, values, rtol=1e-6)  # metrics are in float32
    assert history["lambda"][0] == pytest.approx(weight, rel=1e-6)
    assert history["synthetic_share"][0] == pytest.approx(1 - share, rel=1e-6)
    recorded = history["metric_loss"][0] * (share if mode == "official" else 1.0)
    assert float(model.averages.metric_sum.numpy()) == pytest.approx(recorded, rel=1e-6)

    after, rng = parameters_of(model), np.random.default_rng(0)
    for which, names in enumerate(PARTS.values()):
        for name in names:
            gradient = (before[name] - after[name]) / np.float32(1e-3)
            everything = list(np.ndindex(gradient.shape))
            chosen = [everything[i] for i in rng.permutation(len(everything))[:8]]
            expected = oracle.slopes(before, name, chosen, which, settings)
            found = np.array([gradient[index] for index in chosen])
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6 * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind, mode", list(zip(TUPLES, ["official", "paper", "official"])))
def test_steps_are_the_same_compiled_or_not(kind, mode):
    """With a shorter last batch; eager steps are those of the literal test."""
    features, labels = data_of([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])
    ends = []
    for jit_compile in (True, False):
        model = model_of(kind, mode, "float64", average_steps=2, rate=1e-3, jit_compile=jit_compile)
        history = model.fit(
            features, labels.astype("uint8"), batch_size=8, shuffle=False, verbose=0, epochs=3
        ).history
        assert set(history) == {"loss", *LOGGED}
        assert np.isfinite([history[name] for name in LOGGED]).all()
        ends.append([*history["loss"], *(np.sum(w) for w in model.get_weights())])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9, atol=1e-12)


def test_logged_means_count_images():
    features, labels = data_of([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])
    labels[-2:] = labels[-3]  # a pair in the last batch
    found = []
    for part in (slice(None), slice(8), slice(8, None)):
        model = model_of("triplet", rate=0.0, run_eagerly=True)
        history = model.fit(
            features[part], labels[part], batch_size=8, shuffle=False, verbose=0
        ).history
        held = model.evaluate(features[part], labels[part], batch_size=8, verbose=0)
        found.append([history["loss"][0], history["generator_loss"][0], held])
    expected = (8 * np.array(found[1]) + 3 * np.array(found[2])) / 11
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", list(TUPLES))
def test_beta_0_trains_as_the_metric_loss_alone(kind):
    """Whatever the generator makes."""
    features, labels = data(2)
    model = model_of(kind, beta=0.0, run_eagerly=True)
    model.generator.set_weights([np.full_like(w, np.nan) for w in model.generator.get_weights()])
    start = model.embedder.get_weights()
    model.fit(features, labels, batch_size=8, shuffle=False, verbose=0)
    plain = head()
    plain.set_weights(start)
    unscaled = keras.Model(plain.inputs, plain.get_layer("embedding").output)
    with tf.GradientTape() as tape:
        value = TUPLES[kind][0]().metric_loss(labels, unscaled(features))
    for variable, slope in zip(
        plain.trainable_variables, tape.gradient(value, plain.trainable_variables)
    ):
        variable.assign_sub(0.05 * slope)
    for found, expected in zip(model.embedder.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_n_pair_is_that_of_the_library():
    """`NPairLoss` of one pair a class takes the mean over all items, of which half are anchors."""
    features, labels = data(2)
    own = NPairTuples(0.002).metric_loss(labels, ops.convert_to_tensor(features))
    loss = keras_ms.NPairLoss(one_pair_per_class=True)
    assert float(own) == pytest.approx(2 * float(loss(labels, features)), rel=1e-6)


def test_averages_are_renewed_after_a_window_and_used_from_then_on():
    features, labels = data(2)
    model = model_of(average_steps=3, alpha=5.0)
    history = model.fit(features, labels, batch_size=8, shuffle=False, verbose=0, epochs=7).history
    weights = np.array(history["lambda"])
    np.testing.assert_allclose(weights[:3], np.exp(-5.0 / 1e6), rtol=1e-6)
    for start in (0, 3):
        mean = np.mean(history["metric_loss"][start : start + 3])
        np.testing.assert_allclose(weights[start + 3 : start + 6], np.exp(-5 / mean), rtol=1e-5)
        mean = np.mean(history["generator_loss"][start : start + 3])
        share = np.array(history["synthetic_share"][start + 3 : start + 6])
        np.testing.assert_allclose(1 - share, np.exp(-50.0 / mean), rtol=1e-5)


def test_a_step_that_is_not_finite_does_not_enter_the_averages():
    averages = model_of(average_steps=2).averages
    for metric, generator in ((1.0, 10.0), (np.inf, 5.0), (3.0, np.nan), (2.0, 30.0)):
        averages.record(ops.convert_to_tensor(metric), ops.convert_to_tensor(generator))
    assert float(averages.metric.numpy()) == 1.5
    assert float(averages.generator.numpy()) == 20.0


# Never NaN


def degenerate_batches():
    features, labels = data(2)
    same = np.repeat(features[:1], len(labels), axis=0)
    yield "identical images", same, labels
    yield "collapsed", features, labels
    yield "one class", features, np.ones_like(labels)
    yield "no positives", features[:4], np.arange(4)
    yield "one image", features[:1], labels[:1]


@pytest.mark.parametrize("kind", list(TUPLES))
@pytest.mark.parametrize("mode", ["paper", "official"])
def test_degenerate_batches_and_averages_stay_finite(kind, mode):
    model = model_of(kind, mode, run_eagerly=True)
    start = model.get_weights()
    for case, features, labels in degenerate_batches():
        for average in (0.0, np.inf, np.nan):
            model.set_weights(start)
            if case == "collapsed":
                embedding = model.embedder.get_layer("embedding")
                embedding.kernel.assign(np.zeros((CHANNELS, DIMENSION)))
            model.averages.metric.assign(average)
            model.averages.generator.assign(average)
            logs = model.train_on_batch(features, labels, return_dict=True)
            assert np.isfinite([float(logs[name]) for name in ("loss", *LOGGED)]).all(), case
            for part in (model.embedder, model.generator, model.classifier):
                assert all(np.isfinite(weights).all() for weights in part.get_weights()), case
            model.reset_metrics()


def test_an_unknown_class_shows_and_breaks_nothing():
    features, labels = data(2)
    model = model_of(run_eagerly=True)
    history = model.fit(features, labels + 1, batch_size=8, verbose=0).history
    assert np.isnan(history["generator_loss"][0]) and np.isnan(history["classifier_loss"][0])
    assert np.isfinite(history["loss"][0])
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def trained_parts(model):
    parts = [model.embedder, model.generator, model.classifier, *model.optimizers]
    return [ops.convert_to_numpy(v) for part in parts for v in part.variables]


def test_a_step_that_is_not_finite_changes_no_part_and_the_next_ones_learn():
    features, labels = data(2)
    model = model_of()
    model.compile(run_eagerly=True)
    before = trained_parts(model)
    model.train_on_batch(np.full_like(features, 1e30), labels)
    for old, new in zip(before, trained_parts(model)):
        np.testing.assert_array_equal(old, new)
    model.train_on_batch(features, labels)
    after = trained_parts(model)
    assert all(np.isfinite(values).all() for values in after)
    for part in (model.generator, model.classifier, model.embedder):
        assert ops.convert_to_numpy(part.trainable_variables[0]).tolist() not in [
            values.tolist() for values in before if values.ndim == 2
        ]


# As a Keras model


def test_any_class_ids():
    features, labels = data(2)
    ids = np.array([-(2**40), 7, 2**53 + 1, 2**53])
    ranks = np.argsort(np.argsort(ids))
    losses = []
    for classes, given in ((4, ranks[labels]), (ids[labels], ids[labels])):
        keras.utils.set_random_seed(1)
        model = HDML(head(), classes, beta=50.0)
        model.compile(run_eagerly=True)
        history = model.fit(features, given, batch_size=8, shuffle=False, verbose=0).history
        losses.append([history[name][0] for name in ("classifier_loss", "generator_loss")])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    assert HDML(head(), ids[labels]).classes.ids.tolist() == sorted(ids.tolist())


def test_trains_a_whole_embedder_and_exports_it_alone(tmp_path):
    embedder = keras_ms.build_embedder(image_size=32, embedding_size=6, seed=0)
    model = HDML(embedder, classes=4)
    model.compile(metrics=[keras_ms.MinedAnchors()])
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 255, (8, 32, 32, 3)).astype("float32"), np.repeat(range(4), 2)
    before = [ops.convert_to_numpy(v) for v in embedder.trainable_variables]
    history = model.fit(images, labels, batch_size=8, shuffle=False, verbose=0).history
    assert "mined_anchors" in history
    for old, new in zip(before, embedder.trainable_variables):
        assert np.abs(old - ops.convert_to_numpy(new)).max() > 0
    embeddings = model.predict(images, verbose=0)
    np.testing.assert_allclose(embeddings, embedder.predict(images, verbose=0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(found) == {"loss", "mined_anchors"} and np.isfinite(found["loss"])
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))  # kept: it holds the weights
    np.testing.assert_allclose(exported.serve(images), embeddings, atol=1e-5)


def test_a_frozen_backbone_stays_and_its_head_alone_is_enough():
    frozen = keras_ms.build_embedder(image_size=32, embedding_size=6, freeze_backbone=True, seed=0)
    features_model, split_head = keras_ms.models.embedding.split_embedder(frozen)
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 255, (8, 32, 32, 3)).astype("float32"), np.repeat(range(4), 2)
    backbone = [w.copy() for w in features_model.get_weights()]
    start = frozen.get_layer("embedding").get_weights()
    ends = []
    for embedder, inputs in (
        (frozen, images),
        (split_head, features_model.predict(images, verbose=0)),
    ):
        frozen.get_layer("embedding").set_weights(start)
        keras.utils.set_random_seed(0)
        model = HDML(embedder, classes=4)
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(inputs, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        ends.append(frozen.get_layer("embedding").get_weights()[0].copy())
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)
    assert np.abs(ends[0] - start[0]).max() > 1e-4
    for old, new in zip(backbone, features_model.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        images = keras.Input((CHANNELS,))
        features = keras.layers.Dense(6, activation="relu", name="pool")(images)
        linear = keras.layers.Dense(DIMENSION, dtype="float32", name="embedding")
        model = HDML(keras.Model(images, linear(features)), 4, metric_loss="multi_similarity")
    finally:
        keras.config.set_dtype_policy("float32")
    # compiling takes long, and scaling the loss is the harder case
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=policy == "mixed_float16")
    images, labels = data(2)
    if policy == "mixed_float16":  # an overflow in the first step
        model.train_on_batch(np.full_like(images, 1e6), labels)
    history = model.fit(images, labels, batch_size=8, epochs=3, verbose=0).history
    assert np.isfinite([history[name] for name in LOGGED]).all()
    assert model.generator.layers[0].compute_dtype == "float32"
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")


def test_layers_before_the_embedding_take_part():
    inputs = keras.Input((CHANNELS,), name="pool")
    normal = keras.layers.BatchNormalization()(inputs)
    embeddings = keras.layers.Dense(DIMENSION, name="embedding")(normal)
    embedder = keras.Model(inputs, embeddings)
    features, labels = data(2)
    model = HDML(embedder, 4, "triplet")
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    expected = TripletTuples().metric_loss(labels, embedder(features, training=True))
    history = model.fit(features, labels, batch_size=8, shuffle=False, verbose=0).history
    assert history["metric_loss"][0] == pytest.approx(float(expected), rel=1e-5)
    normal_again = keras.layers.BatchNormalization()(embeddings)
    with pytest.raises(ValueError, match="output is that of its layer 'embedding'"):
        HDML(keras.Model(inputs, normal_again), 4)


def run(model, epochs, first=0, callbacks=()):
    features, labels = data(2)
    model.fit(
        features, labels, batch_size=8, shuffle=False, verbose=0,
        epochs=epochs, initial_epoch=first, callbacks=list(callbacks),
    )  # fmt: skip


def adam_model(seed=0):
    keras.utils.set_random_seed(seed)
    model = HDML(head(seed=seed), 4, NPairTuples(0.01), "official", 3.0, 100.0, 0.4, 3)
    model.compile(keras.optimizers.Adam(0.01))
    return model


def same_training(model, other):
    for a, b in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model.optimizers, other.optimizers):
        assert len(a.variables) == len(b.variables)
        for v, w in zip(a.variables, b.variables):
            np.testing.assert_array_equal(v, w)


def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path):
    whole = adam_model()
    run(whole, 8)
    half = adam_model()
    run(half, 4)

    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert (loaded.mode, loaded.alpha, loaded.beta, loaded.lambda_g) == ("official", 3, 100, 0.4)
    assert loaded.metric_loss.regularization == 0.01 and loaded.average_steps == 3
    run(loaded, 8, first=4)

    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    rows = [{"epoch": epoch, "step": epoch} for epoch in range(1, 5)]
    folder.save_state(half, 4, rows, {})
    restored = adam_model(seed=9)
    assert folder.restore_state(restored)[0] == 4
    run(restored, 8, first=4)
    for model in (loaded, restored):
        same_training(model, whole)
    with pytest.raises(ValueError, match="another model"):
        other = HDML(head(), 5)
        other.compile()
        folder.restore_state(other)


@pytest.mark.slow
def test_backup_and_restore(tmp_path):
    class Interrupted(RuntimeError):
        pass

    def interrupt(epoch, logs):
        if epoch == 3:
            raise Interrupted

    whole = adam_model()
    run(whole, 6)
    backup = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
    with pytest.raises(Interrupted):
        run(adam_model(), 6, callbacks=[
            *backup, keras.callbacks.LambdaCallback(on_epoch_end=interrupt)
        ])  # fmt: skip
    resumed = adam_model()
    run(resumed, 6, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    same_training(resumed, whole)


@pytest.mark.parametrize("kind", list(TUPLES))
def test_config_round_trip(kind):
    model = model_of(kind, "official", lambda_g=0.2, average_steps=7)
    config = json.loads(json.dumps(model.get_config()))
    again = HDML.from_config(config)
    again.set_weights(model.get_weights())
    features, _ = data(2)
    np.testing.assert_array_equal(
        again.predict_on_batch(features), model.predict_on_batch(features)
    )
    configs = again.get_config(), model.get_config()
    for other in configs:
        other.pop("embedder")  # Keras's own, nodes numbered anew
    assert configs[0] == configs[1]


def test_defaults_of_the_official_code():
    model = HDML(head(), 4)
    model.compile()
    rates = [float(optimizer.learning_rate.numpy()) for optimizer in model.optimizers]
    np.testing.assert_allclose(rates, [7e-5, 1e-2, 1e-3], rtol=1e-6)
    assert (model.alpha, model.beta, model.lambda_g) == (90.0, 1e4, 0.5)
    assert HDML(head(), 4, "triplet").alpha == 7.0
    assert HDML(head(), 4, keras_ms.NPairLoss(0.1)).metric_loss.regularization == 0.1
    assert HDML(head(), 4, keras_ms.CircleLoss()).metric_loss.loss.name == "circle"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"embedder": "network"}, "build_embedder"),
        ({"embedder": keras.Sequential([keras.layers.Dense(2)])}, "'embedding'"),
        ({"classes": 0}, "at least one class"),
        ({"classes": [0.5, 1.0]}, "integer class ids"),
        ({"metric_loss": "quadruplet"}, "n_pair"),
        ({"metric_loss": keras_ms.HistogramLoss()}, "separable"),
        ({"metric_loss": keras_ms.TripletLoss(reduction="sum")}, "sum_over_batch_size"),
        ({"metric_loss": keras_ms.NPairLoss(reduction="sum")}, "sum_over_batch_size"),
        ({"metric_loss": keras_ms.NPairLoss(dtype="float64")}, "NPairTuples"),
        ({"metric_loss": keras_ms.HierarchicalTripletLoss()}, "without margins"),
        ({"mode": "Paper"}, "official"),
        ({"alpha": -1.0}, "alpha"),
        ({"beta": np.nan}, "beta"),
        ({"lambda_g": 1.5}, "lambda_g"),
        ({"average_steps": 0}, "average_steps"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        HDML(**{"embedder": head(), "classes": 4, **options})


def test_wrong_use_is_named():
    model = HDML(head(), 4)
    with pytest.raises(ValueError, match="metric_loss"):
        model.compile("adam", loss=keras_ms.NPairLoss())
    model.compile()
    features, labels = data(2)
    with pytest.raises(ValueError, match="sample weights"):
        model.fit(features, labels, sample_weight=np.ones(8), verbose=0)
    with pytest.raises(ValueError, match="sample weights"):
        model.evaluate(features, labels, sample_weight=np.ones(8), verbose=0)
    with pytest.raises(ValueError, match="integer class ids"):
        model.fit(features, labels.astype("float32"), verbose=0)
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="pass them as `y` to fit"):
            method(features, verbose=0)
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        with tf.distribute.MirroredStrategy(devices).scope():
            with pytest.raises(ValueError, match=f"MirroredStrategy, replicas: {len(devices)}"):
                HDML(head(), 4)


def test_one_device_strategy_is_like_none():
    features, labels = data(2)
    weights = []
    for strategy in (None, tf.distribute.OneDeviceStrategy("CPU:0")):
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = model_of()
        model.fit(features, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for plain, on_device in zip(*weights):
        np.testing.assert_allclose(plain, on_device, atol=1e-5)


# Picture


def test_draw_hardness(tmp_path):
    features, labels = data(2)
    model = model_of(average_steps=2, alpha=2.0)
    history = model.fit(features, labels, batch_size=8, verbose=0, epochs=6)
    for given, name in ((history, "a.png"), (history.history, "b.svg")):
        draw_hardness(given, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(ValueError, match="synthetic_similarity"):
        draw_hardness({"loss": [1.0]}, tmp_path / "c.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.svg"]
