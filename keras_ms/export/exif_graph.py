"""The EXIF orientation of a JPEG as operations of TensorFlow, which a SavedModel can hold."""

from typing import Any

import tensorflow as tf

from keras_ms.data.exif_orientation import TURNS

# several times the largest segment; EXIF comes first
_READ_BYTES = 2**18
_SCAN, _ORIENTATION, _LONG = 0xDA, 0x0112, 4
_START, _EXIF = list(b"\xff\xd8"), b"Exif\0\0"
# of a segment with EXIF: the marker, two bytes of length, which may be any, and the name
_NAMED, _WHERE_NAMED = [0xFF, 0xE1, *_EXIF], [0, 1, 4, 5, 6, 7, 8, 9]


def exif_orientation_of(contents: tf.Tensor) -> tf.Tensor:
    """int32 (), 1 to 8, of a file's bytes, a string tensor (); 1, as it is stored, of any other.

    The tag in the first EXIF segment of a JPEG counts; one that only XMP holds, or a PNG, does not.
    """
    start = tf.strings.substr(contents, 0, _READ_BYTES)
    data = tf.concat([tf.cast(tf.io.decode_raw(start, tf.uint8), tf.int32), [0]], 0)
    last = tf.size(data) - 1

    def at(place, size):
        """int32 (…, size): the bytes from each place on."""
        places = tf.expand_dims(place, -1) + tf.range(size)
        return tf.gather(data, tf.clip_by_value(places, 0, last))

    def is_exif(segment):
        head = at(segment, 4 + len(_EXIF))
        return tf.reduce_all(tf.gather(head, _WHERE_NAMED) == _NAMED)

    def is_before(segment):
        marker = at(segment, 2)
        is_segment = (segment < last) & (marker[0] == 255) & (marker[1] != _SCAN)
        return is_segment & ~is_exif(segment)

    first = tf.where(tf.reduce_all(at(0, 2) == _START), 2, last)
    (segment,) = tf.while_loop(
        is_before, lambda one: (one + 2 + tf.tensordot(at(one + 2, 2), [256, 1], 1),), (first,)
    )
    tiff = segment + 10
    is_little = at(tiff, 1)[0] == ord("I")

    def number(place, size):
        big = [256**n for n in reversed(range(size))]
        return tf.reduce_sum(at(place, size) * tf.where(is_little, big[::-1], big), -1)

    directory = tiff + number(tiff + 4, 4)
    entries = directory + 2 + 12 * tf.range(number(directory, 2))
    values = tf.where(
        number(entries + 2, 2) == _LONG, number(entries + 8, 4), number(entries + 8, 2)
    )
    found = tf.boolean_mask(values, number(entries, 2) == _ORIENTATION)
    value = tf.reduce_max(tf.concat([found[:1], [0]], 0))
    is_known = is_exif(segment) & (value >= 1) & (value <= 8)
    return tf.where(is_known, value, 1)


def turned_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """An image (height, width, channels) as its orientation, int32 (), says."""

    turns = tf.constant([TURNS[number] for number in sorted(TURNS)], tf.int32)
    is_swapped, rows, columns = tf.unstack(turns[orientation - 1])
    order: Any = tf.where(is_swapped == 1, [1, 0, 2], [0, 1, 2])
    stored = tf.transpose(image, order)
    return tf.ensure_shape(stored[::rows, ::columns], (None, None, 3))
