"""JPEGs decoded at a half, a quarter or an eighth of their sides, where a view needs no more.

A JPEG holds blocks of 8 x 8 pixels as frequencies: its decoder makes 4 x 4, 2 x 2 or 1 x 1 of them
directly, and leaves out what would be averaged away.
"""

import tensorflow as tf

from keras_ms.arguments import Tensor

SCALES = (1, 2, 4, 8)  # what the sides are divided by
# a view is resized from at least twice its own sides: from as many, photos differ twice as much
_LEFT = 2
# the default DCT is coarser: as much as 5 of 255 away from what other programs decode
_DCT = "INTEGER_ACCURATE"


def scale_number(pixels: Tensor, needed: int) -> tf.Tensor:
    """The one rule of how small a JPEG is decoded: int32, an index of `SCALES`.

    Args:
        pixels: the shorter side, in pixels of the picture, of what a view shows.
        needed: pixels of the view that are made of it.

    Example:

    >>> [SCALES[scale_number(side, 224)] for side in (375, 895, 896, 3000, 3584)]
    [1, 1, 2, 4, 8]
    """
    return tf.add_n([tf.cast(pixels >= _LEFT * scale * needed, tf.int32) for scale in SCALES[1:]])


def decoded_jpeg(contents: tf.Tensor, number: Tensor = 0) -> tf.Tensor:
    """uint8 (height, width, 3) of a plain JPEG: each side divided by the scale, rounded up."""
    return _at_scale(
        number,
        lambda scale: tf.io.decode_jpeg(contents, channels=3, ratio=scale, dct_method=_DCT),
    )


def decoded_window(contents: tf.Tensor, window: tf.Tensor, number: Tensor = 0) -> tf.Tensor:
    """As `decoded_jpeg`, but only a window: its corners are rounded to pixels of that scale.

    Args:
        contents: string tensor ().
        window: int32 (4,), the top, left, height and width in pixels of the whole picture.
        number: of the scale, by which the window's sides become at least a pixel each.
    """

    def at(scale):
        corner, size = window[:2], window[2:]
        first = (corner + scale // 2) // scale
        last = (corner + size + scale // 2) // scale
        return tf.io.decode_and_crop_jpeg(
            contents,
            tf.concat([first, last - first], axis=0),
            channels=3,
            ratio=scale,
            dct_method=_DCT,
        )

    return _at_scale(number, at)


def _at_scale(number, decode):
    if isinstance(number, int):
        return decode(SCALES[number])
    return tf.switch_case(number, [lambda scale=scale: decode(scale) for scale in SCALES])
