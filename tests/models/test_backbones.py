"""Backbones: names, input normalisation, cuts, weights files, frozen batch statistics."""

import contextlib

import keras
import numpy as np
import pytest

from keras_ms.models import backbones, normalisation
from keras_ms.models.backbones import BACKBONES, build_backbone
from keras_ms.models.frozen_layers import (
    FrozenStatisticsBatchNormalization,
    with_frozen_batch_norm,
    without_dropout,
)

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


@pytest.fixture(scope="module")
def mobilenet():
    return build_backbone("mobilenet_v2", input_shape=(64, 64, 3))


def little_network(dropout=0.0):
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, name="convolution")(images)
    x = keras.layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = keras.layers.Dropout(dropout, name="drop")(keras.layers.ReLU(name="relu")(x))
    return keras.Model(images, x, name="little")


def normalised(name):
    images = keras.Input((64, 64, 3))
    outputs = normalisation.normalised(images, BACKBONES[name].normalisation)
    return keras.Model(images, outputs)(PIXELS, training=False).numpy()


@pytest.mark.parametrize(
    "name, preprocess",
    [
        ("inception_v3", keras.applications.inception_v3.preprocess_input),
        ("inception_resnet_v2", keras.applications.inception_resnet_v2.preprocess_input),
        ("xception", keras.applications.xception.preprocess_input),
        ("resnet50", keras.applications.resnet.preprocess_input),
        ("resnet101", keras.applications.resnet.preprocess_input),
        ("resnet50_v2", keras.applications.resnet_v2.preprocess_input),
        ("densenet121", keras.applications.densenet.preprocess_input),
        ("mobilenet_v2", keras.applications.mobilenet_v2.preprocess_input),
    ],
)
def test_normalisation_is_that_of_keras_applications(name, preprocess):
    np.testing.assert_allclose(normalised(name), preprocess(PIXELS.copy()), atol=2e-5)


def test_normalisation_of_bn_inception_is_bgr_minus_its_mean():
    np.testing.assert_allclose(
        normalised("bn_inception"), PIXELS[..., ::-1] - np.array([104, 117, 128]), atol=1e-5
    )


def test_normalisation_of_efficientnet_v2_is_that_of_its_own_preprocessing():
    # The layers that EfficientNetV2B0 would put there itself end before "stem_conv".
    network = keras.applications.EfficientNetV2B0(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    own = keras.Model(network.input, network.get_layer("stem_conv").input)
    np.testing.assert_allclose(normalised("efficientnet_v2_b0"), own(PIXELS).numpy(), atol=1e-5)


def test_image_goes_through_normalisation_and_network(mobilenet):
    network = mobilenet.layers[-1]
    expected = network(PIXELS / 127.5 - 1, training=False)
    np.testing.assert_allclose(mobilenet(PIXELS, training=False), expected, rtol=1e-4, atol=1e-6)
    assert mobilenet.name == "backbone"
    assert mobilenet.output_shape == (None, 2, 2, 1280)


@pytest.mark.slow
@pytest.mark.release
def test_bn_inception_takes_rgb():
    backbone = build_backbone("bn_inception", input_shape=(64, 64, 3))
    assert backbone.output_shape == (None, 2, 2, 1024)
    expected = backbone.layers[-1](PIXELS[..., ::-1] - np.array([104, 117, 128], "float32"))
    np.testing.assert_allclose(backbone(PIXELS), expected, rtol=1e-4, atol=1e-5)


def test_small_network_is_a_backbone():
    pytest.importorskip("keras_ms.models.small_network")
    backbone = build_backbone("small", input_shape=(64, 64, 3))
    assert len(backbone.output_shape) == 4
    assert np.isfinite(backbone(PIXELS, training=False)).all()


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ValueError, match="Nearest: inception_v3.*Expected one of small, .*v4"):
        build_backbone("inception_v4", input_shape=(96, 96, 3))


def test_unknown_output_layer_names_the_nearest():
    with pytest.raises(ValueError, match="inception_3a_output.*Received: 'inception_3a_outpt'"):
        build_backbone("bn_inception", input_shape=(32, 32, 3), output_layer="inception_3a_outpt")


