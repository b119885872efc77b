"""The mask that Keras keeps with a tensor: which items of a batch are padding."""

from typing import Any

from keras_ms.arguments import Tensor

try:
    # Keras has no public name for them. What takes no attributes, such as the tensors that JAX
    # traces, has its mask in a table of Keras's own
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
except ImportError:  # of another version

    def get_keras_mask(x: Any) -> Any:
        return getattr(x, "_keras_mask", None)

    def set_keras_mask(x: Any, mask: Any) -> None:
        x._keras_mask = mask


def mask_of(tensor: Any) -> Tensor | None:
    """The mask of a tensor, False for padding; None if it has none."""
    return get_keras_mask(tensor)


def with_mask(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """The tensor, to which the mask was attached."""
    if mask is not None:
        set_keras_mask(tensor, mask)
    return tensor
