"""One vector of an image: feature maps, tokens and vectors, each pooled as it allows."""

from typing import Any

import keras
from keras import layers, ops

from keras_ms.arguments import Tensor, real_number

# by the rank of what the backbone gives: vectors, tokens, feature maps
POOLINGS = {
    2: (),
    3: ("cls", "patches", "cls+patches"),
    4: ("avg", "max", "avg+max", "gem", "none"),
}
_GIVES = {
    2: "one vector of an image, which passes as it is",
    3: "tokens (batch, tokens, channels)",
    4: "a feature map (batch, height, width, channels)",
}


@keras.saving.register_keras_serializable(package="keras_ms")
class GeneralizedMean(layers.Layer):
    """The generalised mean over the places of a feature map, (Σ xᵖ / n)^(1/p), with a trained p.

    Between the average (p = 1) and the maximum (p → ∞), each channel alike; p starts at 3, as
    published. Negative activations count as 0. Radenović, Tolias and Chum, Fine-tuning CNN Image
    Retrieval with No Human Annotation, TPAMI 2018.

    Args:
        p: where it starts. Defaults to 3.
        **kwargs: those of `keras.layers.Layer`; the layer computes in float32 whatever its input.

    Shapes: (batch, height, width, channels) to (batch, channels).

    Raises:
        ValueError: a p outside of 1 to 100, between which it is kept in training too.

    Example:
        >>> GeneralizedMean()(keras.ops.ones((2, 7, 7, 64))).shape
        (2, 64)
    """

    def __init__(self, p: float = 3.0, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.initial_p = real_number("p", p, least=_LEAST_P, most=_MOST_P)

    def build(self, input_shape: Any) -> None:
        initializer = keras.initializers.Constant(self.initial_p)
        self.p: Any = self.add_weight(shape=(), initializer=initializer, name="p")

    def call(self, inputs: Tensor) -> Tensor:
        values = ops.maximum(inputs, _LEAST_VALUE)
        p = ops.clip(self.p, _LEAST_P, _MOST_P)
        # Of what is divided by its maximum no power overflows. The result does not depend on the
        # divisor, so that its gradient is left out.
        largest = ops.stop_gradient(ops.max(values, axis=(1, 2), keepdims=True))
        mean = ops.mean(ops.power(values / largest, p), axis=(1, 2))
        return ops.power(mean, 1.0 / p) * ops.squeeze(largest, axis=(1, 2))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "p": self.initial_p}


_LEAST_P, _MOST_P = 1.0, 100.0
_LEAST_VALUE = 1e-6  # where the gradient of a power is still finite


@keras.saving.register_keras_serializable(package="keras_ms")
class TokenPooling(layers.Layer):
    """One vector of the tokens of a transformer.

    Args:
        tokens: "cls", the class token; "patches", the mean of those of the patches; "cls+patches",
            the one behind the other.
        num_prefix_tokens: class and register tokens, which stand before those of the patches.
        **kwargs: those of `keras.layers.Layer`.

    Shapes: (batch, tokens, channels) to (batch, channels), "cls+patches" to (batch, 2 channels).

    Example:
        >>> TokenPooling("cls+patches", num_prefix_tokens=5)(keras.ops.ones((2, 21, 8))).shape
        (2, 16)
    """

    def __init__(self, tokens: str, num_prefix_tokens: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.tokens = tokens
        self.num_prefix_tokens = num_prefix_tokens

    def call(self, inputs: Tensor) -> Tensor:
        if self.tokens == "cls":
            return inputs[:, 0]
        patches = ops.mean(inputs[:, self.num_prefix_tokens :], axis=1)
        if self.tokens == "patches":
            return patches
        return ops.concatenate([inputs[:, 0], patches], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        channels = input_shape[-1]
        return (input_shape[0], 2 * channels if self.tokens == "cls+patches" else channels)

    def get_config(self) -> dict[str, Any]:
        own = {"tokens": self.tokens, "num_prefix_tokens": self.num_prefix_tokens}
        return {**super().get_config(), **own}


def checked_pooling(pooling: str | None, rank: int, *, num_prefix_tokens: int = 0) -> str | None:
    """The pooling of what a backbone gives, or the one that it is used with.

    Args:
        pooling: one of `POOLINGS`, or None: "avg" of a map; of tokens "cls" where there is a class
            token, else "patches".
        rank: of the backbone's output, with the batch: 4 a map, 3 tokens, 2 a vector.
        num_prefix_tokens: tokens before those of the patches. Defaults to 0.

    Returns:
        One of `POOLINGS[rank]`; None for a vector.

    Raises:
        ValueError: a pooling that does not fit the rank; those that do are named.

    Example:

    >>> checked_pooling(None, 3, num_prefix_tokens=1)
    'cls'
    """
    fitting = POOLINGS[rank]
    if rank == 3 and num_prefix_tokens == 0:
        fitting = ("patches",)
    if pooling is None:
        return fitting[0] if fitting else None
    names = (*POOLINGS[4], *POOLINGS[3])
    if pooling not in names:
        raise ValueError(
            f"Invalid value for `pooling`. Expected one of {names}. Received: {pooling!r}"
        )
    if pooling not in fitting:
        words = f"Expected one of {', '.join(fitting)}" if fitting else "Leave it out"
        if rank == 3 and pooling in POOLINGS[3]:
            words += ": it is not known to have a class token (num_prefix_tokens says so)"
        raise ValueError(
            f"Invalid value for `pooling`. The backbone gives {_GIVES[rank]}. {words}. "
            f"Received: {pooling!r}"
        )
    return pooling


def pooled(output: Any, pooling: str | None, *, num_prefix_tokens: int = 0) -> Any:
    """A symbolic tensor of one vector an image, float32, of a layer called "pool".

    Args:
        output: of the backbone.
        pooling: of `checked_pooling`.
        num_prefix_tokens: as there.
    """
    # In float32: the mean of a map sums 49 activations and more, which float16 may not hold.
    if pooling is None:
        return layers.Activation("linear", dtype="float32", name="pool")(output)
    if pooling in POOLINGS[3]:
        return TokenPooling(pooling, num_prefix_tokens, dtype="float32", name="pool")(output)
    if pooling == "avg":
        return layers.GlobalAveragePooling2D(dtype="float32", name="pool")(output)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(dtype="float32", name="pool")(output)
    if pooling == "gem":
        return GeneralizedMean(name="pool")(output)
    if pooling == "none":
        return layers.Flatten(dtype="float32", name="pool")(output)
    average = layers.GlobalAveragePooling2D(dtype="float32", name="pool_avg")(output)
    maximum = layers.GlobalMaxPooling2D(dtype="float32", name="pool_max")(output)
    return layers.Add(dtype="float32", name="pool")([average, maximum])