def test_layers_named_by_their_number_in_the_process_are_no_choice():
    choices = [
        (keras.layers.Conv2D(1, 1), True),
        (keras.layers.MaxPooling2D(), True),
        (keras.layers.Conv2D(1, 1, name="conv2d_188"), True),
        (keras.layers.Concatenate(name="mixed8"), False),
        (keras.layers.Conv2D(1, 1, name="conv1_7x7_s2"), False),
    ]
    for layer, numbered in choices:
        assert backbones._is_numbered_by_keras(layer) is numbered, layer.name


def test_output_layer_cuts_the_network():
    backbone = build_backbone(
        "bn_inception", input_shape=(32, 32, 3), output_layer="inception_3b_output"
    )
    assert backbone.output_shape == (None, 4, 4, 320)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="75x75"):
        build_backbone("inception_v3", input_shape=(64, 64, 3))


# Weights


@pytest.mark.slow
@pytest.mark.release
def test_weights_file_of_the_cut_and_of_the_whole_network(tmp_path):
    whole = build_backbone("bn_inception", input_shape=(32, 32, 3)).layers[-1]
    kernel = whole.get_layer("inception_3b_3x3").kernel.numpy()
    cut = keras.Model(whole.input, whole.get_layer("inception_3c_output").output)
    for model, name in ((whole, "whole"), (cut, "cut")):
        model.save_weights(tmp_path / f"{name}.weights.h5")
        loaded = build_backbone(
            "bn_inception",
            input_shape=(32, 32, 3),
            output_layer="inception_3c_output",
            weights=tmp_path / f"{name}.weights.h5",
        )
        network = loaded.layers[-1]
        norm = network.get_layer("inception_3b_3x3_bn")
        assert isinstance(norm, FrozenStatisticsBatchNormalization)
        np.testing.assert_array_equal(norm.convolution.kernel, kernel)


def test_file_of_another_network_says_what_it_holds(tmp_path):
    path = tmp_path / "little.weights.h5"
    little_network().save_weights(path)
    with pytest.raises(ValueError) as error:
        build_backbone("mobilenet_v2", input_shape=(32, 32, 3), weights=path)
    message = str(error.value)
    assert str(path) in message
    assert "The file holds 6 arrays with" in message
    assert "expects 260 arrays with 2,257,984 numbers" in message


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("absent.weights.h5", None, "There is no weights file .*absent"),
        ("text.weights.h5", b"hello", "text.weights.h5 .5 bytes. is not an HDF5 file"),
        ("weights.pth", b"hello", "must end in .weights.h5"),
    ],
)
def test_what_is_no_weights_file(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build_backbone("small", input_shape=(32, 32, 3), weights=tmp_path / name)


def test_truncated_weights_file(tmp_path):
    path = tmp_path / "cut.weights.h5"
    little_network().save_weights(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match="cut.weights.h5 .3000 bytes. is not an HDF5 file"):
        build_backbone("small", input_shape=(32, 32, 3), weights=path)


@pytest.mark.parametrize("name", ["bn_inception", "small"])
def test_no_imagenet_weights_to_download(name):
    if name == "small":
        pytest.importorskip("keras_ms.models.small_network")
    with pytest.raises(ValueError, match=f"no ImageNet weights of {name}.*path of a .weights.h5"):
        build_backbone(name, input_shape=(32, 32, 3), weights="imagenet")


def test_failing_download_is_explained(monkeypatch):
    def unreachable(input_shape, weights):
        raise Exception("URL fetch failure")  # as keras.utils.get_file does

    recipe = BACKBONES["resnet50"]._replace(build=unreachable)
    monkeypatch.setitem(BACKBONES, "resnet50", recipe)
    with pytest.raises(OSError, match="resnet50 could not be downloaded: URL fetch failure.*None"):
        build_backbone("resnet50", input_shape=(64, 64, 3), weights="imagenet")


def test_shared_mobilenet_weights_load(shared_weights):
    backbone = build_backbone(
        "mobilenet_v2",
        input_shape=(96, 96, 3),
        weights=shared_weights / "mobilenet_v2_1.0_notop.weights.h5",
    )
    kernel = backbone.layers[-1].get_layer("Conv_1_bn").convolution.kernel
    assert 0.001 < float(keras.ops.std(kernel)) < 1
    norm = backbone.layers[-1].get_layer("bn_Conv1")
    np.testing.assert_allclose(norm.gamma, 1)


# Frozen batch statistics


def fit_once(model):
    values = np.random.default_rng(0).normal(2, 3, (16, 8, 8, 3)).astype("float32")
    targets = np.random.default_rng(1).normal(size=(16, *model.output_shape[1:]))
    norm = next(layer for layer in model._flatten_layers() if layer.name == "norm")
    before = [weight.numpy() for weight in norm.weights]
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    model.fit(values, targets, epochs=2, batch_size=8, verbose=0)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return {
        name: not np.array_equal(old, new.numpy())
        for name, old, new in zip(names, before, norm.weights)
    }


def outer(network):
    images = keras.Input((8, 8, 3))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(network(images)))


