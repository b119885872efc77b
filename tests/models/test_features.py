"""Cached features: found again by a reloaded model, never those of another."""

import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import small_runs
import tensorflow as tf

from keras_ms.data.image_list import ImageList
from keras_ms.models.embedding import build_embedder, split_embedder
from keras_ms.models.features import computation, pooled_features
from keras_ms.terminal import progress

small_is_tiny = small_runs.small_is_tiny

VIEW = {"plain": [32, 32]}


def _images(size=32, count=6, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    return ImageList(
        [f"{n}" for n in range(count)], [0] * count, ["a"], ["train"] * count,
        images=pixels, name="drawn",
    )  # fmt: skip


def _features_model(backbone="small", image_size=32, **options):
    options = {"embedding_size": 4, "image_size": image_size, "seed": 0} | options
    return split_embedder(build_embedder(backbone, **options))[0]


def _file(model, folder, images=None, view=VIEW):
    """The file that `pooled_features` made or read, by name."""
    images = images or _images(model.inputs[0].shape[1])
    lines, before = [], set(folder.iterdir()) if folder.is_dir() else set()
    pooled_features(model, images, view, lambda: images.images, folder, log=lines.append, verbose=0)
    made = set(folder.iterdir()) - before
    return made.pop().name if made else lines[-1].rpartition("/")[2]


@pytest.mark.parametrize(
    "backbone, size, options",
    [
        ("small", 32, {"pooling": "avg+max"}),
        pytest.param(
            "mobilenet_v2",
            32,
            {"frozen_batch_norm": True},
            marks=[pytest.mark.slow, pytest.mark.release],
        ),
        pytest.param(
            "mobilenet_v2",
            48,
            {"freeze_backbone": True, "output_layer": "block_6_expand"},
            marks=[pytest.mark.slow, pytest.mark.release],
        ),
        pytest.param(
            "bn_inception", 64, {"pooling": "max"}, marks=[pytest.mark.slow, pytest.mark.release]
        ),
    ],
)
def test_a_reloaded_embedder_finds_its_features(backbone, size, options, tmp_path):
    embedder = build_embedder(backbone, image_size=size, embedding_size=4, seed=0, **options)
    # as a run saves it: Keras writes the inputs of this model otherwise than those of the first
    deployed = keras.Model(embedder.inputs, embedder.outputs, name="embedder")
    deployed.save(tmp_path / "embedder.keras")
    reloaded = keras.saving.load_model(tmp_path / "embedder.keras", compile=False)
    # its layers get other names of their own
    rebuilt = build_embedder(backbone, image_size=size, embedding_size=4, seed=0, **options)
    models = [split_embedder(model)[0] for model in (embedder, reloaded, rebuilt)]
    assert len({str(computation(model)) for model in models}) == 1
    for model in models:
        _file(model, tmp_path / "features")
    assert len(list((tmp_path / "features").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.release
def test_another_computation_has_features_of_its_own(tmp_path):
    def normalised_otherwise(model):
        # the images' scale is a setting, no weight: what `get_weights` holds stays the same
        text = model.to_json()
        assert '"scale": 0.00784313725490196' in text
        changed = keras.models.model_from_json(text.replace("0.00784313725490196", "0.0039"))
        changed.set_weights(model.get_weights())
        return changed

    def with_a_changed_weight(model):
        weights = model.get_weights()
        weights[3].flat[0] += 1e-3
        model.set_weights(weights)
        return model

    plain = _features_model()
    models = {
        "plain": plain,
        "image size": _features_model(image_size=48),
        "pooling": _features_model(pooling="max"),
        "both poolings": _features_model(pooling="avg+max"),
        "weight": with_a_changed_weight(_features_model()),
        "normalisation": normalised_otherwise(plain),
        "initial weights": _features_model(seed=1),
        "mobilenet": _features_model("mobilenet_v2"),
        "output layer": _features_model("mobilenet_v2", output_layer="block_6_expand"),
    }
    names = {name: _file(model, tmp_path) for name, model in models.items()}
    assert len(set(names.values())) == len(names), names


def test_the_order_of_the_channels_is_part_of_the_computation():
    # an operation, not a layer, which Keras leaves out of `model.layers`
    def turned(order):
        image = keras.Input((8, 8, 3))
        return keras.Model(image, keras.ops.take(image, keras.ops.array(order), axis=-1))

    assert str(computation(turned([2, 1, 0]))) == str(computation(turned([2, 1, 0])))
    assert str(computation(turned([2, 1, 0]))) != str(computation(turned([0, 1, 2])))


def test_the_precision_is_part_of_the_computation():
    def dense(dtype):
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype=dtype)])

    found = {dtype: str(computation(dense(dtype))) for dtype in ("float32", "mixed_bfloat16")}
    assert found["float32"] == str(computation(dense("float32"))) != found["mixed_bfloat16"]


def test_equal_values_of_another_shape_are_other_weights(tmp_path):
    def ones(shape):
        image = keras.Input((32, 32, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(image)
        for units in shape:
            pooled = keras.layers.Dense(units, use_bias=False, kernel_initializer="ones")(pooled)
        return keras.Model(image, pooled)

    assert _file(ones((2, 3)), tmp_path) != _file(ones((3, 2)), tmp_path)


def test_other_images_and_another_view_are_computed(tmp_path):
    model = _features_model()
    names = [
        _file(model, tmp_path),
        _file(model, tmp_path, images=_images(seed=1)),
        _file(model, tmp_path, view={"plain": [32, 36]}),
    ]
    assert len(set(names)) == 3


def test_a_file_of_another_length_is_computed_anew(tmp_path):
    model, images = _features_model(), _images()
    file = tmp_path / _file(model, tmp_path)
    whole = np.load(file)
    np.save(file, whole[:2])
    lines = []
    again = pooled_features(
        model, images, VIEW, lambda: images.images, tmp_path, log=lines.append, verbose=0
    )
    assert lines == ["Computing the features of 6 images once"]
    np.testing.assert_allclose(again, whole, rtol=1e-5)


def test_a_log_is_told_how_far_it_is(tmp_path, monkeypatch, capsys):
    seconds = itertools.count(0, 40)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    images, lines = _images(count=6), []
    batches = tf.data.Dataset.from_tensor_slices(images.images).batch(2)
    pooled_features(
        _features_model(), images, VIEW, lambda: batches, tmp_path, log=lines.append, verbose=2
    )
    assert [line.split(", about")[0] for line in lines] == [
        "Computing the features of 6 images once",
        "features: 2 of 6 images",
        "features: 4 of 6 images",
    ]
    assert capsys.readouterr().out == ""  # no second line, of Keras
