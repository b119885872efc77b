"""Pictures one by one, read and decoded ahead on all cores: a broken one stops nothing."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from keras_ms.data.image_file import decoded
from keras_ms.data.images import centre_view, file_centre_view
from keras_ms.data.plain_jpeg import plain_jpeg
from keras_ms.data.read_images import File, structure_of


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

    exif = {"apply_exif_orientation": apply_exif_orientation}
    centre = _centre(image_size, resize_to)
    jpeg_centre = _jpeg_centre(image_size, resize_to, apply_exif_orientation)

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
def _jpeg_centre(image_size, resize_to, apply_exif_orientation):
    contents, structure = tf.TensorSpec((), tf.string), tf.TensorSpec((3,), tf.int32)

    @tf.function(input_signature=[contents, structure])
    def centre(contents, structure):
        file = File(tf.constant(""), contents, structure)
        exif = {"apply_exif_orientation": apply_exif_orientation}
        return file_centre_view(file, image_size, resize_to, **exif)

    return centre


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

    def attempted(number: int) -> np.ndarray | str:
        try:
            return view(number)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            return str(error) or type(error).__name__

    waiting: deque = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")
    try:
        for number in numbers:
            waiting.append((number, pool.submit(attempted, number)))
            if len(waiting) > ahead:
                first, view_of_it = waiting.popleft()
                yield first, view_of_it.result()
        while waiting:
            first, view_of_it = waiting.popleft()
            yield first, view_of_it.result()
    finally:
        # of what is begun the end is awaited, which takes milliseconds
        pool.shutdown(cancel_futures=True)
