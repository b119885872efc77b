"""Test-time views: against literal ones, saved, exported, and what is refused."""

import keras
import numpy as np
import pytest

import keras_ms
from keras_ms.export.runner import load_runner
from keras_ms.models.averaged_views import Views, average_views

RANDOM = np.random.default_rng(0)


def pictures(count=3, height=9, width=8):
    return RANDOM.uniform(0, 255, (count, height, width, 3)).astype("float32")


def literal_view(image, matrix):
    """A pixel at a time, in float64, the border repeated."""
    height, width = image.shape[:2]
    view = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            u, v = matrix @ (np.array([x, y]) - [(width - 1) / 2, (height - 1) / 2])
            u = min(max(u + (width - 1) / 2, 0), width - 1)
            v = min(max(v + (height - 1) / 2, 0), height - 1)
            left, top = int(u), int(v)
            for row, by_row in ((top, 1 - (v - top)), (min(top + 1, height - 1), v - top)):
                for column, share in ((left, 1 - (u - left)), (min(left + 1, width - 1), u - left)):
                    view[y, x] += by_row * share * image[row, column].astype("float64")
    return view


def rotation_matrix(degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


def small_embedder():
    keras.utils.set_random_seed(0)
    return keras_ms.build_embedder("small", image_size=16, embedding_size=5)


def test_views_are_those_of_a_literal_warp():
    images = pictures()
    layer = Views(rotation=20, zoom=0.25, mirror=True)
    views = np.asarray(layer(images))
    assert layer.number == 10 and views.shape == (30, 9, 8, 3)
    matrices = [np.eye(2), rotation_matrix(20), rotation_matrix(-20), np.eye(2) / 1.25]
    matrices.append(np.eye(2) * 1.25)
    for index, image in enumerate(images):
        literal = [literal_view(image, matrix) for matrix in matrices]
        literal += [view[:, ::-1] for view in literal]
        np.testing.assert_allclose(views[10 * index : 10 * index + 10], literal, atol=1e-3)


@pytest.mark.parametrize(
    "given, number", [({"mirror": True}, 2), ({"rotation": 5}, 3), ({"zoom": 0.1}, 3)]
)
def test_each_kind_of_view_alone(given, number):
    layer = Views(**given)
    views = np.asarray(layer(pictures(2)))
    assert layer.number == number and len(views) == 2 * number
    assert np.abs(views[1:number] - views[0]).mean(axis=(1, 2, 3)).min() > 1


def test_the_embedding_is_the_normalised_mean_of_those_of_the_views():
    embedder = small_embedder()
    images = pictures(4, 16, 16)
    averaged = average_views(embedder, mirror=True)
    both = embedder(images).numpy() + embedder(images[:, :, ::-1]).numpy()
    expected = both / np.linalg.norm(both, axis=1, keepdims=True)
    found = averaged(images).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - embedder(images)).max() > 1e-3
    # what mirrors the picture does not change it
    np.testing.assert_allclose(averaged(images[:, :, ::-1]), found, atol=1e-6)


@pytest.mark.parametrize("end", ["a nested head", "ops.normalize", "a layer"])
def test_every_end_that_makes_unit_vectors_is_seen(end):
    image = keras.Input((16, 16, 3))
    if end == "a nested head":
        features, head = keras_ms.split_embedder(small_embedder())
        embedder = keras.Model(features.input, head(features.output))
    else:
        rows = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(image))
        unit = keras.ops.normalize(rows) if end == "ops.normalize" else None
        embedder = keras.Model(
            image, keras.layers.UnitNormalization()(rows) if unit is None else unit
        )
    found = average_views(embedder, mirror=True, zoom=0.3)(pictures(4, 16, 16)).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_normalisation_of_something_else_is_none():
    image = keras.Input((16, 16, 3))
    rows = keras.ops.normalize(keras.layers.Flatten()(image), order=1)
    averaged = average_views(keras.Model(image, rows), zoom=0.3)
    found = averaged(pictures(2, 16, 16)).numpy()
    np.testing.assert_allclose(np.abs(found).sum(axis=1), 1, atol=1e-5)


def test_views_of_an_embedder_of_integers_are_rounded():
    def embedder(dtype):
        image = keras.Input((16, 16, 3), dtype=dtype)
        pixels = keras.ops.cast(image, "float32")
        return keras.Model(image, keras.layers.Flatten()(pixels))

    images = pictures(4, 16, 16).astype("uint8")
    exact, rounded = (
        average_views(embedder(dtype), zoom=0.3)(images).numpy() for dtype in ("float32", "uint8")
    )
    assert np.abs(rounded - exact).max() <= 0.5
    assert abs((rounded - exact).mean()) < 0.05  # cut off, it would be 0.3


@pytest.mark.parametrize("name", ["views", "mean", "l2"])
def test_an_embedder_may_have_any_name(name):
    embedder = small_embedder()
    embedder = keras.Model(embedder.input, embedder.output, name=name)
    assert average_views(embedder, mirror=True)(pictures(2, 16, 16)).shape == (2, 5)


@pytest.mark.filterwarnings("error:The structure of")
def test_dot_products_keep_their_length():
    embedder = keras_ms.without_normalization(small_embedder())
    images = pictures(2, 16, 16)
    expected = (embedder(images).numpy() + embedder(images[:, :, ::-1]).numpy()) / 2
    np.testing.assert_allclose(
        average_views(embedder, mirror=True)(images), expected, rtol=1e-5, atol=1e-6
    )


def test_it_trains_what_it_averages_and_reloads(tmp_path):
    embedder = small_embedder()
    averaged = average_views(embedder, rotation=5, zoom=0.1)
    assert averaged.trainable_variables == embedder.trainable_variables
    assert (averaged.name, averaged.input_shape) == (embedder.name, embedder.input_shape)
    images = pictures(2, 16, 16)
    expected = averaged.predict(images, verbose=0)
    averaged.save(tmp_path / "averaged.keras")
    again = keras.models.load_model(tmp_path / "averaged.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), expected)


@pytest.mark.slow
@pytest.mark.parametrize("export, name", [("export_onnx", "a.onnx"), ("export_saved_model", "a")])
def test_exports_give_its_answers(tmp_path, export, name):
    if export == "export_onnx":
        pytest.importorskip("onnxruntime")
    averaged = average_views(small_embedder(), rotation=7, zoom=0.1, mirror=True)
    getattr(keras_ms, export)(averaged, tmp_path / name)
    images = pictures(3, 16, 16)
    found = load_runner(tmp_path / name).run(images)
    np.testing.assert_allclose(found, averaged.predict(images, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "nothing to average"),
        ({"rotation": 200}, "`rotation` >= 0 and <= 180.*200"),
        ({"zoom": -0.1}, "`zoom` >= 0 and <= 1.*-0.1"),
    ],
)
def test_numbers_out_of_range_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        average_views(small_embedder(), **given)


def test_models_of_something_else_are_refused():
    pooling = keras.layers.GlobalAveragePooling2D()
    free = keras.Sequential([keras.Input((None, None, 3)), pooling])
    with pytest.raises(ValueError, match="fixed sides.*None"):
        average_views(free, mirror=True)
    rows = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match=r"images \(batch, height, width, channels\)"):
        average_views(rows, mirror=True)
    maps = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match=r"embeddings, \(batch, dimension\)"):
        average_views(maps, mirror=True)
