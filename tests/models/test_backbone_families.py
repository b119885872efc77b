"""Every family of backbones end to end, tiny and random: trained, saved, exported, compared."""

import keras
import numpy as np
import pytest
import small_hub_networks as of_hub
from small_networks import IMAGES, LABELS, SIDE, Subclassed, sequential

import keras_ms
from keras_ms.export.keras_file import write_keras_file

pytest.importorskip("onnxruntime", reason='needs pip install -e ".[onnx]"')
onnx = pytest.importorskip("onnx")
pytest.importorskip("tf2onnx")

# what the network is, what it gives, how that is pooled if nothing is said
FAMILIES = {
    "vit": (of_hub.vit, (None, 17, 16), "cls"),
    "deit": (of_hub.deit, (None, 18, 16), "cls"),
    "dinov2": (of_hub.dinov2, (None, 19, 16), "cls"),
    "dinov3": (of_hub.dinov3, (None, 21, 16), "cls"),
    "swin": (of_hub.swin, (None, 16, 16), "patches"),
    "siglip": (of_hub.siglip, (None, 16), None),
    "clip": (of_hub.clip, (None, 17, 16), "cls"),
    "densenet": (of_hub.densenet, (None, 2, 2, 23), None),
    "efficientnet": (of_hub.efficientnet, (None, 8, 8, 1280), None),
    "mobilenet_v3_small": (lambda: "mobilenet_v3_small", (None, 1, 1, 576), None),
    "convnext_tiny": (lambda: "convnext_tiny", (None, 1, 1, 768), None),
    "subclassed": (Subclassed, (None, 15, 15, 8), None),
    "sequential": (sequential, (None, 8), None),
}
FAST = ("vit",)


def marked(names):
    return [
        pytest.param(name, marks=() if name in FAST else [pytest.mark.slow, pytest.mark.release])
        for name in names
    ]


def embedder_of(backbone, **options):
    if not isinstance(backbone, str):
        options = {"normalisation": "minus_one_to_one", **options}
    return keras_ms.build_embedder(backbone, image_size=SIDE, embedding_size=5, seed=0, **options)


def two_steps(embedder):
    embedder.compile(keras.optimizers.SGD(0.5), loss=keras_ms.MultiSimilarityLoss())
    before = [weight.numpy().copy() for weight in embedder.trainable_weights]
    for _ in range(2):
        assert np.isfinite(embedder.train_on_batch(IMAGES, LABELS))
    changed = [
        not np.array_equal(old, new.numpy()) for old, new in zip(before, embedder.trainable_weights)
    ]
    # the network learns, not the head alone
    assert sum(changed) > 2
    return embedder


@pytest.mark.parametrize("family", marked(FAMILIES))
def test_a_family_trains_comes_back_and_is_exported(family, tmp_path):
    build, shape, tokens = FAMILIES[family]
    embedder = two_steps(embedder_of(build()))
    assert embedder.get_layer("backbone").output_shape == shape
    assert getattr(embedder.get_layer("pool"), "tokens", None) == tokens

    # each of them compares what it wrote with the model, at two sizes of batches
    assert write_keras_file(embedder, tmp_path / "embedder.keras") <= 1e-5
    saved = keras_ms.export_saved_model(embedder, tmp_path / "saved")
    exported = keras_ms.export_onnx(embedder, tmp_path / "embedder.onnx")
    print(f"{family}: SavedModel {saved:.0e}, ONNX {exported:.0e}")
    assert max(saved, exported) <= 1e-5
    (taken,) = onnx.load(tmp_path / "embedder.onnx").graph.input
    assert taken.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("family", ["vit", "dinov2", "swin", "siglip", "efficientnet"])
