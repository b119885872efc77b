"""Batches of P classes × K images, as an endless tf.data.Dataset.

One generator makes batches of indices (balanced_indices.py); everything else maps indices to
images or rows (`loaded_batches`). There is never one dataset per class.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ms.arguments import class_ids, real_number, whole_number
from keras_ms.data.array_source import ArraySource
from keras_ms.data.balanced_indices import balanced_indices, checked_labels, view_numbers
from keras_ms.data.file_names import all_file_bytes
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import (
    NUM_UNIFORM,
    as_rgb,
    batch_views,
    decoded_images,
    flip_and_resize,
    side_for,
)
from keras_ms.data.read_images import crop, crop_of, opened

logger = logging.getLogger(__name__)

# a random crop: the official Multi-Similarity recipe
CROP_SCALE = (0.16, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)


def balanced_batches(
    source: Any,
    *,
    views: bool = False,
    classes_per_batch: int = 16,  # 16 x 5 = 80: the official Multi-Similarity recipe
    images_per_class: int = 5,
    image_size: int | None = None,
    crop_scale: tuple[float, float] | None = CROP_SCALE,
    crop_ratio: tuple[float, float] = CROP_RATIO,
    flip: bool = True,
    distort: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    seed: int = 0,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    cache: bool | str = "auto",
    prefetch: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """Endless balanced batches of `classes_per_batch` classes × `images_per_class` items.

    The rule by which classes and images are drawn is that of `balanced_indices`. The stream is a
    function of the source, the seed and the settings alone: two datasets, or one read twice, give
    the same batches, and `start_step=k` gives what follows after k batches, augmentation
    included. It has no end: give `fit` a number of `steps_per_epoch`.

    Relations: the batches of every pair-based loss here, to train on. `validation_batches` is
    finite and shows images as evaluation does; `neighbour_batches` puts near classes together by a
    tree, `curriculum_balanced_batches` leaves noisy images for later.

    Args:
        source: what to draw from, all of it:
            - an ImageList (pass `images.subset("train")`): yields (images float32 (batch,
              image_size, image_size, 3) RGB 0-255, labels);
            - class ids, integers (N,): yields (indices int64 (batch,), labels);
            - a tuple (array, labels): yields (rows (batch, …) in the array's dtype, labels). The
              array is (N, …), features or images of any rank: a NumPy array or memory map, a
              tensor of TensorFlow, JAX or PyTorch, a pandas DataFrame, a list, or an HDF5 data set
              of h5py, of which only the rows of a batch are read.
            Labels are integers (N,) or (N, 1), of any of these kinds.
        views: whether the array of a pair is (views, N, …), of which each item takes a random view:
            features of a frozen network, computed once. Never guessed from the shape. Defaults to
            `False`.
        classes_per_batch: different classes in a batch, at least 2. Defaults to 16; with the next,
            the 80 images of the official Multi-Similarity recipe.
        images_per_class: items of each class in a batch, at least 2. Defaults to 5.
        image_size: side in pixels. Defaults to `None`: 224 for files (what most ImageNet weights
            were trained with), the images' own height for in-memory sets.
        crop_scale: (least, greatest) share of the image's area in a random crop, above 0 and up to
            1. `None`: no random crop, the largest centred square; use it for characters. Defaults
            to (0.16, 1).
        crop_ratio: (least, greatest) width / height of a crop before it becomes a square, above 0.
            Defaults to (3/4, 4/3).
        flip: mirror half of the images. Use `False` where that changes the class: characters.
            Defaults to `True`.
        distort: `distort(images, seed)`, called on each finished batch before grey becomes RGB,
            with a seed int64 (2,) that differs by step and shard. Defaults to `None`.
        seed: whole number from 0 to 2**63 - 1. Defaults to 0.
        start_step: number of batches that were consumed already. Defaults to 0.
        shard: (index, number of shards). Each shard gets its own `classes_per_batch / number` whole
            classes of the same global batches; together they are the unsharded batch. Defaults to
            (0, 1): all of it.
        cache: keep decoded files in memory as uint8 so that each is decoded once: True, False or
            "auto", which does so up to 1 GiB (twice that while it is being filled). Defaults to
            "auto".
        prefetch: batches prepared ahead. Defaults to `tf.data.AUTOTUNE`.

    Returns:
        A tf.data.Dataset of (items, labels int64 (batch,)) with static shapes, so XLA compiles
        once; batch is `classes_per_batch * images_per_class / number of shards`.

    Raises:
        ValueError: as `balanced_indices`; also a source of another kind, a shard that does not
            divide the classes, image options that make no sense; with a source of other things than
            images, `image_size` or `distort`. There the other options of images are not read.
        tf.errors.InvalidArgumentError: while iterating, a damaged file, which it names.

    Example:

    >>> features, labels = np.zeros((8, 3)), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> dataset = balanced_batches((features, labels), classes_per_batch=2, images_per_class=2)
    >>> dataset.element_spec[0].shape
    TensorShape([4, 3])
    """
    labels = checked_labels(
        source_labels(source), classes_per_batch, images_per_class, seed, start_step
    )
    classes_per_batch, images_per_class = int(classes_per_batch), int(images_per_class)

    def numbered_batches():
        stream = balanced_indices(
            labels, classes_per_batch, images_per_class, seed=seed, start_step=start_step
        )
        return enumerate(stream, int(start_step))

    dataset = loaded_batches(
        source,
        numbered_batches,
        views=views,
        classes_per_batch=classes_per_batch,
        images_per_class=images_per_class,
        image_size=image_size,
        crop_scale=crop_scale,
        crop_ratio=crop_ratio,
        flip=flip,
        distort=distort,
        seed=seed,
        shard=shard,
        cache=cache,
        prefetch=prefetch,
    )
    return endless(dataset)


def checked_shard(shard: Any, whole: int, whole_name: str) -> tuple[int, int]:
    """(index, number of shards) as whole numbers; a ValueError if they do not divide `whole`."""
    advice = f"with a number that divides {whole_name}={whole}"
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise ValueError(
            f"Expected `shard` as (index, number), such as (0, 2), {advice}. Received: {shard!r}"
        )
    shards = whole_number("shard[1]", shard[1], reason="the number of shards")
    index = whole_number(
        "shard[0]", shard[0], least=0, most=shards - 1, reason="the number of this shard"
    )
    if whole % shards:
        raise ValueError(f"Expected `shard` as (index, number) {advice}. Received: {shard!r}")
    return index, shards


def endless(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset, known to have no end: whoever needs one that ends can tell it at once."""
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def loaded_batches(
    source: Any,
    numbered_batches: Callable[[], Iterator[tuple[int, np.ndarray]]],
    *,
    classes_per_batch: int,
    images_per_class: int,
    seed: int,
    views: bool = False,
    image_size: int | None = None,
    crop_scale: tuple[float, float] | None = CROP_SCALE,
    crop_ratio: tuple[float, float] = CROP_RATIO,
    flip: bool = True,
    distort: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    shard: tuple[int, int] = (0, 1),
    cache: bool | str = "auto",
    prefetch: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """Batches of indices as batches of images or rows.

    Args:
        source: as in `balanced_batches`.
        numbered_batches: function without arguments, called whenever the dataset is read from its
            beginning. It returns an iterator of (step, indices): the number of the batch, which
            with the seed decides its augmentation, and int64 (classes_per_batch *
            images_per_class,), the items of a class next to each other.
        classes_per_batch and all others: as in `balanced_batches`.

    Returns:
        A tf.data.Dataset as that of `balanced_batches`, as long as the iterator.
    """
    is_images = isinstance(source, ImageList)
    if is_images and len(source.counts()) > 1:
        logger.warning('%s\nAll splits are drawn from: pass subset("train")?', source)
    array, labels = _columns(source, views)
    index, shards = checked_shard(shard, classes_per_batch, "classes_per_batch")
    if not is_images and (image_size is not None or distort is not None):
        raise ValueError("`image_size` and `distort` are for an ImageList; this source has none")
    batch = classes_per_batch * images_per_class // shards
    part = slice(index * batch, (index + 1) * batch)

    def batches():
        for step, indices in numbered_batches():
            # drawn for the global batch, so that shards see what one process would
            uniform = view_numbers(step, len(indices), NUM_UNIFORM, seed)
            indices, uniform = indices[part], uniform[part]
            rows = indices if array is None else array.rows(indices, uniform[:, 0])
            yield rows, uniform, labels[indices], np.full(batch, step)

    row_shape = () if array is None else array.row_shape
    dtype = tf.as_dtype(np.dtype(np.int64) if array is None else array.dtype)
    dataset = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec((batch, *row_shape), dtype),
            tf.TensorSpec((batch, NUM_UNIFORM), tf.float32),
            tf.TensorSpec((batch,), tf.int64),
            tf.TensorSpec((batch,), tf.int64),
        ),
    )
    if not is_images:
        return dataset.map(lambda rows, _, labels, steps: (rows, labels)).prefetch(prefetch)
    view = _checked_view(image_size, crop_scale, crop_ratio, flip, source)
    if source.images is not None:
        dataset = dataset.map(
            lambda images, uniform, *rest: (batch_views(images, uniform, **view), *rest),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    else:
        dataset = _views_of_files(dataset.unbatch(), source, cache, **view)
        dataset = dataset.batch(batch, drop_remainder=True)

    def finish(images, labels, steps):
        if distort is not None:
            images = distort(images, tf.stack([seed, steps[0] * shards + index]))
        return as_rgb(images), labels

    return dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(prefetch)


def source_labels(source: Any) -> np.ndarray:
    """The class ids of a source of `balanced_batches`, one for each item."""
    if isinstance(source, ImageList):
        return source.labels
    if isinstance(source, tuple) and len(source) != 2:
        raise ValueError(f"Expected a pair (array, labels). Received: a tuple of {len(source)}")
    return class_ids(source[1] if isinstance(source, tuple) else source)


def _columns(source, views):
    """(ArraySource or None, labels) of a source; with None, items are the indices themselves."""
    labels = source_labels(source)
    is_pair = isinstance(source, tuple)
    if views and not is_pair:
        raise ValueError(
            "`views` is for a pair (array, labels) with an array (views, N, …); this source has "
            "none. Leave it out"
        )
    if is_pair:
        return ArraySource(source[0], len(labels), views=views), labels
    if isinstance(source, ImageList) and source.images is not None:
        return ArraySource(source.images, len(labels)), labels
    return None, labels


def _views_of_files(dataset, images, cache, image_size, scale, ratio, flip):
    """(index, uniform, …) → (float32 image, …): from files, or a cache of all decoded files."""
    exif = {"apply_exif_orientation": images.apply_exif_orientation}
    read_cached = decoded_images(images.paths, cache, **exif)
    with tf.device("CPU"):
        names = tf.constant(all_file_bytes(images.paths))
    if read_cached is None:
        dataset = dataset.map(lambda index, *rest: (names[index], *rest))
        dataset = opened(dataset, **exif)

    def view(item, uniform, *rest):
        if read_cached is None:
            image = crop_of(item, uniform, scale, ratio, image_size=image_size, **exif)
        else:
            image = crop(read_cached(item), uniform, scale, ratio)
        return flip_and_resize(image, uniform, image_size, flip), *rest

    return dataset.map(view, num_parallel_calls=tf.data.AUTOTUNE)


def _checked_view(image_size, crop_scale, crop_ratio, flip, image_list):
    if crop_scale is not None:
        crop_scale = _checked_range("crop_scale", crop_scale, most=1)
    crop_ratio = _checked_range("crop_ratio", crop_ratio, most=None)
    side = side_for(image_list, image_size)
    return {"image_size": side, "scale": crop_scale, "ratio": crop_ratio, "flip": flip}


def _checked_range(name, value, *, most):
    words = "0 < least <= greatest" + (f" <= {most}" if most else "")
    # of one number, as settings have it, the other end would be a guess
    if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
        raise ValueError(f"Expected `{name}` as (least, greatest). Received: {value!r}")
    ends = [real_number(f"{name}[{place}]", value[place], above=0, most=most) for place in (0, 1)]
    if ends[0] > ends[1]:
        raise ValueError(f"Expected {words} in `{name}`. Received: {value}")
    return ends[0], ends[1]
