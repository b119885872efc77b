"""Folded batch normalisation computes and trains what the two layers do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ms.models.backbones import build_backbone
from keras_ms.models.bn_inception import bn_inception
from keras_ms.models.folded_layers import FoldedBatchNormalization, with_folded_batch_norm
from keras_ms.models.frozen_layers import with_frozen_batch_norm
from keras_ms.models.weights_files import load_network_weights


def randomized(network, seed=0):
    random = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, v.shape) for v in layer.weights])
        elif isinstance(layer, keras.layers.Conv2D) and layer.use_bias:
            layer.bias.assign(random.normal(size=layer.bias.shape))
    return network


def little_network():
    """Every kind of convolution: three that fold, and one each that has to stay."""
    images = keras.Input((9, 10, 3))
    norm = keras.layers.BatchNormalization
    x = keras.layers.Conv2D(6, 3, strides=2, name="strided")(images)
    x = keras.layers.ReLU()(norm(name="strided_bn")(x))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="plain")(x)
    x = norm(scale=False, epsilon=1e-5, name="plain_bn")(x)
    x = keras.layers.Conv2D(8, 1, groups=2, name="grouped")(x)
    x = norm(center=False, name="grouped_bn")(x)
    x = keras.layers.Conv2D(8, 1, activation="relu", name="activated")(x)
    x = norm(name="activated_bn")(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = norm(name="depthwise_bn")(x)
    twice = keras.layers.Conv2D(8, 1, name="twice")(x)
    x = keras.layers.Add()([norm(name="twice_bn")(twice), twice])
    return keras.Model(images, norm(name="last_bn")(x), name="little")


def gradients(network, images):
    """The gradient of every trainable weight, by `layer/weight` of the network without folding."""
    with tf.GradientTape() as tape:
        outputs = network(images, training=True)
        loss = tf.reduce_mean(tf.square(outputs) * np.cos(np.arange(outputs.shape[-1])))
    variables = network.trainable_variables
    found = zip(variables, tape.gradient(loss, variables))
    return {"/".join(v.path.split("/")[-2:]): g.numpy() for v, g in found}


def assert_same(network, images, places=1e-5):
    frozen = with_frozen_batch_norm(network)
    folded = with_folded_batch_norm(frozen)
    expected = frozen(images, training=True).numpy()
    for training in (True, False):
        outputs = folded(images, training=training).numpy()
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=places * np.abs(expected).max())
    expected, got = gradients(frozen, images), gradients(folded, images)
    assert set(got) == set(expected)
    for name, value in expected.items():
        # of a kernel's whole gradient: a single entry may be a difference of large numbers
        largest = np.abs(value).max()
        np.testing.assert_allclose(got[name], value, 0, 10 * places * largest, err_msg=name)
    return folded


def test_every_kind_of_convolution():
    images = np.random.default_rng(1).normal(size=(4, 9, 10, 3)).astype("float32")
    folded = assert_same(randomized(little_network()), images)
    kinds = [layer.name for layer in folded.layers if isinstance(layer, FoldedBatchNormalization)]
    assert kinds == ["strided_bn", "plain_bn", "grouped_bn"]
    names = {layer.name for layer in folded.layers}
    assert {"activated", "depthwise", "twice"} < names and "strided" not in names


@pytest.mark.slow
@pytest.mark.release
def test_bn_inception():
    images = np.random.default_rng(1).normal(size=(2, 63, 63, 3)).astype("float32")
    network = randomized(bn_inception((63, 63, 3)))
    folded = assert_same(network, images, places=1e-4)
    assert sum(isinstance(layer, FoldedBatchNormalization) for layer in folded.layers) == 69
    assert folded.count_params() == network.count_params()


def test_a_convolution_that_is_an_output_stays():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="convolution")(images)
    network = keras.Model(images, [x, keras.layers.BatchNormalization(name="norm")(x)])
    folded = with_folded_batch_norm(with_frozen_batch_norm(network))
    assert "convolution" in {layer.name for layer in folded.layers}


def test_shared_and_regularized_layers_stay():
    images = keras.Input((8, 8, 3))
    norm = keras.layers.BatchNormalization(name="shared_norm")
    first = norm(keras.layers.Conv2D(3, 1, name="first")(images))
    second = norm(keras.layers.Conv2D(3, 1, name="second")(images))
    x = keras.layers.Conv2D(3, 1, activity_regularizer="l2", name="regularized")(first)
    x = keras.layers.Add()([keras.layers.BatchNormalization(name="norm")(x), second])
    network = randomized(keras.Model(images, x))
    pixels = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    folded = assert_same(network, pixels)
    assert {"first", "second", "regularized"} < {layer.name for layer in folded.layers}
    assert len(folded.losses) == 1


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_files_of_folded_and_plain_networks_are_told_apart(tmp_path):
    plain = randomized(little_network())
    folded = with_folded_batch_norm(with_frozen_batch_norm(plain))
    plain.save_weights(tmp_path / "plain.weights.h5")
    folded.save_weights(tmp_path / "folded.weights.h5")
    load_network_weights(plain, tmp_path / "plain.weights.h5")
    load_network_weights(folded, tmp_path / "folded.weights.h5")
    with pytest.raises(ValueError, match="with frozen batch normalisation: build one"):
        load_network_weights(plain, tmp_path / "folded.weights.h5")
    with pytest.raises(ValueError, match="without frozen batch normalisation: load it before"):
        load_network_weights(folded, tmp_path / "plain.weights.h5")
    # files name a layer by its class: frozen alone makes the difference
    frozen = with_frozen_batch_norm(plain)
    frozen.save_weights(tmp_path / "frozen.weights.h5")
    with pytest.raises(ValueError, match="with frozen batch normalisation: build one"):
        load_network_weights(plain, tmp_path / "frozen.weights.h5")


def test_saved_and_copied(tmp_path):
    images = np.random.default_rng(1).normal(size=(4, 9, 10, 3)).astype("float32")
    folded = with_folded_batch_norm(with_frozen_batch_norm(randomized(little_network())))
    expected = folded.predict(images, verbose=0)
    folded.save(tmp_path / "folded.keras")
    reloaded = keras.models.load_model(tmp_path / "folded.keras", safe_mode=True)
    np.testing.assert_array_equal(reloaded.predict(images, verbose=0), expected)
    copy = keras.models.clone_model(folded)
    copy.set_weights(folded.get_weights())
    np.testing.assert_array_equal(copy.predict(images, verbose=0), expected)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    images = np.random.default_rng(1).normal(size=(4, 9, 10, 3)).astype("float32")
    network = randomized(little_network())
    expected = network.predict(images, verbose=0)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = randomized(little_network())
        mixed.set_weights(network.get_weights())
        folded = with_folded_batch_norm(with_frozen_batch_norm(mixed))
    finally:
        keras.config.set_dtype_policy("float32")
    outputs = folded(images, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy[len("mixed_") :]
    error = np.abs(keras.ops.cast(outputs, "float32") - expected).max()
    assert error < 0.03 * np.abs(expected).max()
    assert {w.dtype for w in folded.trainable_weights} == {"float32"}


@pytest.mark.slow
@pytest.mark.release
def test_backbones_fold_what_they_freeze():
    backbone = build_backbone("bn_inception", input_shape=(63, 63, 3), frozen_batch_norm=True)
    network = backbone.get_layer("bn_inception")
    assert isinstance(network.get_layer("inception_4a_3x3_bn"), FoldedBatchNormalization)