def test_frozen_statistics_stay_while_gamma_and_beta_train(tmp_path):
    model = outer(with_frozen_batch_norm(little_network()))
    still = {"moving_mean": False, "moving_variance": False}
    assert fit_once(model) == {"gamma": True, "beta": True, **still}

    values = np.random.default_rng(2).normal(2, 3, (4, 8, 8, 3)).astype("float32")
    expected = model.predict(values, verbose=0)
    np.testing.assert_allclose(model(values, training=True), expected, rtol=1e-5, atol=1e-6)

    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(reloaded(values, training=True), expected, rtol=1e-5, atol=1e-6)
    assert fit_once(reloaded) == {"gamma": True, "beta": True, **still}
    assert fit_once(keras.models.clone_model(model)) == {"gamma": True, "beta": True, **still}


def test_plain_statistics_do_move():
    assert all(fit_once(outer(little_network())).values())


def test_freezing_copies_weights_names_and_settings():
    network = little_network()
    network.get_layer("norm").moving_mean.assign(np.arange(6.0))
    copy = with_frozen_batch_norm(network)
    assert (copy.name, copy.get_layer("norm").momentum) == ("little", 0.5)
    for old, new in zip(network.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_without_dropout_drops_nothing():
    network = little_network(dropout=0.9)
    network.trainable = False
    values = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    expected = network(values, training=False).numpy()
    assert not np.allclose(network(values, training=True), expected)
    copy = without_dropout(network)
    copy.trainable = False
    np.testing.assert_array_equal(copy(values, training=True), expected)


@pytest.mark.parametrize("variance, is_folded", [(0.999, True), (1.0, False), (0.3, False)])
def test_weights_with_folded_batch_normalisation_are_not_trained_by_statistics_of_batches(
    variance, is_folded, tmp_path, monkeypatch
):
    recipe = backbones.Backbone(lambda input_shape, weights: little_network(), None)
    monkeypatch.setitem(BACKBONES, "little", recipe)
    network, weights = little_network(), tmp_path / "little.weights.h5"
    norm = network.get_layer("norm")
    norm.moving_variance.assign(np.full(6, variance))
    network.save_weights(weights)
    options = {"input_shape": (8, 8, 3), "weights": weights}
    build_backbone("little", **options)
    with pytest.raises(ValueError, match="folded") if is_folded else contextlib.nullcontext():
        build_backbone("little", frozen_batch_norm=False, **options)
    norm.moving_mean.assign(np.ones(6))  # statistics of something
    network.save_weights(weights)
    build_backbone("little", frozen_batch_norm=False, **options)


def test_statistics_are_frozen_where_weights_are_given_unless_told_otherwise(tmp_path, monkeypatch):
    recipe = backbones.Backbone(lambda input_shape, weights: little_network(), None)
    monkeypatch.setitem(BACKBONES, "little", recipe)
    weights = tmp_path / "little.weights.h5"
    little_network().save_weights(weights)

    def is_frozen(**options):
        network = build_backbone("little", input_shape=(8, 8, 3), **options).layers[-1]
        return isinstance(network.get_layer("norm"), FrozenStatisticsBatchNormalization)

    assert not is_frozen()
    assert is_frozen(frozen_batch_norm=True)
    assert is_frozen(weights=weights)
    assert not is_frozen(weights=weights, frozen_batch_norm=False)
