"""What networks expect of their pixels, by name, and the layers that bring RGB 0–255 there."""

from typing import Any, NamedTuple

import keras
from keras import layers

# the names, known without Keras
from keras_ms.models.backbone_names import AUTO, NORMALISATION_NAMES, refusal_of_unknown


class Normalisation(NamedTuple):
    """What a network expects of its input: channel · scale + offset, from RGB 0–255."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    bgr: bool = False  # scale and offset are then in the order blue, green, red


NORMALISATIONS = {
    # mean and standard deviation of ImageNet's channels on the scale 0–1
    "imagenet": Normalisation(
        tuple(1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225)),
        tuple(-mean / dev for mean, dev in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ),
    "minus_one_to_one": Normalisation((1 / 127.5,) * 3, (-1.0,) * 3),
    "minus_one_by_128": Normalisation((1 / 128.0,) * 3, (-1.0,) * 3),
    "zero_to_one": Normalisation((1 / 255.0,) * 3, (0.0,) * 3),
    "caffe": Normalisation((1.0,) * 3, (-103.939, -116.779, -123.68), bgr=True),
    "bn_inception": Normalisation((1.0,) * 3, (-104.0, -117.0, -128.0), bgr=True),
}


def named_normalisation(
    normalisation: str | Normalisation | None, found: Normalisation | None = None
) -> Normalisation | None:
    """The normalisation that is asked for.

    Args:
        normalisation: a name of `NORMALISATIONS`, a `Normalisation`, None for a network that takes
            RGB 0–255 itself, or "auto" for what was found.
        found: what the network's own files say. Defaults to None: nothing.

    Raises:
        ValueError: another name; the nearest one is named.

    Example:

    >>> named_normalisation("zero_to_one").offset
    (0.0, 0.0, 0.0)
    """
    if normalisation is None or isinstance(normalisation, Normalisation):
        return normalisation
    if normalisation == AUTO:
        return found
    if normalisation not in NORMALISATIONS:
        names = [name for name in NORMALISATION_NAMES if name in NORMALISATIONS]
        raise ValueError(
            refusal_of_unknown("normalisation", normalisation, names)
            + ". Or None, for a network that takes RGB 0-255 itself"
        )
    return NORMALISATIONS[normalisation]


def normalised(images: Any, normalisation: Normalisation | None) -> Any:
    """A tensor of RGB images, 0–255, brought to what a network expects.

    Args:
        images: symbolic (batch, height, width, 3).
        normalisation: `Normalisation`, or None: they stay as they are.

    Returns:
        A symbolic tensor of the same shape, float32.
    """
    if normalisation is None:
        return images
    scale, offset, bgr = normalisation
    if bgr:
        # A gather of the channels: reversing them exports to ONNX as a chain of loops.
        images = keras.ops.take(images, [2, 1, 0], axis=-1)
    # Rescaling exports to ONNX as it is; Normalization does not. In float32 under every policy:
    # bfloat16 holds 8 bits, as many as the pixels themselves.
    rescaling = layers.Rescaling(
        list(scale),
        list(offset),  # pyright: ignore[reportArgumentType] - Keras takes one for each channel too
        dtype="float32",
        name="normalise",
    )
    return rescaling(images)
