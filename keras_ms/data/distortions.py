"""Random affine and lighting distortions of a whole batch, a pure function of a seed.

Written in TensorFlow, since it runs inside tf.data: one call per batch, no loop over images.
"""

import math

import tensorflow as tf

from keras_ms.arguments import Tensor


def distort(
    images: tf.Tensor,
    seed: Tensor,
    *,
    rotation: float = 10.0,  # as handwriting leans; beyond ~30, letters turn into others (N, Z)
    scale: float = 0.15,  # about the spread of sizes between two writers
    shear: float = 0.15,  # about 9 degrees of slant
    translation: float = 0.08,  # keeps a character that fills 5/6 of the side inside the image
    perspective: float = 0.0,  # drawings lie flat; photographs want about 0.1
    brightness: float = 0.0,  # off: a pass over the batch, and line drawings have no lighting
    contrast: float = 0.0,
    erasing: float = 0.0,  # off: an erased stroke can make one character of another
    elastic: float = 0.0,  # off: hands differ, photographs do not bend
    strokes: float = 0.0,  # off: photographs have none
    fill: str | float = "nearest",
) -> tf.Tensor:
    """Turns, stretches, slants, shifts and bends each image by its own random amounts.

    Args:
        images: uint8 or floating tensor of shape `(batch, height, width, channels)`, values
            0-255. The batch size may be unknown.
        seed: int32 or int64 tensor or pair of shape `(2,)`. Equal images, seed and settings give
            equal results, in any process and on any thread.
        rotation: degrees. Each image turns by an angle uniform in ±`rotation`.
        scale: fraction. Height and width are stretched by two independent factors, log-uniform
            between `1 / (1 + scale)` and `1 + scale`.
        shear: tangent of the greatest slant of the vertical strokes.
        translation: fraction of the side, the greatest shift along each axis.
        perspective: fraction. The greatest relative change of magnification between the centre
            and the border.
        brightness: fraction of the full range (255), the greatest shift of all values.
        contrast: fraction. Distances from the image's mean are multiplied by a factor in
            `1 ± contrast`.
        erasing: probability with which a rectangle of 1/50 to 1/5 of the area is painted with the
            image's mean.
        elastic: fraction of the side. The points of a 4 × 4 grid over the image are shifted along
            each axis by normal amounts of this standard deviation, and what lies between them
            smoothly with them.
        strokes: largest share. Lines become thicker or thinner: each image is mixed with its
            maximum or its minimum over 3 × 3 pixels, by a share uniform between 0 and this.
        fill: what enters from outside the image: `"nearest"` repeats the border, a number is a
            constant value.

    Returns:
        A tensor of the shape and dtype of `images`; uint8 is rounded and clipped.

    Raises:
        ValueError: `images` is not 4-dimensional, or a setting lies outside its range.

    Example:

    >>> images = tf.random.uniform((8, 28, 28, 1), maxval=255.0)
    >>> distort(images, seed=(0, 1), rotation=20.0, fill=0).shape
    TensorShape([8, 28, 28, 1])
    """
    _check(
        fill,
        rotation=(rotation, 180.0),
        scale=(scale, 4.0),
        shear=(shear, 2.0),
        translation=(translation, 1.0),
        perspective=(perspective, 0.4),
        brightness=(brightness, 1.0),
        contrast=(contrast, 1.0),
        erasing=(erasing, 1.0),
        elastic=(elastic, 0.25),
        strokes=(strokes, 1.0),
    )
    images = tf.convert_to_tensor(images)
    if images.shape.rank != 4:
        raise ValueError(
            "Expected `images` of shape (batch, height, width, channels). "
            f"Received shape {images.shape}. Add a batch axis with images[None]"
        )
    dtype, static_shape = images.dtype, images.shape
    values = tf.cast(images, tf.float32)
    # int32 and int64 seeds of equal value would draw differently
    seeds = tf.unstack(tf.random.split(tf.cast(seed, tf.int64), 3), num=3)
    transforms = affine_transforms(
        tf.shape(values)[0],
        tf.shape(values)[1],
        tf.shape(values)[2],
        seeds[0],
        rotation=rotation,
        scale=scale,
        shear=shear,
        translation=translation,
        perspective=perspective,
    )
    nearest = fill == "nearest"
    if elastic:
        values = _bend(values, transforms, _further_seed(seed, 0), elastic, fill)
    else:
        values = tf.raw_ops.ImageProjectiveTransformV3(
            images=values,
            transforms=transforms,
            output_shape=tf.shape(values)[1:3],
            interpolation="BILINEAR",
            fill_mode="NEAREST" if nearest else "CONSTANT",
            fill_value=0.0 if nearest else float(fill),
        )
    if strokes:
        values = _change_strokes(values, _further_seed(seed, 1), strokes)
    if brightness or contrast:
        values = _relight(values, seeds[1], brightness, contrast)
    if erasing:
        values = _erase(values, seeds[2], erasing)
    if dtype == tf.uint8:
        values = tf.clip_by_value(tf.round(values), 0.0, 255.0)
    return tf.ensure_shape(tf.cast(values, dtype), static_shape)


