"""Test-time views: an embedder that averages its embeddings of several views of an image."""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.models.view_words import MOST


def average_views(
    embedder: keras.Model, *, rotation: float = 0.0, zoom: float = 0.0, mirror: bool = False
) -> keras.Model:
    """An embedder that embeds several views of each image and returns the mean.

    Use it where a better embedding is worth the time of as many: two views with `mirror`, two more
    for each of `rotation` and `zoom`, as many again for the mirrored ones of all. Take views that
    leave an image what it is: mirrored birds and cars are birds and cars, mirrored letters are
    others. Compare it with the embedder itself on validation classes.

    The result is a Keras model like any other: save it, evaluate it, export it.

    Args:
        embedder: a Keras model that takes images (batch, height, width, channels) of fixed sides
            and returns embeddings (batch, dimension).
        rotation: degrees, 0 to 180. An image turned to the left and one turned to the right by so
            much. Defaults to 0: none.
        zoom: fraction, 0 to 1. An image enlarged by 1 + `zoom` and one reduced by as much, both
            about the centre; pixels beyond the border repeat it. Defaults to 0: none.
        mirror: whether each view is taken mirrored from left to right too. Defaults to False.

    Returns:
        keras.Model with the input of `embedder` that shares its layers. Its embeddings are the
        normalised means where `embedder` ends with a L2 normalisation (`UnitNormalization` or
        `keras.ops.normalize`, in nested models too), else the means.

    Raises:
        ValueError: no view beside the image itself, a number out of range, or a model that takes or
            returns something else.

    Example:

    >>> embedder = keras_ms.build_embedder("small", image_size=32, embedding_size=8)
    >>> averaged = average_views(embedder, rotation=5, zoom=0.05)
    >>> averaged(np.zeros((2, 32, 32, 3))).shape
    TensorShape([2, 8])
    """
    shape = getattr(embedder, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "Expected a model of one input, images (batch, height, width, channels) of fixed "
            f"sides. Received: input shape {shape}. Build the embedder with `image_size`"
        )
    if len(embedder.outputs) != 1 or len(embedder.output_shape) != 2:
        raise ValueError(
            "Expected a model that returns embeddings, (batch, dimension). Received: output shape "
            f"{embedder.output_shape}"
        )
    # names that the embedder, a layer of the result, cannot have
    names = {part: f"{embedder.name}_{part}" for part in ("views", "mean", "l2")}
    views = Views(rotation, zoom, mirror, name=names["views"])
    given = embedder.inputs[0]
    image = keras.Input(batch_shape=given.shape, dtype=given.dtype, name=given.name)
    mean = MeanOfViews(views.number, name=names["mean"])(embedder(views(image)))
    if _is_normalised(embedder):
        mean = layers.UnitNormalization(dtype="float32", name=names["l2"])(mean)
    return keras.Model(image, mean, name=embedder.name)


def _is_normalised(model):
    """Whether the last operation of a functional model is a L2 normalisation of each row."""
    made_by = getattr(model.outputs[0], "_keras_history", [None])[0]
    if isinstance(made_by, keras.Model):
        return len(made_by.outputs) == 1 and _is_normalised(made_by)
    # what keras.ops.normalize makes has no public class
    if type(made_by).__name__ == "Normalize":
        return getattr(made_by, "axis", None) in (-1, 1) and getattr(made_by, "order", None) == 2
    return isinstance(made_by, layers.UnitNormalization)


