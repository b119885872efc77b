import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_ms.data.image_list import ImageList
from keras_ms.data.images import (
    batch_views,
    centre_view,
    default_resize_to,
    evaluation_batches,
)
from keras_ms.data.read_images import crop_window, decode, read_crop

SCALE, RATIO = (0.16, 1.0), (3 / 4, 4 / 3)


def smooth_image(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows * 255 / height, columns * 255 / width, (rows + columns) * 255 / (height + width)]
    return np.stack(planes, -1).astype(np.uint8)


def list_of(paths):
    half = len(paths) // 2
    labels = np.arange(len(paths)) // half
    return ImageList(
        [str(path) for path in paths], labels, range(labels.max() + 1), ["train"] * len(paths)
    )


unit = st.floats(0, 1, exclude_max=True, width=32)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 600),
    st.integers(1, 600),
    st.tuples(unit, unit, unit, unit),
    st.sampled_from([SCALE, (0.5, 0.5), (1.0, 1.0), None]),
)
def test_windows_lie_inside_the_image(height, width, uniform, scale):
    uniform = tf.constant([*uniform, 0.0], tf.float32)
    top, left, rows, columns = (int(v) for v in crop_window(height, width, uniform, scale, RATIO))
    assert rows >= 1 and columns >= 1 and top >= 0 and left >= 0
    assert top + rows <= height and left + columns <= width


def test_windows_have_the_asked_area_and_ratio():
    uniform = tf.constant(np.random.default_rng(0).random((4000, 5)), tf.float32)
    top, left, rows, columns = (
        np.asarray(v, float) for v in crop_window(375, 500, uniform, SCALE, RATIO)
    )
    share, ratio = rows * columns / (375 * 500), columns / rows
    # rounding to whole pixels moves both by a pixel's worth
    assert share.min() > 0.15 and share.max() <= 1 and ratio.min() > 0.73 and ratio.max() < 1.36
    # uniform from 0.16 to 1 has mean 0.58 and standard deviation 0.2425
    assert abs(share.mean() - 0.58) < 0.015 and abs(share.std() - 0.2425) < 0.01
    # all positions are used, from the first to the last
    assert (top == 0).any() and (top + rows == 375).any()
    assert (left == 0).any() and (left + columns == 500).any()


def test_without_random_crop_the_centre_square_is_taken():
    window = crop_window(40, 60, tf.zeros(5), None, RATIO)
    assert [int(v) for v in window] == [0, 10, 40, 40]


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "gif"])
def test_crop_is_the_window_of_the_decoded_image(tmp_path, ending):
    path = tmp_path / f"image.{ending}"
    picture = Image.fromarray(smooth_image(90, 120))
    (picture.convert("P") if ending == "gif" else picture).save(path)
    uniform = tf.constant([0.2, 0.7, 0.4, 0.6, 0.0])
    top, left, rows, columns = (int(v) for v in crop_window(90, 120, uniform, SCALE, RATIO))
    expected = np.asarray(Image.open(path).convert("RGB"))[top : top + rows, left : left + columns]
    crop = read_crop(str(path), uniform, SCALE, RATIO).numpy()
    assert crop.dtype == np.uint8 and crop.shape == expected.shape
    difference = np.abs(crop.astype(int) - expected)
    # JPEG: the colour planes are interpolated with fewer neighbours at the border of a crop
    assert difference.mean() < (1.5 if ending == "jpg" else 1e-9)


def test_batch_views_of_whole_images_are_the_images():
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 1), dtype=np.uint8)
    uniform = tf.constant(np.random.default_rng(1).random((6, 5)), tf.float32)
    plain = batch_views(
        tf.constant(images), uniform, image_size=9, scale=None, ratio=RATIO, flip=False
    )
    assert plain.dtype == tf.uint8 and (plain.numpy() == images).all()
    flipped = batch_views(
        tf.constant(images), uniform, image_size=9, scale=None, ratio=RATIO, flip=True
    ).numpy()
    mirror = uniform[:, 4].numpy() < 0.5
    assert mirror.any() and not mirror.all()
    assert (flipped[mirror] == images[mirror][:, :, ::-1]).all()
    assert (flipped[~mirror] == images[~mirror]).all()
    # a full window through the resampling is the image as well
    full = batch_views(
        tf.constant(images), uniform, image_size=9, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False
    )
    assert np.allclose(full, images, atol=1e-3)


def test_batch_views_never_read_outside_the_image():
    images = tf.fill((200, 31, 45, 1), tf.constant(200, tf.uint8))
    uniform = tf.constant(np.random.default_rng(1).random((200, 5)), tf.float32)
    views = batch_views(images, uniform, image_size=64, scale=SCALE, ratio=RATIO, flip=True)
    assert views.shape == (200, 64, 64, 1) and np.allclose(views, 200)


def test_evaluation_reads_files_in_order(tmp_path):
    paths = []
    for number in range(5):
        path = tmp_path / f"{number}.{'png' if number % 2 else 'jpg'}"
        Image.fromarray(np.full((30 + number, 50, 3), 40 * number, np.uint8)).save(path)
        paths.append(path)
    dataset = evaluation_batches(list_of(paths), 16, batch_size=2)
    assert len(dataset) == 3
    batches = [(images.numpy(), labels.numpy()) for images, labels in dataset]
    assert [len(images) for images, _ in batches] == [2, 2, 1]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    assert images.shape == (5, 16, 16, 3) and images.dtype == np.float32
    assert np.allclose(images[:, 8, 8, 0], 40 * np.arange(5), atol=1)
    assert labels.dtype == np.int64 and labels.tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("size", [(100, 140), (140, 100), (100, 100), (24, 37)])