def affine_transforms(
    batch: Tensor,
    height: Tensor,
    width: Tensor,
    seed: Tensor,
    *,
    rotation: float,
    scale: float,
    shear: float,
    translation: float,
    perspective: float = 0.0,
) -> tf.Tensor:
    """Random maps from output to input pixels, one row of eight numbers per image.

    A row (a0, a1, a2, b0, b1, b2, c0, c1) sends the output pixel (x, y) to the input position
    ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k) with k = c0 x + c1 y + 1. With u the offset
    of a pixel from the image's centre c, the map is u → M u + t, M = rotation · shear · stretch;
    so a2, b2 = c + t − M c. Arguments as in `distort`.

    Returns:
        float32 tensor of shape `(batch, 8)`.
    """
    draws = tf.random.stateless_uniform((8, batch), seed, minval=-1.0, maxval=1.0)
    angle = draws[0] * (rotation * math.pi / 180.0)
    stretch_x = tf.exp(draws[1] * math.log1p(scale))
    stretch_y = tf.exp(draws[2] * math.log1p(scale))
    slant = draws[3] * shear
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    shift_x, shift_y = draws[4] * translation * width, draws[5] * translation * height

    cos, sin = tf.cos(angle), tf.sin(angle)
    m00, m01 = cos * stretch_x, (cos * slant - sin) * stretch_y
    m10, m11 = sin * stretch_x, (sin * slant + cos) * stretch_y
    centre_x, centre_y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
    # k = 1 + p·u: magnification changes by ±perspective over half a side, and the centre stays
    p_x, p_y = draws[6] * perspective * 2.0 / width, draws[7] * perspective * 2.0 / height
    # numerator is M u + t + c k, so that u = 0 lands on c + t whatever p is
    a0, a1 = m00 + centre_x * p_x, m01 + centre_x * p_y
    b0, b1 = m10 + centre_y * p_x, m11 + centre_y * p_y
    a2 = centre_x + shift_x - a0 * centre_x - a1 * centre_y
    b2 = centre_y + shift_y - b0 * centre_x - b1 * centre_y
    k0 = 1.0 - p_x * centre_x - p_y * centre_y
    rows = tf.stack([a0, a1, a2, b0, b1, b2, p_x, p_y], axis=1)
    # the op fixes the constant of k at 1: divide the row by it
    return rows / k0[:, None]


def _relight(values, seed, brightness, contrast):
    draws = tf.random.stateless_uniform(
        tf.stack([2, tf.shape(values)[0], 1, 1, 1]), seed, -1.0, 1.0
    )
    mean = tf.reduce_mean(values, axis=(1, 2, 3), keepdims=True)
    relit = (values - mean) * (1.0 + contrast * draws[0]) + mean + 255.0 * brightness * draws[1]
    return tf.clip_by_value(relit, 0.0, 255.0)


