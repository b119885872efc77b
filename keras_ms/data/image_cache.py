"""All decoded images of a list in memory, for random crops at the speed of slicing."""

import tensorflow as tf

from keras_ms.data.file_names import all_file_bytes
from keras_ms.data.image_file import num_pixels
from keras_ms.data.images import to_cache
from keras_ms.data.read_images import image_of, opened


def decoded_images(paths, cache, *, apply_exif_orientation=True):
    """Decodes all files into memory: a function index -> uint8 image, or None where not to cache.

    The images keep their own sizes: they lie behind each other in one tensor.

    Args:
        paths: (N,) str.
        cache: True, False or "auto", as in `balanced_batches`.
        apply_exif_orientation: as in `read_image`.
    """
    if not to_cache(cache, 0):
        return None
    num_bytes = 0
    for path in paths:
        # only the header is decoded; stops as soon as the files are known not to fit
        num_bytes += num_pixels(path) * 3
        if not to_cache(cache, num_bytes):
            return None
    exif = {"apply_exif_orientation": apply_exif_orientation}
    files = opened(tf.data.Dataset.from_tensor_slices((all_file_bytes(paths),)), **exif)
    files = files.map(lambda file: image_of(file, **exif), num_parallel_calls=tf.data.AUTOTUNE)
    with tf.device("CPU"):
        decoded = list(files)
        shapes = tf.constant([image.shape for image in decoded], tf.int64)
        pixels = tf.concat([tf.reshape(image, [-1]) for image in decoded], axis=0)
        starts = tf.cumsum(tf.reduce_prod(shapes, axis=1), exclusive=True)

    def read(index):
        size = tf.reduce_prod(shapes[index])
        image = tf.reshape(tf.slice(pixels, [starts[index]], [size]), shapes[index])
        return tf.ensure_shape(image, (None, None, 3))

    return read
