"""Each image of a list once, in order, in a random training view: for features kept on disk."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_ms.data.balanced_batches import CROP_RATIO, CROP_SCALE
from keras_ms.data.file_names import all_file_bytes
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import NUM_UNIFORM, as_rgb, batch_views, flip_and_resize
from keras_ms.data.read_images import crop_of, opened


def augmented_batches(
    image_list: ImageList,
    image_size: int,
    *,
    crop_scale: tuple[float, float] | None = CROP_SCALE,
    crop_ratio: tuple[float, float] = CROP_RATIO,
    flip: bool = True,
    distort: Callable | None = None,
    seed: int | tuple[int, ...] = 0,
    batch_size: int = 64,
) -> tf.data.Dataset:
    """Random training views of all images once, in the list's order.

    Args:
        image_list: an ImageList.
        image_size, crop_scale, crop_ratio, flip, distort: as in `balanced_batches`.
        seed: whole number or tuple of them; another seed gives other views.
        batch_size: images per batch; the last batch may be smaller.

    Returns:
        A finite tf.data.Dataset of float32 images (batch, image_size, image_size, 3), RGB 0-255.

    Example:

    >>> dataset = augmented_batches(birds.subset("train"), 224, seed=1)  # doctest: +SKIP
    """
    generator = np.random.default_rng(seed)
    uniform = generator.random((len(image_list), NUM_UNIFORM), dtype=np.float32)
    if image_list.images is None:
        exif = {"apply_exif_orientation": image_list.apply_exif_orientation}
        dataset = tf.data.Dataset.from_tensor_slices((all_file_bytes(image_list.paths), uniform))
        dataset = opened(dataset, **exif)

        def view(file, uniform):
            image = crop_of(file, uniform, crop_scale, crop_ratio, image_size=image_size, **exif)
            return flip_and_resize(image, uniform, image_size, flip)

        dataset = dataset.map(view, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
    else:
        dataset = tf.data.Dataset.from_tensor_slices((image_list.images, uniform))
        dataset = dataset.batch(batch_size).map(
            lambda images, uniform: batch_views(
                images,
                uniform,
                image_size=image_size,
                scale=crop_scale,
                ratio=crop_ratio,
                flip=flip,
            )
        )
    if distort is not None:
        base = int(generator.integers(2**31))
        dataset = dataset.enumerate().map(
            lambda number, images: distort(images, tf.stack([tf.constant(base, tf.int64), number]))
        )
    return dataset.map(as_rgb).prefetch(tf.data.AUTOTUNE)
