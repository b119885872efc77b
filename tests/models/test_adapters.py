"""Models and files of one's own as backbones: what is adapted, what is held, what is refused."""

import keras
import numpy as np
import pytest
from small_networks import IMAGES, LABELS, SIDE, Subclassed, functional, sequential, tokens

import keras_ms
from keras_ms.models.adapters import adapted_backbone
from keras_ms.models.features import computation
from keras_ms.models.frozen_layers import FrozenStatisticsBatchNormalization, NetworkCall
from keras_ms.models.normalisation import NORMALISATIONS, Normalisation


def two_steps(embedder):
    embedder.compile(keras.optimizers.SGD(0.1), loss=keras_ms.MultiSimilarityLoss())
    for _ in range(2):
        loss = embedder.train_on_batch(IMAGES, LABELS)
    assert np.isfinite(loss)


def embedder_of(backbone, **options):
    return keras_ms.build_embedder(
        backbone, image_size=SIDE, embedding_size=5, seed=0, **{"normalisation": None, **options}
    )


KINDS = {
    "subclassed": (Subclassed, (None, 15, 15, 8), 8),
    "sequential": (sequential, (None, 8), 8),
    "functional": (functional, (None, 30, 30, 6), 6),
    "with a key": (lambda: functional("pixels"), (None, 30, 30, 6), 6),
    "tokens": (tokens, (None, 17, 8), 8),
}


FAST = ("subclassed",)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in FAST else [pytest.mark.slow, pytest.mark.release])
        for kind in KINDS
    ],
)
def test_any_model_trains_splits_and_comes_back(kind, tmp_path):
    build, shape, channels = KINDS[kind]
    embedder = embedder_of(build())
    assert [layer.name for layer in embedder.layers] == [
        "image", "backbone", "pool", "embedding", "l2",
    ]  # fmt: skip
    assert embedder.get_layer("backbone").output_shape == shape
    two_steps(embedder)
    expected = embedder.predict(IMAGES, verbose=0)
    # without being told that nothing is trained, whatever layers are inside
    np.testing.assert_allclose(embedder(IMAGES), expected, atol=1e-6)

    features_model, head = keras_ms.split_embedder(embedder)
    features = features_model.predict(IMAGES, verbose=0)
    assert features.shape == (len(IMAGES), channels)
    np.testing.assert_allclose(head.predict(features, verbose=0), expected, atol=1e-6)
    keras_ms.without_normalization(embedder)
    keras_ms.initialize_head(embedder, features, LABELS, start="pca")

    embedder.save(tmp_path / "embedder.keras")
    again = keras.saving.load_model(tmp_path / "embedder.keras", compile=False)
    np.testing.assert_allclose(
        again.predict(IMAGES, verbose=0), embedder.predict(IMAGES, verbose=0), atol=1e-6
    )
    assert computation(keras_ms.split_embedder(again)[0]) == computation(features_model)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("kind", ["subclassed", "sequential"])
