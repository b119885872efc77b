"""From image files and arrays to float tensors: views that are trained on and evaluated."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ms.arguments import whole_number
from keras_ms.data.file_names import all_file_bytes
from keras_ms.data.image_file import num_pixels
from keras_ms.data.image_list import ImageList
from keras_ms.data.read_images import File, crop_window, image_and_box, image_of, opened
from keras_ms.data.read_images import read_image as read_image

NUM_UNIFORM = 5  # random numbers that one training view uses
# one gigabyte: 6,600 evaluation images of 224 px; a laptop keeps room for the training
CACHE_BYTES = 2**30


def flip_and_resize(image: tf.Tensor, uniform: tf.Tensor, image_size: int, flip: bool) -> tf.Tensor:
    """float32 (image_size, image_size, 3) from a crop, mirrored in half of the cases if `flip`."""
    if flip:
        image = tf.cond(uniform[4] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    # without antialias, which halves the speed of the whole pipeline: training does well without;
    # TensorFlow's resize is a quarter slower from uint8, to the same numbers
    return tf.image.resize(tf.cast(image, tf.float32), (image_size, image_size))


def batch_views(
    images: tf.Tensor,
    uniform: tf.Tensor,
    *,
    image_size: int,
    scale: tuple[float, float] | None,
    ratio: tuple[float, float],
    flip: bool,
) -> tf.Tensor:
    """The same views of a batch of equally large images at once.

    Args:
        images: uint8 (batch, height, width, channels).
        uniform: float32 (batch, 5).

    Returns:
        (batch, image_size, image_size, channels): float32 where anything was resampled, else
        uint8. Windows are sampled from their first to their last pixel centre, so a window of
        the target size is copied exactly.
    """
    sides: Any = images.shape[1:3]
    height, width = sides
    if scale is not None or (height, width) != (image_size, image_size):
        top, left, crop_height, crop_width = (
            tf.cast(value, tf.float32) + tf.zeros_like(uniform[:, 0])
            for value in crop_window(height, width, uniform, scale, ratio)
        )
        rows, columns = max(height - 1, 1), max(width - 1, 1)
        boxes = tf.stack(
            [
                top / rows,
                left / columns,
                (top + crop_height - 1.0) / rows,
                (left + crop_width - 1.0) / columns,
            ],
            axis=1,
        )
        # a box end of 1 + 1e-7 would read outside the image, which is black
        boxes = tf.clip_by_value(boxes, 0.0, 1.0)
        every = tf.range(tf.shape(images)[0])
        images = tf.image.crop_and_resize(images, boxes, every, (image_size, image_size))
    if flip:
        mirrored = uniform[:, 4, None, None, None] < 0.5
        images = tf.where(mirrored, tf.reverse(images, [2]), images)
    return images


def as_rgb(images: tf.Tensor) -> tf.Tensor:
    """float32 with three channels from grey or RGB images."""
    if images.shape[-1] == 1:
        images = tf.repeat(images, 3, axis=-1)
    return tf.cast(images, tf.float32)


def centre_view(
    image: tf.Tensor, image_size: int, resize_to: int, *, box: tf.Tensor | None = None
) -> tf.Tensor:
    """uint8 (image_size, image_size, channels): shorter side to `resize_to`, then the centre.

    Antialiased, as Pillow's resize is, and rounded to whole values as in an image file.

    Args:
        image: uint8 (height, width, channels).
        image_size, resize_to: as in `evaluation_batches`.
        box: where the picture lies in the image, as `image_and_box` gives it. Defaults to `None`:
            it fills the image.
    """
    if box is None:
        shape = tf.cast(tf.shape(image)[:2], tf.float64)
        start = tf.zeros(2, tf.float32)
    else:
        shape, start = box[2:], tf.cast(box[:2], tf.float32)
    # multiplied first, in float64: a side that ends half-way rounds to even, exactly
    target = tf.cast(tf.round(shape * resize_to / tf.reduce_min(shape)), tf.float32)
    shape = tf.cast(shape, tf.float32)
    corner = (target - image_size) // 2

    def cut():
        top, left = tf.unstack(tf.cast(corner, tf.int32))
        return image[top : top + image_size, left : left + image_size]

    def resize():
        # tf.image.resize(antialias=True) calls the same function without a translation: so only
        # the pixels inside the centre are computed
        centre = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=(image_size, image_size),
            scale=target / shape,
            translation=-corner - start * target / shape,
            kernel_type="triangle",
            antialias=True,
        )[0]
        return tf.saturate_cast(tf.round(centre), tf.uint8)

    # resizing an image to its own size would take three times as long as decoding it
    centre = tf.cond(tf.reduce_all(target == shape), cut, resize)
    return tf.ensure_shape(centre, (image_size, image_size, image.shape[-1]))


def file_centre_view(
    file: File, image_size: int, resize_to: int, *, apply_exif_orientation: bool = True
) -> tf.Tensor:
    """The `centre_view` of an image file: what evaluation shows of it."""
    image, box = image_and_box(file, resize_to, apply_exif_orientation=apply_exif_orientation)
    return centre_view(image, image_size, resize_to, box=box)


def evaluation_batches(
    image_list: ImageList,
    image_size: int | None = None,
    *,
    resize_to: int | None = None,
    batch_size: int = 64,
    cache: bool | str = "auto",
) -> tf.data.Dataset:
    """All images of a list once, in order, as a model is evaluated on them.

    Relations: for embeddings and Recall@K. `balanced_batches` is endless and augmented, to train
    on; `validation_batches` has several classes in a batch, on which a loss on pairs means
    something.

    Args:
        image_list: an ImageList; pass `subset("test")` for the test classes.
        image_size: side of the images in pixels. Defaults to `None`: 224 for files (what most
            ImageNet weights were trained with), the images' own height for in-memory sets.
        resize_to: the shorter side becomes this many pixels before the centre is cut out.
            Defaults to `None`: what `default_resize_to` gives. With `image_size` the centred
            square is seen whole.
        batch_size: images per batch; the last batch may be smaller. Defaults to 64.
        cache: keep the finished images in memory as uint8 for the next pass: True, False or
            "auto", which does so up to 1 GiB. Defaults to "auto".

    Returns:
        A finite tf.data.Dataset of (images float32 (batch, image_size, image_size, 3) RGB 0-255,
        labels int64 (batch,)).

    Raises:
        ValueError: sizes below 1, `resize_to` below `image_size`, an unknown `cache`.
        tf.errors.InvalidArgumentError: while iterating, a damaged file, which it names.

    Example:

    >>> dataset = evaluation_batches(birds.subset("test"), 224)  # doctest: +SKIP
    """
    image_size = side_for(image_list, image_size)
    if resize_to is None:
        resize_to = default_resize_to(image_list, image_size)
    resize_to = whole_number(
        "resize_to", resize_to, least=image_size, reason=f"image_size is {image_size}"
    )
    batch_size = whole_number("batch_size", batch_size)
    channels = 3 if image_list.images is None else image_list.images.shape[-1]
    keep = to_cache(cache, len(image_list) * image_size**2 * channels)
    pictures = image_list.images
    if pictures is None:
        exif = {"apply_exif_orientation": image_list.apply_exif_orientation}
        names = all_file_bytes(image_list.paths)
        dataset = opened(tf.data.Dataset.from_tensor_slices((names,)), **exif)
        dataset = dataset.map(
            lambda file: file_centre_view(file, image_size, resize_to, **exif),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    else:
        dataset = tf.data.Dataset.from_generator(
            lambda: iter(pictures),
            output_signature=tf.TensorSpec(pictures.shape[1:], tf.uint8),
        )
        if pictures.shape[1:3] != (resize_to, resize_to) or resize_to != image_size:
            dataset = dataset.map(
                lambda image: centre_view(image, image_size, resize_to),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
    dataset = tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(image_list.labels))
    dataset = dataset.batch(batch_size)
    if keep:
        dataset = dataset.cache()
    dataset = dataset.map(lambda images, labels: (as_rgb(images), labels))
    batches = -(-len(image_list) // batch_size)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    return dataset.prefetch(tf.data.AUTOTUNE)


def whole_pictures(image_list: ImageList) -> tf.data.Dataset:
    """All images of a list once, in order, as they are decoded.

    Returns:
        A finite tf.data.Dataset of uint8 (height, width, 3) RGB, each of its own size.

    Example:

    >>> dataset = whole_pictures(birds.subset("test"))  # doctest: +SKIP
    """
    pictures = image_list.images
    if pictures is not None:
        dataset = tf.data.Dataset.from_generator(
            lambda: iter(pictures),
            output_signature=tf.TensorSpec(pictures.shape[1:], tf.uint8),
        )
        return dataset.map(lambda image: tf.cast(as_rgb(image), tf.uint8))
    exif = {"apply_exif_orientation": image_list.apply_exif_orientation}
    names = all_file_bytes(image_list.paths)
    dataset = opened(tf.data.Dataset.from_tensor_slices((names,)), **exif)
    return dataset.map(lambda file: image_of(file, **exif), num_parallel_calls=tf.data.AUTOTUNE)


def default_resize_to(image_list: ImageList | None, image_size: int) -> int:
    """The shorter side, in pixels, that images are resized to before their centre is evaluated.

    Args:
        image_list: an ImageList; None stands for any of image files.
        image_size: side of the centre, in pixels.

    Returns:
        int: of image files `image_size` * 256 / 227, the ratio of the official Multi-Similarity
        recipe, which cuts the border of a photo away; of in-memory sets, whose characters fill
        their images, `image_size`.

    Example:

    >>> default_resize_to(birds, 160)  # doctest: +SKIP
    180
    """
    pictures = None if image_list is None else image_list.images
    return round(image_size * 256 / 227) if pictures is None else image_size


def side_for(image_list: ImageList | None, image_size: int | None) -> int:
    """`image_size`, or its default for this list; None stands for any of image files."""
    if image_size is None:
        pictures = None if image_list is None else image_list.images
        return 224 if pictures is None else pictures.shape[1]
    return whole_number("image_size", image_size)


def to_cache(cache: bool | str, num_bytes: int) -> bool:
    """Whether `num_bytes` of decoded images are to be kept in memory."""
    if cache not in (True, False, "auto"):
        raise ValueError(f"Expected `cache` to be True, False or 'auto'. Received: {cache!r}")
    return cache is True or (cache == "auto" and num_bytes <= CACHE_BYTES)


def decoded_images(
    paths: np.ndarray, cache: bool | str, *, apply_exif_orientation: bool = True
) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Decodes all files into memory: a function index -> uint8 image, or None where not to cache.

    The images keep their own sizes: they lie behind each other in one tensor, for random crops at
    the speed of slicing.

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
        decoded: list[Any] = list(files)
        shapes = tf.constant([image.shape for image in decoded], tf.int64)
        pixels = tf.concat([tf.reshape(image, [-1]) for image in decoded], axis=0)
        starts = tf.cumsum(tf.reduce_prod(shapes, axis=1), exclusive=True)

    def read(index):
        size = tf.reduce_prod(shapes[index])
        image = tf.reshape(tf.slice(pixels, [starts[index]], [size]), shapes[index])
        return tf.ensure_shape(image, (None, None, 3))

    return read