def _erase(values, seed, probability):
    shape = tf.shape(values)
    batch, height, width = shape[0], shape[1], shape[2]
    draws = tf.random.stateless_uniform(tf.stack([5, batch, 1]), seed)
    area = 0.02 + 0.18 * draws[0]
    # sides a and b with a·b = area and a/b between 1/2 and 2, as fractions of the image's sides
    aspect = tf.exp((2.0 * draws[1] - 1.0) * math.log(2.0))
    half_height, half_width = tf.sqrt(area * aspect) / 2.0, tf.sqrt(area / aspect) / 2.0
    y = (tf.range(height, dtype=tf.float32) + 0.5) / tf.cast(height, tf.float32)
    x = (tf.range(width, dtype=tf.float32) + 0.5) / tf.cast(width, tf.float32)
    rows = tf.abs(y[None] - draws[2]) <= half_height
    columns = tf.abs(x[None] - draws[3]) <= half_width
    chosen = draws[4] < probability
    inside = (rows & chosen)[:, :, None, None] & columns[:, None, :, None]
    mean = tf.reduce_mean(values, axis=(1, 2, 3), keepdims=True)
    return tf.where(inside, mean, values)


def _further_seed(seed, number):
    # beside those of the split, which stay what they are for every setting
    return tf.random.fold_in(tf.cast(seed, tf.int64), number)


def _bend(values, transforms, seed, elastic, fill):
    """The maps of `affine_transforms`, of pixels that were shifted before, in one interpolation."""
    shape = tf.shape(values)
    batch, height, width = shape[0], shape[1], shape[2]
    sides = tf.cast(tf.stack([width, height]), tf.float32)
    grid = tf.random.stateless_normal(tf.stack([batch, 4, 4, 2]), seed) * (elastic * sides)
    shift = tf.image.resize(grid, shape[1:3], method="bicubic")
    x = tf.range(width, dtype=tf.float32) + shift[..., 0]
    y = tf.range(height, dtype=tf.float32)[:, None] + shift[..., 1]
    a0, a1, a2, b0, b1, b2, c0, c1 = (row[:, None, None] for row in tf.unstack(transforms, 8, 1))
    k = c0 * x + c1 * y + 1.0
    x, y = (a0 * x + a1 * y + a2) / k, (b0 * x + b1 * y + b2) / k
    if fill != "nearest":  # a frame of the value: what lies beyond it is in it
        frame = tf.constant([[0, 0], [1, 1], [1, 1], [0, 0]])
        values = tf.pad(values, frame, constant_values=float(fill))
        x, y, height, width = x + 1.0, y + 1.0, height + 2, width + 2
    return _interpolated(values, x, y, height, width)


def _interpolated(values, x, y, height, width):
    """The values at positions (batch, rows, columns), bilinearly; outside, those of the border."""
    x = tf.clip_by_value(x, 0.0, tf.cast(width - 1, tf.float32))
    y = tf.clip_by_value(y, 0.0, tf.cast(height - 1, tf.float32))
    left, top = tf.floor(x), tf.floor(y)
    to_right, to_bottom = (x - left)[..., None], (y - top)[..., None]
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    right, bottom = tf.minimum(left + 1, width - 1), tf.minimum(top + 1, height - 1)
    pixels = tf.reshape(values, tf.stack([tf.shape(values)[0], -1, tf.shape(values)[3]]))

    def at(rows, columns):
        return tf.gather(pixels, rows * width + columns, batch_dims=1)

    upper = at(top, left) * (1.0 - to_right) + at(top, right) * to_right
    lower = at(bottom, left) * (1.0 - to_right) + at(bottom, right) * to_right
    return upper * (1.0 - to_bottom) + lower * to_bottom


def _change_strokes(values, seed, strokes):
    share = tf.random.stateless_uniform(
        tf.stack([tf.shape(values)[0], 1, 1, 1]), seed, -strokes, strokes
    )
    brighter = tf.nn.max_pool2d(values, 3, 1, "SAME")
    darker = -tf.nn.max_pool2d(-values, 3, 1, "SAME")
    return values + tf.abs(share) * (tf.where(share > 0, brighter, darker) - values)


def _check(fill, **ranges):
    # beyond these bounds the map folds or leaves nothing of the image
    for name, (value, largest) in ranges.items():
        if not 0.0 <= value <= largest:
            raise ValueError(
                f"Invalid value for `{name}`. Expected a number from 0 to {largest:g}. "
                f"Received: {name}={value!r}"
            )
    if fill != "nearest" and (isinstance(fill, (str, bool)) or not 0 <= fill <= 255):
        raise ValueError(
            "Invalid value for `fill`. Expected 'nearest' or a number from 0 to 255. "
            f"Received: fill={fill!r}"
        )
