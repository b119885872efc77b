"""Pictures one by one have the pixels of evaluation, and a broken one stops nothing."""

import threading

import numpy as np
import pytest
from PIL import Image
from tensorflow.python.eager import context

from keras_ms.data.image_list import ImageList
from keras_ms.data.images import evaluation_batches
from keras_ms.data.picture_views import centre_viewer, centre_views_ahead, viewed_ahead


def write_odd_pictures(folder):
    """Files of many kinds, turned by EXIF, grey, of 16 bits, tiny and long."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (61, 47, 3), dtype=np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "a.jpg", quality=95)
    image.save(folder / "b turned.jpg", exif=exif)
    image.save(folder / "c turned.png", exif=exif)
    image.save(folder / "d progressive.jpg", progressive=True)
    image.convert("CMYK").save(folder / "e.jpg")
    image.convert("L").save(folder / "f.jpg")
    image.convert("RGBA").save(folder / "g.png")
    Image.fromarray(random.integers(0, 2**16, (40, 30), dtype=np.uint16)).save(folder / "h.png")
    image.resize((1, 1)).save(folder / "i.png")
    image.resize((1, 400)).save(folder / "j.bmp")
    image.save(folder / "k.webp", lossless=True)
    large = image.resize((461, 243), Image.BICUBIC)
    large.save(folder / "l large.jpg")
    large.save(folder / "m large, turned.jpg", exif=exif)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("turns", [True, False])
def test_the_pixels_are_those_of_evaluation(tmp_path, turns):
    paths = write_odd_pictures(tmp_path)
    images = ImageList(
        [str(path) for path in paths],
        [0] * len(paths),
        ("all",),
        ["test"] * len(paths),
        apply_exif_orientation=turns,
    )
    batches = evaluation_batches(images, 24, resize_to=28, cache=False)
    expected = np.concatenate([batch.numpy() for batch, _ in batches])
    view = centre_viewer(24, 28, apply_exif_orientation=turns)
    found = [view(path.read_bytes()) for path in paths]
    assert {one.dtype for one in found} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(np.stack(found), expected)


def views_of(files, **options):
    def read(number):
        if isinstance(files[number], Exception):
            raise files[number]
        return files[number]

    options = {"threads": 3, "readers": 2, "ahead": 4} | options
    return centre_views_ahead(range(len(files)), read, 24, 28, **options)


@pytest.mark.parametrize("turns", [True, False])
def test_in_one_graph_they_are_the_same_and_faults_stand_in_for_broken_ones(tmp_path, turns):
    good = [path.read_bytes() for path in write_odd_pictures(tmp_path)]
    files = [b"", *good, b"text", *good, ValueError("no such file"), good[0][:700], *good, b""]
    view = centre_viewer(24, 28, apply_exif_orientation=turns)
    found = list(views_of(files, apply_exif_orientation=turns))
    assert [number for number, _ in found] == list(range(len(files)))
    faults = {number: one for number, one in found if isinstance(one, str)}
    assert len(faults) == 5
    after_one, after_two = 1 + len(good), 2 + 2 * len(good)
    assert (faults[0], faults[after_one]) == ("the file is empty", "not an image")
    assert faults[after_two] == "no such file"
    for number, one in found:
        if number not in faults:
            np.testing.assert_array_equal(one, view(files[number]), err_msg=str(number))


def test_in_one_graph_a_failing_disk_ends_all_after_the_pictures_before_it(tmp_path):
    good = write_odd_pictures(tmp_path)[0].read_bytes()
    views = views_of([good] * 20 + [OSError(5, "Input/output error")] + [good] * 20)
    assert [next(views)[0] for _ in range(20)] == list(range(20))
    with pytest.raises(OSError, match="Input/output"):
        next(views)
    assert list(views_of([])) == []
    # whoever takes the views computes where they like
    device = context.context().device_name
    views = views_of([good] * 3)
    assert next(views)[0] == 0 and context.context().device_name == device
    assert [one for _, one in views_of([b"", b""])] == ["the file is empty"] * 2


def test_a_picture_that_could_be_read_at_the_second_time_keeps_its_place(tmp_path):
    paths, failed = write_odd_pictures(tmp_path), []

    def read(number):
        if number in (0, 5) and number not in failed:
            failed.append(number)
            raise OSError(5, "Input/output error")
        return paths[number].read_bytes()

    numbers = range(len(paths))
    views = centre_views_ahead(numbers, read, 24, 28, threads=3, readers=2, ahead=4)
    view = centre_viewer(24, 28)
    for number, (found, one) in zip(numbers, views, strict=True):
        assert found == number
        np.testing.assert_array_equal(one, view(paths[number].read_bytes()))


def test_bytes_that_are_no_picture_are_an_error_that_says_so():
    view = centre_viewer(8, 8)
    for contents, words in ((b"", "empty"), (b"text", "not an image"), (b"\xff\xd8\xff", "JPEG")):
        with pytest.raises(ValueError, match=words):
            view(contents)
    with pytest.raises(ValueError, match="resize_to=7"):
        centre_viewer(8, 7)


def test_views_come_in_order_and_faults_stand_in_for_them():
    def view(number):
        if number % 3 == 1:
            raise ValueError(f"{number} is broken")
        return np.array(number)

    found = list(viewed_ahead(range(10), view, threads=3, ahead=4))
    assert [number for number, _ in found] == list(range(10))
    for number, one in found:
        assert one == (f"{number} is broken" if number % 3 == 1 else number)


def test_no_more_than_that_is_prepared_ahead():
    begun, lock = [], threading.Lock()

    def view(number):
        with lock:
            begun.append(number)
        return np.array(number)

    views = viewed_ahead(range(100), view, threads=2, ahead=5)
    for number, _ in views:
        with lock:
            assert max(begun) <= number + 5
        if number == 50:
            views.close()
            break
    with lock:
        assert max(begun) <= 55


def test_an_error_that_is_not_the_picture_s_ends_all():
    def view(number):
        if number == 2:
            raise OSError(5, "Input/output error")
        return np.array(number)

    views = viewed_ahead(range(10), view, threads=2, ahead=4)
    assert [next(views)[0], next(views)[0]] == [0, 1]
    with pytest.raises(OSError, match="Input/output"):
        next(views)
