"""Random distortions: purity, ranges, and the affine map against a literal warp."""

import numpy as np
import pytest
import tensorflow as tf

from keras_ms.data.distortions import affine_transforms, distort

STILL = dict(rotation=0, scale=0, shear=0, translation=0)


def photographs(count=6, height=20, width=24, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def test_equal_seeds_give_equal_results_and_others_differ():
    images = photographs()
    settings = dict(brightness=0.2, contrast=0.3, erasing=0.5, perspective=0.1)
    first = distort(images, (1, 2), **settings).numpy()
    again = tf.function(lambda x, s: distort(x, s, **settings))(images, tf.constant([1, 2])).numpy()
    np.testing.assert_allclose(first.astype(int), again.astype(int), atol=1)
    other = distort(images, (1, 3), **settings).numpy()
    assert np.abs(first.astype(int) - other).mean() > 5


def test_each_image_is_distorted_in_its_own_way():
    images = np.repeat(photographs(1), 5, axis=0)
    distorted = distort(images, (0, 0)).numpy()
    for index in range(1, 5):
        assert np.abs(distorted[0].astype(int) - distorted[index]).mean() > 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_without_distortion_nothing_changes(dtype):
    images = photographs().astype(dtype)
    result = distort(images, (0, 0), **STILL)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, images, atol=1e-3)


def test_static_and_unknown_shapes_survive():
    @tf.function(input_signature=[tf.TensorSpec((None, 20, 24, 1), tf.uint8)])
    def distorted(images):
        result = distort(images, (0, 1))
        assert result.shape.as_list() == [None, 20, 24, 1]
        return result

    assert distorted(photographs(3, channels=1)).shape == (3, 20, 24, 1)


def test_runs_inside_a_dataset():
    dataset = tf.data.Dataset.from_tensors(photographs()).repeat(2).enumerate()
    dataset = dataset.map(lambda step, images: distort(images, tf.stack([7, step])))
    first, second = (batch.numpy() for batch in dataset)
    assert not np.array_equal(first, second)
    # step counts as int64 here and as int32 there; rounding may differ between the two ways to run
    np.testing.assert_allclose(first.astype(int), distort(photographs(), (7, 0)), atol=1)


def literal_map(row, x, y):
    a0, a1, a2, b0, b1, b2, c0, c1 = row
    k = c0 * x + c1 * y + 1
    return (a0 * x + a1 * y + a2) / k, (b0 * x + b1 * y + b2) / k


def test_maps_stay_within_the_stated_ranges():
    settings = dict(rotation=20.0, scale=0.0, shear=0.0, translation=0.1)
    rows = affine_transforms(500, 30, 50, (3, 4), **settings).numpy()
    angles = np.rad2deg(np.arctan2(rows[:, 3], rows[:, 0]))
    assert np.abs(angles).max() <= 20.0001 and angles.max() > 18 and angles.min() < -18
    # without scale and shear the map is a rotation
    np.testing.assert_allclose(rows[:, 0] * rows[:, 4] - rows[:, 1] * rows[:, 3], 1, atol=1e-5)
    shifts = np.array([literal_map(row, 24.5, 14.5) for row in rows]) - (24.5, 14.5)
    assert np.abs(shifts[:, 0]).max() <= 5.001 and np.abs(shifts[:, 1]).max() <= 3.001
    assert np.abs(shifts[:, 0]).max() > 4.5 and np.abs(shifts[:, 1]).max() > 2.7


def test_scale_stretches_the_two_axes_independently():
    settings = dict(rotation=0.0, scale=0.5, shear=0.0, translation=0.0)
    rows = affine_transforms(500, 30, 30, (3, 4), **settings).numpy()
    for column in (0, 4):
        assert 1 / 1.5 - 1e-5 <= rows[:, column].min() < 0.7
        assert 1.4 < rows[:, column].max() <= 1.5 + 1e-5
    assert abs(np.corrcoef(rows[:, 0], rows[:, 4])[0, 1]) < 0.2
    centre = np.array([literal_map(row, 14.5, 14.5) for row in rows])
    np.testing.assert_allclose(centre, 14.5, atol=1e-4)


def test_perspective_keeps_the_centre_and_changes_the_magnification():
    settings = dict(rotation=0.0, scale=0.0, shear=0.0, translation=0.0, perspective=0.2)
    rows = affine_transforms(200, 30, 30, (3, 4), **settings).numpy()
    centre = np.array([literal_map(row, 14.5, 14.5) for row in rows])
    np.testing.assert_allclose(centre, 14.5, atol=1e-3)
    left = np.array([literal_map(row, 0.0, 14.5)[0] for row in rows]) - 14.5
    right = np.array([literal_map(row, 29.0, 14.5)[0] for row in rows]) - 14.5
    assert np.abs(-left / right - 1).max() > 0.2


def test_pixels_follow_the_map():
    """A literal bilinear look-up of one image, pixel by pixel, with the border repeated."""
    image = photographs(1, height=12, width=14, channels=1).astype(np.float32)
    seed = (5, 6)
    inner = tf.random.split(tf.constant(seed, tf.int64), 3)[0]
    settings = dict(rotation=25.0, scale=0.3, shear=0.3, translation=0.1, perspective=0.1)
    row = affine_transforms(1, 12, 14, inner, **settings).numpy()[0].astype(np.float64)
    expected = np.empty((12, 14))
    for y in range(12):
        for x in range(14):
            u, v = literal_map(row, x, y)
            left, top = int(np.floor(u)), int(np.floor(v))

            def pixel(i, j):
                return image[0, min(max(j, 0), 11), min(max(i, 0), 13), 0]

            upper = (left + 1 - u) * pixel(left, top) + (u - left) * pixel(left + 1, top)
            lower = (left + 1 - u) * pixel(left, top + 1) + (u - left) * pixel(left + 1, top + 1)
            expected[y, x] = (top + 1 - v) * upper + (v - top) * lower
    result = distort(image, seed, **settings).numpy()[0, :, :, 0]
    np.testing.assert_allclose(result, expected, atol=0.05)


