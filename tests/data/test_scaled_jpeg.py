"""JPEGs decoded at a part of their sides: the same views, within a stated difference."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.image_file import decoded, read_pixels
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import centre_view, file_centre_view
from keras_ms.data.read_images import File, crop_of, crop_window, image_and_box, open_file
from keras_ms.data.scaled_jpeg import SCALES, decoded_jpeg, decoded_window, scale_number

SAMPLINGS = [0, 1, 2]
SCALE, RATIO = (0.16, 1.0), (3 / 4, 4 / 3)


def jpeg(width, height, *, orientation=1, **options):
    """The bytes of a picture with detail at every size, as photos have it."""
    random = np.random.default_rng(0)
    pixels = np.full((height, width, 3), 128.0)
    for size in (1, 4, 16, 64):
        detail = random.normal(0, 4 * np.sqrt(size), (height // size + 1, width // size + 1))
        plane = Image.fromarray(detail.astype(np.float32)).resize((width, height), Image.BICUBIC)
        pixels += np.asarray(plane)[..., None] * (1, 0.8, 0.6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    picture.save(file, "JPEG", quality=92, exif=exif, **options)
    return file.getvalue()


def written(folder, contents):
    path = folder / "photo.jpg"
    path.write_bytes(contents)
    return str(path)


def test_the_smallest_scale_is_taken_that_leaves_twice_the_view():
    for needed in (1, 7, 224):
        for side in (0, 1, *(k * needed + d for k in (1, 2, 4, 8, 16, 99) for d in (-1, 0, 1))):
            expected = max([s for s in SCALES if side / s >= 2 * needed], default=1)
            assert SCALES[scale_number(side, needed)] == expected


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_scaled_picture_is_the_mean_of_its_squares(number):
    contents = jpeg(331, 203, subsampling=0)
    whole = decoded_jpeg(contents).numpy().astype(float)
    scale = SCALES[number]
    found = decoded_jpeg(contents, number).numpy()
    assert found.shape == (-(-203 // scale), -(-331 // scale), 3)
    rows, columns = 203 // scale, 331 // scale
    squares = whole[: rows * scale, : columns * scale]
    squares = squares.reshape(rows, scale, columns, scale, 3).mean((1, 3))
    assert np.abs(found[:rows, :columns] - squares).mean() < 0.7


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_scaled_window_is_that_of_the_scaled_picture(sampling):
    contents = jpeg(331, 203, subsampling=sampling)
    random = np.random.default_rng(1)
    windows = [(0, 0, 203, 331), (202, 330, 1, 1), (101, 0, 102, 331), (0, 315, 203, 16)]
    for _ in range(20):
        (top, bottom), (left, right) = (np.sort(random.choice(n, 2, False)) for n in (204, 332))
        windows.append((top, left, bottom - top, right - left))
    for number, scale in enumerate(SCALES):
        whole = decoded_jpeg(contents, number).numpy().astype(int)
        for window in windows:
            top, left, height, width = window
            if min(height, width) < scale:
                continue
            found = decoded_window(contents, tf.constant(window, tf.int32), tf.constant(number))
            rows = slice((top + scale // 2) // scale, (top + height + scale // 2) // scale)
            columns = slice((left + scale // 2) // scale, (left + width + scale // 2) // scale)
            assert found.shape == whole[rows, columns].shape
            gaps = np.abs(found - whole[rows, columns])
            # colours along the border are enlarged without their neighbours outside
            assert gaps[3:-3, 3:-3].max(initial=0) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_evaluation_view_is_that_of_the_whole_picture(tmp_path, orientation):
    # sides that no scale divides: the last pixels hold more than the picture
    path = written(tmp_path, jpeg(701, 469, orientation=orientation))
    file = open_file(path)
    for size, resize_to, scale in ((96, 108, 2), (50, 57, 4), (26, 28, 8)):
        image, box = image_and_box(file, resize_to)
        assert max(image.shape[:2]) == -(-701 // scale)
        assert box.numpy()[2:].max() == 701 / scale
        found = file_centre_view(file, size, resize_to).numpy()
        expected = centre_view(tf.constant(read_pixels(path)), size, resize_to).numpy()
        gaps = np.abs(found - expected.astype(float))
        assert gaps.mean() < 0.6 and np.percentile(gaps, 99) <= 3


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_training_view_shows_the_same_window(tmp_path, orientation):
    path = written(tmp_path, jpeg(701, 469, orientation=orientation))
    file, pixels = open_file(path), read_pixels(path)
    for uniform in tf.random.stateless_uniform((6, 5), (0, 1)):
        top, left, height, width = (
            int(value) for value in crop_window(*pixels.shape[:2], uniform, SCALE, RATIO)
        )
        window = pixels[top : top + height, left : left + width]
        crop = crop_of(file, uniform, SCALE, RATIO, image_size=24)
        scale = SCALES[scale_number(min(height, width), 24)]
        assert scale >= 2
        assert np.abs(np.array(crop.shape[:2]) - np.divide((height, width), scale)).max() <= 1
        found, expected = (tf.image.resize(one, (24, 24), antialias=True) for one in (crop, window))
        assert np.abs(found - expected).mean() < 2


def test_training_batches_decode_what_they_need(tmp_path):
    path = written(tmp_path, jpeg(701, 469))
    images = ImageList([path] * 4, [0, 0, 1, 1], "ab", ["train"] * 4)
    options = {"crop_scale": None, "flip": False, "classes_per_batch": 2, "images_per_class": 2}
    batches = balanced_batches(images, image_size=32, cache=False, **options)
    found, _ = next(iter(batches))
    small = decoded_jpeg(tf.io.read_file(path), 2)[:117, 29 : 29 + 117]  # (701 - 469) // 2 // 4
    assert np.abs(found[0] - tf.image.resize(small, (32, 32))).max() < 1e-3


def test_what_pillow_decodes_is_decoded_whole(tmp_path):
    contents = jpeg(240, 160, progressive=True)
    file = open_file(tf.constant(written(tmp_path, contents)))
    assert file.structure.numpy().tolist() == [0, 0, 0]
    image, box = image_and_box(file, 10)
    assert (image.numpy() == decoded(contents)).all()
    assert box.numpy().tolist() == [0, 0, 160, 240]
    crop = crop_of(file, tf.zeros(5), (1.0, 1.0), (1.5, 1.5), image_size=10)
    assert crop.shape == image.shape


def test_small_pictures_are_decoded_whole():
    contents = jpeg(90, 55)
    structure = tf.constant([55, 90, 1])
    image, box = image_and_box(File(tf.constant(""), tf.constant(contents), structure), 14)
    assert image.shape == (55, 90, 3) and box.numpy().tolist() == [0, 0, 55, 90]
