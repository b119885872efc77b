"""Image files to uint8 tensors, whole or a random crop of them (tf.data maps).

All randomness comes in as numbers: `uniform` holds five values in [0, 1) per image, for the
crop's area, shape, top and left, and for the flip. The same numbers give the same picture.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_ms.arguments import Tensor
from keras_ms.data.exif_orientation import TURNS
from keras_ms.data.image_file import decoded
from keras_ms.data.plain_jpeg import PlainJpeg, plain_jpeg
from keras_ms.data.scaled_jpeg import SCALES, decoded_jpeg, decoded_window, scale_number

_NOT_PLAIN = 0  # in the place of an orientation
_OTHER = (0, 0, _NOT_PLAIN)
_OPENED_TOGETHER = 16
_SWAPS, _ROW_STEPS, _COLUMN_STEPS = zip((False, 1, 1), *(TURNS[n] for n in sorted(TURNS)))


class File(NamedTuple):
    """Tensors: the name of a file, its bytes, and int32 (3,) of its `PlainJpeg`, else zeros."""

    path: tf.Tensor
    contents: tf.Tensor
    structure: tf.Tensor


def opened(dataset: tf.data.Dataset, *, apply_exif_orientation: bool = True) -> tf.data.Dataset:
    """A dataset of (path, …) with each path read to a `File`, in order.

    The same as `open_file` of each, with a call into Python for many files: one for each would
    take as long as decoding a small photo.
    """
    dataset = dataset.map(
        lambda path, *rest: ((path, tf.io.read_file(path)), *rest),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).batch(_OPENED_TOGETHER)

    def with_structures(file, *rest):
        path, contents = file
        return File(path, contents, _structures(contents, apply_exif_orientation)), *rest

    return dataset.map(with_structures, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def open_file(path: tf.Tensor, *, apply_exif_orientation: bool = True) -> File:
    """The `File` of a path, a string tensor ()."""
    contents = tf.io.read_file(path)
    return File(path, contents, _structures(contents[None], apply_exif_orientation)[0])


def read_image(path: tf.Tensor, *, apply_exif_orientation: bool = True) -> tf.Tensor:
    """uint8 (height, width, 3) RGB from an image file; an error names a file that is damaged.

    Args:
        path: string tensor ().
        apply_exif_orientation: turn the picture as its EXIF orientation says.
    """
    file = open_file(path, apply_exif_orientation=apply_exif_orientation)
    return image_of(file, apply_exif_orientation=apply_exif_orientation)


def read_crop(
    path: tf.Tensor,
    uniform: Tensor,
    scale: tuple[float, float] | None,
    ratio: tuple[float, float],
    *,
    apply_exif_orientation: bool = True,
) -> tf.Tensor:
    """A random crop of an image file, as `crop_of` takes it."""
    file = open_file(path, apply_exif_orientation=apply_exif_orientation)
    return crop_of(file, uniform, scale, ratio, apply_exif_orientation=apply_exif_orientation)


def decode(contents: bytes | tf.Tensor, *, apply_exif_orientation: bool = True) -> tf.Tensor:
    """`read_image` of bytes that are read already."""
    contents = tf.convert_to_tensor(contents)  # NumPy would cut zeros off the end of bytes
    file = File(tf.constant(""), contents, _structures(contents[None], apply_exif_orientation)[0])
    return image_of(file, apply_exif_orientation=apply_exif_orientation)


def image_of(file: File, *, apply_exif_orientation: bool = True) -> tf.Tensor:
    """The whole image of a `File`, uint8 (height, width, 3) RGB.

    Plain JPEGs are decoded by TensorFlow, all other files by Pillow, which `image_fault` asks too.
    """
    return _image(file, 0, apply_exif_orientation)


def image_and_box(
    file: File, shorter_side: int, *, apply_exif_orientation: bool = True
) -> tuple[tf.Tensor, tf.Tensor]:
    """The image of a `File`, a plain JPEG decoded as small as its view allows.

    Args:
        file: `File`.
        shorter_side: pixels that the picture's shorter side is resized to.
        apply_exif_orientation: as in `read_image`.

    Returns:
        uint8 (height, width, 3) RGB and where the picture lies in it, float64 (4,): top, left,
        height and width in pixels of the image, which the last or first may cover in part.
    """
    height, width, orientation = tf.unstack(file.structure)
    number = scale_number(tf.minimum(height, width), shorter_side)
    image = _image(file, number, apply_exif_orientation)
    shape = tf.cast(tf.shape(image)[:2], tf.float64)
    stored = tf.cast([height, width], tf.float64) / tf.gather(tf.cast(SCALES, tf.float64), number)
    upright = tf.where(tf.gather(_SWAPS, orientation), stored[::-1], stored)
    size = tf.where(orientation == _NOT_PLAIN, shape, upright)
    # what the decoder adds to a last pixel comes first where the sides are turned round
    steps = tf.stack([tf.gather(_ROW_STEPS, orientation), tf.gather(_COLUMN_STEPS, orientation)])
    start = tf.where(steps < 0, shape - size, tf.zeros_like(shape))
    return image, tf.concat([start, size], axis=0)


def _image(file, number, apply_exif_orientation):
    orientation = file.structure[2]
    image = tf.cond(
        orientation == _NOT_PLAIN,
        lambda: _decoded(file, apply_exif_orientation),
        lambda: _turned(decoded_jpeg(file.contents, number), orientation),
    )
    return tf.ensure_shape(image, (None, None, 3))


def crop_of(
    file: File,
    uniform: Tensor,
    scale: tuple[float, float] | None,
    ratio: tuple[float, float],
    *,
    image_size: int | None = None,
    apply_exif_orientation: bool = True,
) -> tf.Tensor:
    """A random crop of a `File`, uint8; of a plain JPEG only the crop is decoded.

    It is the window of `image_of`'s pixels. Those of a JPEG differ along the border of the crop,
    where colours of half the size are enlarged without their neighbours outside. With an
    `image_size`, to which the crop is resized, a JPEG is decoded as small as that allows.
    """
    height, width, orientation = tf.unstack(file.structure)

    def upright(window):
        number = 0 if image_size is None else scale_number(tf.reduce_min(window[2:]), image_size)
        return decoded_window(file.contents, window, number)

    def to_turn():
        swapped = tf.gather(_SWAPS, orientation)
        rows, columns = tf.where(swapped, width, height), tf.where(swapped, height, width)
        window = crop_window(rows, columns, uniform, scale, ratio)
        return _turned(upright(_stored_window(window, rows, columns, orientation)), orientation)

    def other():
        return crop(_decoded(file, apply_exif_orientation), uniform, scale, ratio)

    image = tf.cond(
        orientation == 1,
        lambda: upright(tf.stack(crop_window(height, width, uniform, scale, ratio))),
        lambda: tf.cond(orientation == _NOT_PLAIN, other, to_turn),
    )
    return tf.ensure_shape(image, (None, None, 3))


def structure_of(plain: PlainJpeg | None, *, apply_exif_orientation: bool = True) -> np.ndarray:
    """int32 (3,), a `File`'s structure: the height, width and orientation of a `PlainJpeg`."""
    height, width, orientation = plain or _OTHER
    return np.array(
        [height, width, orientation if apply_exif_orientation else min(orientation, 1)], np.int32
    )