@pytest.mark.parametrize("fill, expected", [(255, 255), (0, 0), ("nearest", 100)])
def test_fill_of_what_lies_outside(fill, expected):
    images = np.full((20, 16, 16, 1), 100, np.uint8)
    far = distort(images, (0, 0), **{**STILL, "translation": 0.9}, fill=fill).numpy()
    shares = (far == expected).mean()
    assert shares == 1.0 if fill == "nearest" else shares > 0.3


def test_light_changes_within_the_range():
    images = np.full((300, 4, 4, 1), 100, np.float32)
    brighter = distort(images, (0, 0), **STILL, brightness=0.2).numpy()[:, 0, 0, 0] - 100
    assert np.abs(brighter).max() <= 51.01 and brighter.max() > 45 and brighter.min() < -45
    images[:, :2] = 150
    contrast = distort(images, (0, 0), **STILL, contrast=0.4).numpy()
    spread = contrast[:, 0, 0, 0] - contrast[:, 3, 0, 0]
    assert spread.min() >= 29.9 and spread.max() <= 70.1
    np.testing.assert_allclose(contrast.mean(axis=(1, 2, 3)), 125, atol=1e-3)


def test_erasing_paints_a_rectangle_in_the_stated_share_of_images():
    images = photographs(400, 32, 32, 1).astype(np.float32)
    changed = np.abs(distort(images, (0, 0), **STILL, erasing=0.5).numpy() - images) > 1e-3
    areas = changed.mean(axis=(1, 2, 3))
    assert 0.4 < (areas > 0).mean() < 0.6
    # a rectangle that reaches over the border is cut there
    assert areas.max() <= 0.24
    rows, columns = changed.any(axis=(2, 3)), changed.any(axis=(1, 3))
    for index in np.flatnonzero(areas > 0)[:50]:
        inside = rows[index][:, None] & columns[index][None]
        assert changed[index, :, :, 0][inside].mean() > 0.9


@pytest.mark.parametrize("fill", ["nearest", 0, 200])
def test_bending_by_next_to_nothing_is_the_map_alone(fill):
    images = photographs().astype(np.float32)
    settings = dict(rotation=25.0, translation=0.3, perspective=0.1, fill=fill)
    bent = distort(images, (5, 6), **settings, elastic=1e-7).numpy()
    np.testing.assert_allclose(bent, distort(images, (5, 6), **settings), atol=0.1)


def test_bending_shifts_by_the_stated_share_of_the_sides():
    """The value of a ramp is a position: where it changes is how far it was shifted."""
    x, y = np.meshgrid(np.arange(60.0), np.arange(40.0))
    images = np.repeat(np.stack([x, y], axis=-1)[None], 400, axis=0).astype(np.float32)
    shift = distort(images, (0, 1), **STILL, elastic=0.02).numpy() - images
    middle = shift[:, 10:30, 15:45]
    assert np.abs(middle.mean(axis=(0, 1, 2))).max() < 0.1
    # between the points of the grid independent normal amounts are averaged
    share = middle.std(axis=(0, 1, 2)) / (0.02 * np.array([60, 40]))
    assert (share > 0.5).all() and (share < 1.05).all()
    # smooth: neighbours move together
    assert np.abs(np.diff(shift, axis=2)).mean() < 0.2 * np.abs(middle).mean()


def test_strokes_become_thicker_or_thinner_within_their_share():
    images = np.full((60, 16, 16, 1), 255, np.float32)
    images[:, 7:9, 3:13] = 0
    changed = distort(images, (0, 0), **STILL, strokes=0.5).numpy()
    around = changed[:, 5:11, 2:14]
    np.testing.assert_allclose(np.delete(changed, slice(5, 11), axis=1), 255, atol=1e-3)
    # two rows of ink with a row on either side: thicker darkens the paper, thinner lightens the ink
    paper, ink = 255 - around[:, 1, 5, 0], around[:, 2, 5, 0]
    assert np.minimum(paper, ink).max() < 1e-3
    for amount in (paper, ink):
        assert 0.4 * 255 < amount.max() <= 0.5 * 255 + 1e-3
    assert 15 < (paper > 1e-3).sum() < 45


def test_bent_drawings_and_strokes_are_repeatable_in_a_dataset():
    settings = dict(elastic=0.03, strokes=0.5, fill=255)
    dataset = tf.data.Dataset.from_tensors(photographs()).map(
        lambda images: distort(images, (3, 4), **settings)
    )
    (first,) = dataset.as_numpy_iterator()
    again = distort(photographs(), (3, 4), **settings).numpy()
    np.testing.assert_allclose(first.astype(int), again.astype(int), atol=1)
    assert np.abs(first.astype(int) - distort(photographs(), (3, 5), **settings)).mean() > 5


@pytest.mark.parametrize(
    "setting",
    [
        {"elastic": 0.3},
        {"strokes": -0.1},
        {"rotation": -1},
        {"scale": 5},
        {"erasing": 1.5},
        {"fill": "edge"},
        {"fill": 300},
    ],
)
def test_settings_out_of_range_are_named(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}="):
        distort(photographs(), (0, 0), **setting)


def test_a_single_image_is_refused():
    with pytest.raises(ValueError, match="batch axis"):
        distort(photographs()[0], (0, 0))
