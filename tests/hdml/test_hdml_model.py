"""HDML as a Keras model: any ids, whole embedders, precisions, wrong arguments, pictures."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from small_hdml import CHANNELS, DIMENSION, data, head, model_of
from small_runs import tiny_network

import keras_ms
from keras_ms.hdml.model import HDML, LOGGED
from keras_ms.hdml.picture import draw_hardness
from keras_ms.hdml.tuples import TripletTuples

# Keras warns where a mask ends at a model that says nothing of masks
pytestmark = pytest.mark.filterwarnings("error:Layer 'generator'")


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


@pytest.mark.slow
@pytest.mark.release
def test_trains_a_whole_embedder_and_exports_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_ms.models.small_network.small_network", tiny_network)
    embedder = keras_ms.build_embedder(image_size=32, embedding_size=6, seed=0)
    model = HDML(embedder, classes=4)
    model.compile(metrics=[keras_ms.MinedAnchors()], jit_compile=False)
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


@pytest.mark.slow
@pytest.mark.release
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
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        model.fit(inputs, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        ends.append(frozen.get_layer("embedding").get_weights()[0].copy())
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)
    assert np.abs(ends[0] - start[0]).max() > 1e-4
    for old, new in zip(backbone, features_model.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.release
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


@pytest.mark.slow
@pytest.mark.release
def test_one_device_strategy_is_like_none():
    features, labels = data(2)
    weights = []
    for strategy in (None, tf.distribute.OneDeviceStrategy("CPU:0")):
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = model_of(run_eagerly=False)
        model.fit(features, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for plain, on_device in zip(*weights):
        np.testing.assert_allclose(plain, on_device, atol=1e-5)


@pytest.mark.slow
@pytest.mark.release
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
