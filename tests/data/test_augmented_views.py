"""Random views of all images, once and in order."""

import numpy as np
import pytest
from PIL import Image

from keras_ms.data.augmented_views import augmented_batches
from keras_ms.data.image_list import ImageList


def _in_memory():
    # each image has one grey value of its own, so that its order survives any view
    images = np.repeat(np.arange(10, dtype="uint8"), 24 * 24).reshape(10, 24, 24, 1) * 20
    return ImageList(
        [f"{i}" for i in range(10)], np.arange(10) // 2, list("abcde"), ["train"] * 10, images
    )


def _all(dataset):
    return np.concatenate([batch.numpy() for batch in dataset])


def test_in_memory_images_come_once_in_order_as_rgb():
    views = _all(augmented_batches(_in_memory(), 16, batch_size=4))
    assert views.shape == (10, 16, 16, 3) and views.dtype == np.float32
    np.testing.assert_allclose(views, (np.arange(10) * 20)[:, None, None, None] + 0 * views)


@pytest.mark.slow
def test_files_are_cropped_by_seed(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(4):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), "uint8")).save(paths[-1])
    images = ImageList(paths, [0, 0, 1, 1], ["a", "b"], ["train"] * 4)
    views = {seed: _all(augmented_batches(images, 32, seed=(0, seed))) for seed in (1, 1, 2)}
    again = _all(augmented_batches(images, 32, seed=(0, 1)))
    assert views[1].shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(views[1], again)
    assert np.abs(views[1] - views[2]).mean() > 1


def test_distort_is_called_with_a_seed_of_each_batch():
    seeds = []

    def record(images, seed):
        seeds.append(tuple(seed.shape))
        return images + 1

    views = _all(augmented_batches(_in_memory(), 24, crop_scale=None, flip=False, distort=record))
    assert seeds == [(2,)]
    np.testing.assert_array_equal(views[3], np.full((24, 24, 3), 61.0))