def structures_of(contents: Iterable[bytes], *, apply_exif_orientation: bool = True) -> np.ndarray:
    """int32 (files, 3): what the `File` of each has, from the bytes of files."""
    exif = {"apply_exif_orientation": apply_exif_orientation}
    structures = [structure_of(plain_jpeg(file), **exif) for file in contents]
    return np.array(structures, np.int32).reshape(-1, 3)


def _structures(contents, apply_exif_orientation):
    """int32 (files, 3) of the bytes of files."""

    def structures(contents):
        return structures_of(contents, apply_exif_orientation=apply_exif_orientation)

    return tf.ensure_shape(tf.numpy_function(structures, [contents], tf.int32), (None, 3))


def _decoded(file, apply_exif_orientation):
    def pixels(contents, path):
        contents, path = _bytes(contents), _bytes(path)
        return decoded(contents, path, apply_exif_orientation=apply_exif_orientation)

    image = tf.numpy_function(pixels, [file.contents, file.path], tf.uint8)
    return tf.ensure_shape(image, (None, None, 3))


def _bytes(value):
    # bytes inside tf.data, an array around them when called eagerly
    return value if isinstance(value, bytes) else value.item()


def _stored_window(window, height, width, orientation):
    """Where a window of the upright picture of (height, width) lies in the stored one."""
    top, left, rows, columns = window
    top = tf.where(tf.gather(_ROW_STEPS, orientation) < 0, height - top - rows, top)
    left = tf.where(tf.gather(_COLUMN_STEPS, orientation) < 0, width - left - columns, left)
    swapped = tf.gather(_SWAPS, orientation)
    return tf.where(swapped, [left, top, columns, rows], [top, left, rows, columns])