def test_a_frozen_backbone_computes_the_same_in_training(kind):
    embedder = embedder_of(KINDS[kind][0](), freeze_backbone=True)
    before = embedder.get_layer("backbone").get_weights()
    expected = embedder.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(embedder(IMAGES, training=True), expected, atol=1e-6)
    two_steps(embedder)
    for old, new in zip(before, embedder.get_layer("backbone").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [weight.path for weight in embedder.trainable_weights] == [
        "embedding/kernel", "embedding/bias",
    ]  # fmt: skip


def test_the_power_of_the_generalised_mean_is_trained_unless_the_backbone_is_frozen():
    embedder = embedder_of(functional(), pooling="gem")
    two_steps(embedder)
    assert float(embedder.get_layer("pool").p.numpy()) != 3.0
    frozen = embedder_of(functional(), pooling="gem", freeze_backbone=True)
    assert len(frozen.trainable_weights) == 2


def test_pixels_are_normalised_as_the_name_says():
    identity = keras.Sequential([keras.layers.Activation("linear")], name="pixels")
    for normalisation, expected in (
        ("zero_to_one", IMAGES / 255),
        (NORMALISATIONS["caffe"], IMAGES[..., ::-1] - np.float32([103.939, 116.779, 123.68])),
        (Normalisation((2.0, 1.0, 1.0), (0.0, 0.0, 1.0)), IMAGES * [2, 1, 1] + [0, 0, 1]),
        ("auto", IMAGES),
        (None, IMAGES),
    ):
        adapted = adapted_backbone(identity, image_size=(SIDE, SIDE), normalisation=normalisation)
        np.testing.assert_allclose(adapted.model(IMAGES), expected, atol=1e-4)


def test_sizes_follow_the_network():
    assert adapted_backbone(functional(sides=(20, 24))).image_size == (20, 24)
    assert adapted_backbone(functional()).image_size == (224, 224)
    assert adapted_backbone("small").image_size == (224, 224)
    assert adapted_backbone("small", image_size=(32, 40)).model.input_shape == (None, 32, 40, 3)


@pytest.mark.parametrize("side", [None, SIDE])
def test_a_sequential_model_that_was_never_called_may_name_its_input(side):
    network = keras.Sequential([keras.Input((side, side, 3)), keras.layers.Conv2D(4, 3)])
    adapted = adapted_backbone(network, image_size=(SIDE, SIDE))
    assert adapted.input_key is None
    assert adapted.model.output_shape == (None, SIDE - 2, SIDE - 2, 4)


def test_the_record_of_a_transformer_and_of_a_key():
    adapted = adapted_backbone(tokens(), num_prefix_tokens=1)
    assert (adapted.num_prefix_tokens, adapted.input_key) == (1, None)
    assert adapted_backbone(functional("pixels")).input_key == "pixels"
    embedder = embedder_of(tokens(), num_prefix_tokens=1)
    assert embedder.get_layer("pool").tokens == "cls"
    assert embedder_of(tokens()).get_layer("pool").tokens == "patches"


# Statistics of batches


def test_statistics_of_a_model_are_frozen_if_asked_for():
    def norm(**options):
        network = embedder_of(functional(), **options).get_layer("backbone").layers[-1]
        return network.get_layer("norm")

    assert not isinstance(norm(), FrozenStatisticsBatchNormalization)
    assert isinstance(norm(frozen_batch_norm=True), FrozenStatisticsBatchNormalization)


def test_statistics_of_a_sequential_model_are_frozen_if_asked_for():
    network = embedder_of(sequential(), frozen_batch_norm=True).get_layer("backbone").layers[-1]
    assert isinstance(network, NetworkCall)
    kinds = [type(layer) for layer in network.network.layers]
    assert keras.layers.BatchNormalization not in kinds


def test_statistics_inside_of_a_class_are_refused_with_what_holds_them():
    with pytest.raises(ValueError, match="1 inside of other layers.*freeze_backbone=True"):
        embedder_of(Subclassed(), frozen_batch_norm=True)


def test_a_file_brings_its_statistics_along(tmp_path):
    network = functional()
    network.save(tmp_path / "network.keras")
    embedder = embedder_of(tmp_path / "network.keras", normalisation="minus_one_to_one")
    inner = embedder.get_layer("backbone").layers[-1]
    assert isinstance(inner.get_layer("norm"), FrozenStatisticsBatchNormalization)
    expected = network(IMAGES / 127.5 - 1, training=False)
    np.testing.assert_allclose(
        embedder.get_layer("backbone")(IMAGES), expected, rtol=1e-4, atol=1e-4
    )


def test_weights_and_cuts_of_ones_own_network(tmp_path):
    network = functional()
    network.save_weights(tmp_path / "network.weights.h5")
    other = embedder_of(
        functional(), weights=tmp_path / "network.weights.h5", output_layer="convolution"
    )
    backbone = other.get_layer("backbone")
    np.testing.assert_allclose(
        backbone(IMAGES), network.get_layer("convolution")(IMAGES), rtol=1e-5, atol=1e-4
    )


# Refusals


def two_inputs():
    one, other = keras.Input((SIDE, SIDE, 3)), keras.Input((4,))
    return keras.Model([one, other], [keras.layers.Flatten()(one), other], name="two")


def of_numbers():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def two_outputs():
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, [images, keras.layers.Flatten()(images)], name="outputs")


@pytest.mark.parametrize(
    "backbone, options, message",
    [
        (lambda: functional(sides=(48, 48)), {}, "takes images of 48 x 48 pixels.*image_size=32"),
        (two_inputs, {}, "one input, RGB images.*'two' takes"),
        (two_outputs, {}, "one output: a feature map.*choose one"),
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
            {},
            "one input, RGB",
        ),
        (lambda: 7, {}, "the path of a .keras file.*Received: 7"),
        (tokens, {"pooling": "avg"}, "gives tokens.*Expected one of patches. Received: 'avg'"),
        (tokens, {"num_prefix_tokens": 17}, "fewer than there are tokens .17.*Received: 17"),
        (functional, {"normalisation": "imagnet"}, "Nearest: imagenet.*Or None"),
        (functional, {"weights": "imagenet"}, "no weights='imagenet' of the backbone"),
        (functional, {"output_layer": "convolutoin"}, "Nearest: convolution"),
        (Subclassed, {"weights": "a.weights.h5"}, "a class of its own, before it is given"),
        (Subclassed, {"output_layer": "dropout"}, "'subclassed.*is a class of its own, Subclassed"),
        (lambda: "small", {"normalisation": "caffe"}, "`normalisation`. Expected 'auto' with"),
    ],
)
def test_what_arrived_and_what_was_expected(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        embedder_of(backbone(), **{"normalisation": "auto", **options})


def test_a_network_that_fails_on_images_says_so():
    with pytest.raises(ValueError, match="fails on RGB images of 32 x 32 pixels"):
        embedder_of(keras.Sequential([keras.layers.Conv2D(2, 40)], name="large"))


def test_files_that_hold_code_or_are_no_files(tmp_path):
    path = tmp_path / "code.keras"
    images = keras.Input((SIDE, SIDE, 3))
    keras.Model(images, keras.layers.Lambda(lambda x: x * 2)(images)).save(path)
    with pytest.raises(ValueError, match="code.keras holds code of its own.*not run"):
        embedder_of(path)
    with pytest.raises(FileNotFoundError, match="Nothing is at nowhere.keras"):
        embedder_of("nowhere.keras")