def test_evaluation_view_is_pillows(tmp_path, size):
    """Shorter side to 36, centre 32, as Pillow's antialiasing resize gives it."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    scaled = [round(side * 36 / min(size)) for side in size]
    resized = np.asarray(Image.fromarray(pixels).resize(scaled[::-1], Image.BILINEAR), float)
    top, left = ((side - 32) // 2 for side in scaled)
    expected = resized[top : top + 32, left : left + 32]
    images, _ = next(iter(evaluation_batches(list_of([path, path]), 32, resize_to=36)))
    assert np.abs(images[0] - expected).max() <= 1.5


@pytest.mark.parametrize(
    "size, resize_to",
    # in float32 the first three end on the wrong side
    [((120, 175), 36), ((56, 77), 180), ((81, 54), 253), ((24, 35), 36), ((24, 37), 36)],
)
def test_a_side_that_ends_half_way_rounds_to_even(size, resize_to):
    rows = np.broadcast_to(np.linspace(0, 255, size[1])[:, None], (size[1], 3)).astype(np.uint8)
    pixels = np.broadcast_to(rows, (*size, 3))
    scaled = [round(side * resize_to / min(size)) for side in size]
    resized = np.asarray(Image.fromarray(pixels).resize(scaled[::-1], Image.BILINEAR), float)
    top, left = ((side - 32) // 2 for side in scaled)
    found = centre_view(tf.constant(pixels), 32, resize_to)
    assert np.abs(found - resized[top : top + 32, left : left + 32]).max() <= 1


def test_photos_lose_their_border_by_default_and_characters_do_not(tmp_path):
    pixels = np.zeros((4, 30, 20, 3), np.uint8)
    pixels[:, 5:25] = 250  # the centred square
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(smooth_image(60, 90)).save(paths[-1])
    photos = list_of(paths)
    characters = ImageList(list("abcd"), [0, 0, 1, 1], "xy", ["train"] * 4, pixels)
    assert [default_resize_to(photos, side) for side in (160, 224, 227)] == [180, 253, 256]
    assert default_resize_to(characters, 160) == 160
    for images, size in ((photos, 32), (characters, 16)):
        ((default, _),) = evaluation_batches(images, size)
        resize_to = default_resize_to(images, size)
        ((expected, _),) = evaluation_batches(images, size, resize_to=resize_to)
        assert (default.numpy() == expected.numpy()).all()
    ((whole, _),) = evaluation_batches(photos, 32, resize_to=32)
    assert np.abs(whole - evaluation_batches(photos, 32).get_single_element()[0]).max() > 5


def test_photos_are_decoded_to_the_pixels_of_pillow(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 15, 3), np.uint8)
    picture = Image.fromarray(noise).resize((150, 120), Image.BICUBIC)
    for number, options in enumerate(
        ({"quality": 75}, {"quality": 95, "subsampling": 0}, {"progressive": True})
    ):
        path = tmp_path / f"{number}.jpg"
        picture.save(path, **options)
        difference = decode(path.read_bytes()).numpy() - np.asarray(Image.open(path), int)
        # the faster transform is as much as 5 away
        assert np.abs(difference).max() <= 1


def test_evaluation_of_images_in_memory():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1), dtype=np.uint8)
    images = ImageList(list("abcde"), [0, 0, 0, 1, 1], "xy", ["train"] * 5, pixels)
    views, labels = next(iter(evaluation_batches(images)))
    # three equal channels, not resampled
    assert views.shape == (5, 12, 12, 3) and (views.numpy() == pixels).all()
    assert labels.numpy().tolist() == images.labels.tolist()
    smaller, _ = next(iter(evaluation_batches(images, 6)))
    assert smaller.shape == (5, 6, 6, 3)


@pytest.mark.parametrize("cache", [True, False])
def test_evaluation_repeats_itself(tmp_path, cache):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.jpg")
        Image.fromarray(smooth_image(40 + number, 50)).save(paths[-1])
    dataset = evaluation_batches(list_of(paths), 24, batch_size=2, cache=cache)
    first, second = (np.concatenate([x for x, _ in dataset]) for _ in range(2))
    other = np.concatenate([x for x, _ in evaluation_batches(list_of(paths), 24, cache=False)])
    assert (first == second).all() and (first == other).all()


def test_damaged_files_are_named_while_reading(tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for path in paths:
        Image.fromarray(smooth_image(40, 50)).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    with pytest.raises(tf.errors.InvalidArgumentError, match="1.jpg.*truncated"):
        list(evaluation_batches(list_of(paths), 24))
    paths[1].write_text("text")
    with pytest.raises(tf.errors.InvalidArgumentError, match="1.jpg: not an image"):
        list(evaluation_batches(list_of(paths), 24))
    paths[1].unlink()
    with pytest.raises(tf.errors.NotFoundError, match="1.jpg"):
        list(evaluation_batches(list_of(paths), 24))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": 32, "resize_to": 31}, "`resize_to`.*Received: 31"),
        ({"image_size": 32, "batch_size": 0}, "`batch_size`.*Received: 0"),
        ({"image_size": 32, "cache": "disk"}, "disk"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluation_batches(list_of(["a", "b"]), **options)