def _turned(image, orientation):
    def turn():
        stored = tf.cond(
            tf.gather(_SWAPS, orientation), lambda: tf.transpose(image, (1, 0, 2)), lambda: image
        )
        rows, columns = tf.gather(_ROW_STEPS, orientation), tf.gather(_COLUMN_STEPS, orientation)
        return stored[::rows, ::columns]

    return tf.cond(orientation == 1, lambda: image, turn)


def crop_window(
    height: Tensor,
    width: Tensor,
    uniform: Tensor,
    scale: tuple[float, float] | None,
    ratio: tuple[float, float],
) -> tuple[tf.Tensor, ...]:
    """The window of a random resized crop: (top, left, height, width), int32.

    The area is uniform in `scale` times the image's area, the ratio width / height log-uniform in
    the part of `ratio` for which a window of that area fits into the image. Where none fits (a
    large area of a long narrow image), the nearest ratio does, clipped to the image.

    Args:
        height, width: pixels, scalars or tensors (batch,).
        uniform: float (..., 5), values in [0, 1).
        scale: (least, greatest) share of the area, or `None`: the largest centred square.
        ratio: (least, greatest) width / height.

    Returns:
        Four int32 tensors; each window has at least one pixel and lies inside the image.
    """
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    if scale is None:
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return tuple(tf.cast(value, tf.int32) for value in (top, left, side, side))
    share = scale[0] + (scale[1] - scale[0]) * uniform[..., 0]
    # width_of_crop² = share · height · width · ratio <= width², and likewise for its height
    low = tf.maximum(tf.math.log(ratio[0]), tf.math.log(share * width / height))
    high = tf.minimum(tf.math.log(ratio[1]), tf.math.log(width / (share * height)))
    shape = tf.exp(low + tf.maximum(high - low, 0.0) * uniform[..., 1])
    area = share * height * width
    crop_height = tf.clip_by_value(tf.round(tf.sqrt(area / shape)), 1.0, height)
    crop_width = tf.clip_by_value(tf.round(tf.sqrt(area * shape)), 1.0, width)
    top = tf.floor((height - crop_height + 1.0) * uniform[..., 2])
    left = tf.floor((width - crop_width + 1.0) * uniform[..., 3])
    # float32 may round x · 0.9999999 up to x, one pixel too far
    top = tf.minimum(top, height - crop_height)
    left = tf.minimum(left, width - crop_width)
    return tuple(tf.cast(value, tf.int32) for value in (top, left, crop_height, crop_width))


def crop(
    image: tf.Tensor,
    uniform: Tensor,
    scale: tuple[float, float] | None,
    ratio: tuple[float, float],
) -> tf.Tensor:
    """The same random crop of an image that is decoded already."""
    shape = tf.shape(image)
    top, left, height, width = crop_window(shape[0], shape[1], uniform, scale, ratio)
    return image[top : top + height, left : left + width]