def test_a_frozen_family_gives_features_that_stay(family):
    embedder = embedder_of(FAMILIES[family][0](), freeze_backbone=True)
    features_model, head = keras_ms.split_embedder(embedder)
    features = features_model.predict(IMAGES, verbose=0)
    assert [weight.path for weight in embedder.trainable_weights] == [
        "embedding/kernel", "embedding/bias",
    ]  # fmt: skip
    np.testing.assert_allclose(
        embedder(IMAGES, training=True), head.predict(features, verbose=0), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("freeze", [False, True])
def test_a_family_of_low_precision_is_exported_in_float32(freeze, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        embedder = embedder_of(of_hub.vit(), freeze_backbone=freeze)
    finally:
        keras.config.set_dtype_policy("float32")
    assert embedder.get_layer("backbone").output.dtype == "bfloat16"
    write_keras_file(embedder, tmp_path / "embedder.keras")
    assert keras_ms.export_onnx(embedder, tmp_path / "embedder.onnx") <= 1e-5


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("pooling", ["cls", "patches", "cls+patches"])
def test_tokens_of_a_family_are_those_of_its_network(pooling):
    network = of_hub.dinov2()
    embedder = embedder_of(network, pooling=pooling)
    given = network({"images": IMAGES / 127.5 - 1}).numpy()
    parts = {"cls": given[:, 0], "patches": given[:, 3:].mean(axis=1)}
    parts["cls+patches"] = np.hstack([parts["cls"], parts["patches"]])
    features = keras_ms.split_embedder(embedder)[0].predict(IMAGES, verbose=0)
    np.testing.assert_allclose(features, parts[pooling], atol=1e-5)


@pytest.mark.slow
@pytest.mark.release
def test_statistics_of_a_convolutional_network_of_keras_hub_are_frozen():
    network = of_hub.densenet()
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign_add(np.full(layer.moving_mean.shape, 0.3))
    embedder = embedder_of(network, frozen_batch_norm=True)
    expected = network(IMAGES / 127.5 - 1, training=False)
    backbone = embedder.get_layer("backbone")
    np.testing.assert_allclose(backbone(IMAGES, training=True), expected, rtol=1e-3, atol=1e-4)


# Positions of DINOv2


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_trained_positions_of_dinov2_come_back(sign, tmp_path):
    embedder = embedder_of(of_hub.dinov2())
    positions = embedder.get_layer("backbone").layers[-1].embeddings
    table = positions.interpolated_position_embeddings
    noise = np.random.default_rng(0).normal(size=table.shape)
    table.assign_add(sign * np.abs(noise))
    write_keras_file(embedder, tmp_path / "embedder.keras")
    again = keras.saving.load_model(tmp_path / "embedder.keras", compile=False)
    np.testing.assert_array_equal(again(IMAGES), embedder(IMAGES))
    # and the files of a run, from which it is resumed
    embedder.save_weights(tmp_path / "last.weights.h5")
    expected = embedder(IMAGES)
    table.assign_add(noise)
    embedder.load_weights(tmp_path / "last.weights.h5")
    np.testing.assert_array_equal(embedder(IMAGES), expected)


def test_the_token_of_dinos_pretraining_is_not_trained():
    embedder = embedder_of(of_hub.dinov2())
    names = [weight.path for weight in embedder.trainable_weights]
    assert any("cls_token" in name for name in names)
    assert not any("mask_token" in name for name in names)


def test_a_network_that_loses_its_positions_is_refused_when_it_is_written(tmp_path):
    network = of_hub.dinov2(position_side=SIDE)
    images = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(images, network({"images": images})[:, 0])
    network.embeddings.interpolated_position_embeddings.assign_add(np.ones((1, 17, 16)))
    with pytest.raises(ValueError, match="interpolated_position_embeddings came back with other"):
        write_keras_file(model, tmp_path / "model.keras")
    assert not (tmp_path / "model.keras").exists()


def test_positions_of_dinov2_are_interpolated_to_another_size(tmp_path):
    network = of_hub.dinov2()
    larger = keras_ms.build_embedder(network, image_size=40, normalisation=None)
    # as KerasHub does it when it loads weights into a network of that size
    by_hub = type(network).from_config({**network.get_config(), "image_shape": (40, 40, 3)})
    network.save_weights(tmp_path / "network.weights.h5")
    by_hub.load_weights(tmp_path / "network.weights.h5")
    images = np.random.default_rng(0).uniform(0, 255, (2, 40, 40, 3)).astype("float32")
    np.testing.assert_allclose(
        larger.get_layer("backbone")(images), by_hub({"images": images}), atol=1e-6
    )


# Sizes and kinds


def test_a_network_of_texts_is_no_backbone():
    with pytest.raises(ValueError, match="one input, RGB images.*takes .*token_ids"):
        keras_ms.build_embedder(of_hub.siglip().text_encoder)


def test_a_network_with_a_position_for_each_patch_names_its_size():
    with pytest.raises(
        ValueError, match="ViTBackbone.*32 x 32.*cannot take 48 x 48.*image_size=32"
    ):
        keras_ms.build_embedder(of_hub.vit(), image_size=48, normalisation=None)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("build", [of_hub.dinov3, of_hub.densenet, of_hub.swin])
def test_networks_without_learned_positions_take_other_sizes(build):
    network = build()
    adapted = keras_ms.models.adapters.adapted_backbone(
        network, image_size=(64, 64), normalisation=None
    )
    for old, new in zip(network.get_weights(), adapted.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_network_of_keras_hub_alone_does_not_say_how_it_wants_its_pixels():
    with pytest.raises(ValueError, match="Expected `normalisation`.*image converter"):
        keras_ms.build_embedder(of_hub.vit(), image_size=SIDE)
