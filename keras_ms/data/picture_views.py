"""Pictures read and decoded ahead on all cores, in order: a broken one stops nothing."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ms.data.image_file import decoded
from keras_ms.data.images import centre_view, file_centre_view
from keras_ms.data.plain_jpeg import plain_jpeg
from keras_ms.data.read_images import File, structure_of, structures_of

# files that one thread reads and hands on: each handing on costs as much as reading a few
_READ_TOGETHER = 8
_VIEWED_TOGETHER = 16


def centre_viewer(
    image_size: int, resize_to: int, *, apply_exif_orientation: bool = True
) -> Callable[[bytes], np.ndarray]:
    """A function from the bytes of an image file to what a model is shown of it in evaluation.

    The pixels are those of `keras_ms.data.images.evaluation_batches`. It may be called from many
    threads at once.

    Args:
        image_size, resize_to: as in `evaluation_batches`.
        apply_exif_orientation: as in `keras_ms.data.image_file.read_pixels`.

    Returns:
        Function of bytes that returns uint8 (image_size, image_size, 3), and raises ValueError for
        bytes that are no picture.

    Raises:
        ValueError: `resize_to` below `image_size`, which is at least 1.

    Example:

    >>> centre_viewer(160, 180)(open("photo.jpg", "rb").read()).shape  # doctest: +SKIP
    (160, 160, 3)
    """
    if not 1 <= image_size <= resize_to:
        raise ValueError(
            f"Expected `image_size` of at least 1 and `resize_to` of at least that. Received: "
            f"image_size={image_size}, resize_to={resize_to}"
        )

    exif: Any = {"apply_exif_orientation": apply_exif_orientation}
    centre = _centre(image_size, resize_to)
    jpeg_centre = _file_centre(image_size, resize_to, apply_exif_orientation)

    def view(contents: bytes) -> np.ndarray:
        plain = plain_jpeg(contents)
        with tf.device("CPU"):
            if plain is None:
                return centre(decoded(contents, **exif)).numpy()
            return jpeg_centre(contents, structure_of(plain, **exif)).numpy()

    return view


@functools.lru_cache(8)
def _centre(image_size, resize_to):
    # traced once, for pictures of all sizes
    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    def centre(pixels):
        return centre_view(pixels, image_size, resize_to)

    return centre


@functools.lru_cache(8)
def _file_centre(image_size, resize_to, apply_exif_orientation):
    contents, structure = tf.TensorSpec((), tf.string), tf.TensorSpec((3,), tf.int32)

    @tf.function(input_signature=[contents, structure])
    def centre(contents, structure):
        file = File(tf.constant(""), contents, structure)
        exif: Any = {"apply_exif_orientation": apply_exif_orientation}
        return file_centre_view(file, image_size, resize_to, **exif)

    return centre


def centre_views_ahead(
    numbers: Sequence[int],
    read: Callable[[int], bytes],
    image_size: int,
    resize_to: int,
    *,
    threads: int,
    readers: int,
    ahead: int,
    apply_exif_orientation: bool = True,
) -> Iterator[tuple[int, np.ndarray | str]]:
    """What `centre_viewer` gives of each picture, in order, decoded in one graph of TensorFlow.

    A picture that the graph does not give back is read and viewed once more by itself, for the
    reason.

    Args:
        numbers: of the pictures.
        read: function from a number to the bytes of the file; a ValueError of it is the picture's
            fault, any other error ends all.
        image_size, resize_to, apply_exif_orientation: as in `centre_viewer`.
        threads: how many pictures are decoded at once.
        readers: how many threads read files.
        ahead: how many views are kept beyond the one that is given out.

    Yields:
        (number, view), or (number, what is wrong with it, a text).

    Raises:
        ValueError: as `centre_viewer`.
    """
    exif: Any = {"apply_exif_orientation": apply_exif_orientation}
    view = centre_viewer(image_size, resize_to, **exif)

    def read_some(some):
        files = {}
        for number in some:
            # whoever views it by itself tells what is wrong
            with suppress(Exception):
                files[number] = read(number)
        contents = list(files.values())
        # an array of objects: one of bytes would cut zeros off their ends
        return [*files], np.array(contents, object), structures_of(contents, **exif)

    def files():
        parts = [
            numbers[start : start + _READ_TOGETHER]
            for start in range(0, len(numbers), _READ_TOGETHER)
        ]
        for _, part in _in_order(parts, read_some, threads=readers, ahead=readers):
            if part[0]:
                yield part

    view_of_file = _file_centre(image_size, resize_to, apply_exif_orientation)
    with tf.device("CPU"):
        specs: Any = (
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((None,), tf.string),
            tf.TensorSpec((None, 3), tf.int32),
        )
        dataset = tf.data.Dataset.from_generator(files, output_signature=specs).prefetch(1)
        dataset = dataset.unbatch().map(
            lambda number, *file: (number, view_of_file(*file)),
            num_parallel_calls=threads,
            deterministic=True,
        )
        dataset = dataset.ignore_errors().batch(_VIEWED_TOGETHER)
        dataset = dataset.prefetch(-(-ahead // _VIEWED_TOGETHER))
        batches = dataset.as_numpy_iterator()
    # not on that device: what is yielded to is no part of this
    left = iter(numbers)
    for found in batches:
        for number, one in zip(*found):
            for missing in itertools.takewhile(lambda other: other != number, left):
                yield missing, _attempted(lambda n: view(read(n)), missing)
            yield int(number), one
    for missing in left:
        yield missing, _attempted(lambda n: view(read(n)), missing)


def viewed_ahead(
    numbers: Iterable[int], view: Callable[[int], np.ndarray], *, threads: int, ahead: int
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Each picture's view, in order, while threads prepare the next ones.

    Args:
        numbers: of the pictures.
        view: function from a number to the view; a ValueError of it is the picture's fault, any
            other error ends all.
        threads: how many pictures are prepared at once.
        ahead: how many are prepared, or being prepared, beyond the one that is given out.

    Yields:
        (number, view), or (number, what is wrong with it, a text).
    """
    return _in_order(numbers, functools.partial(_attempted, view), threads=threads, ahead=ahead)


def _attempted(view, number):
    try:
        return view(number)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        return str(error) or type(error).__name__


def _in_order(items, work, *, threads, ahead):
    """(item, work(item)) of each, while threads work on the next ones."""
    waiting: deque = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > ahead:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        # of what is begun the end is awaited, which takes milliseconds
        pool.shutdown(cancel_futures=True)