@keras.saving.register_keras_serializable(package="keras_ms")
class Views(layers.Layer):
    """Views of each image, one after the other: as it is, turned, enlarged and reduced, mirrored.

    Args:
        rotation, zoom, mirror: as in `average_views`.
        **kwargs: those of `keras.layers.Layer`; the layer computes in float32 whatever its input.

    Shapes: (batch, height, width, channels) to (batch times `number`, height, width, channels).

    Attributes:
        number: views of an image.

    Raises:
        ValueError: as `average_views`.

    Example:

    >>> Views(mirror=True)(np.zeros((3, 8, 8, 1))).shape
    TensorShape([6, 8, 8, 1])
    """

    def __init__(
        self, rotation: float = 0.0, zoom: float = 0.0, mirror: bool = False, **kwargs: Any
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        rotation = real_number("rotation", rotation, least=0, most=MOST["rotation"])
        zoom = real_number("zoom", zoom, least=0, most=MOST["zoom"])
        if not (rotation or zoom or mirror):
            raise ValueError("Expected a rotation, a zoom or mirror=True: nothing to average")
        self.rotation, self.zoom, self.mirror = rotation, zoom, bool(mirror)
        self.number = (1 + 2 * bool(rotation) + 2 * bool(zoom)) * (1 + self.mirror)
        self._turns: list[tuple[np.ndarray, np.ndarray]] = []
        self._zooms: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = []

    def build(self, input_shape: Any) -> None:
        sides = input_shape[1:3]
        angle = math.radians(self.rotation)
        self._turns = [turn_places(sign * angle, *sides) for sign in (1, -1) if angle]
        scales = (1 / (1 + self.zoom), 1 + self.zoom) if self.zoom else ()
        self._zooms = [[zoom_places(scale, side) for side in sides] for scale in scales]

    def call(self, images: Tensor) -> Tensor:
        is_integer = "int" in keras.backend.standardize_dtype(images.dtype)
        images = ops.cast(images, self.compute_dtype)
        views = [images, *(self._turned(images, *turn) for turn in self._turns)]
        for zoom in self._zooms:
            view = images
            for axis, (first, second, share) in enumerate(zoom, start=1):
                share = ops.reshape(ops.convert_to_tensor(share, view.dtype), _along(axis))
                first, second = (ops.take(view, places, axis=axis) for places in (first, second))
                view = first * (1 - share) + second * share
            views.append(view)
        if self.mirror:
            views += [ops.flip(view, axis=2) for view in views]
        stacked = ops.stack(views, axis=1)
        if is_integer:  # the embedder is given integers again, and a cast cuts off
            stacked = ops.round(stacked)
        return ops.reshape(stacked, (-1, *images.shape[1:]))

    def _turned(self, images, places, shares):
        height, width, channels = images.shape[1:]
        pixels = ops.reshape(images, (-1, height * width, channels))
        view = sum(
            ops.take(pixels, place, axis=1) * ops.convert_to_tensor(share, pixels.dtype)
            for place, share in zip(places, shares)
        )
        return ops.reshape(view, (-1, height, width, channels))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        batch = input_shape[0]
        return (None if batch is None else batch * self.number, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        settings = {"rotation": self.rotation, "zoom": self.zoom, "mirror": self.mirror}
        return {**super().get_config(), **settings}


@keras.saving.register_keras_serializable(package="keras_ms")
class MeanOfViews(layers.Layer):
    """The mean of the embeddings of an image's views.

    Args:
        number: views of an image.
        **kwargs: those of `keras.layers.Layer`; the layer computes in float32 whatever its input.

    Shapes: (batch times `number`, dimension) to (batch, dimension).
    """

    def __init__(self, number: int, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.number = int(number)

    def call(self, embeddings: Tensor) -> Tensor:
        of_views = ops.reshape(embeddings, (-1, self.number, embeddings.shape[-1]))
        return ops.mean(of_views, axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        batch, dimension = input_shape
        return (None if batch is None else batch // self.number, dimension)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "number": self.number}


def turn_places(angle: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where an image turned about its centre takes its pixels from.

    Args:
        angle: radians.
        height, width: of the image.

    Returns:
        (4, height * width) int32, the pixels around each position, counted row by row, and their
        shares (4, height * width, 1), bilinear. Positions beyond the border are those of it.
    """
    y, x = np.meshgrid(
        np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij"
    )
    cos, sin = math.cos(angle), math.sin(angle)
    left, right, to_right = _neighbours((cos * x - sin * y).ravel(), width)
    top, bottom, to_bottom = _neighbours((sin * x + cos * y).ravel(), height)
    places = [row * width + column for row in (top, bottom) for column in (left, right)]
    shares = [
        by_row * by_column
        for by_row in (1 - to_bottom, to_bottom)
        for by_column in (1 - to_right, to_right)
    ]
    return np.array(places, np.int32), np.array(shares)[..., None]


def zoom_places(scale: float, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along one side, where an image takes its pixels from whose offsets from the centre are
    multiplied by `scale`: the pixel before and the one after each position, (side,) int32, and the
    share of the latter."""
    return _neighbours(scale * (np.arange(side) - (side - 1) / 2), side)


def _neighbours(offset, side):
    position = np.clip(offset + (side - 1) / 2, 0, side - 1)
    first = np.floor(position).astype(np.int32)
    return first, np.minimum(first + 1, side - 1).astype(np.int32), position - first


def _along(axis):
    return tuple(-1 if each == axis else 1 for each in range(4))
