"""Label keys: integer labels that survive a cast to floats, and whether an item takes part at all.

Keras casts labels to the dtype of the loss, float32, in which ids from 2**24 on collide. So a label
travels as a row of five numbers, each exact in float32: four parts of 16 bits, and last 1 for an
item that takes part in pairs or 0 for one that does not, as padding or an empty place of a memory.
Only this file knows the row's layout.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.pairs.class_ids import checked_class_ids
from keras_ms.pairs.keras_mask import mask_of

_BITS_PER_PART = 16
_PARTS = 4

# numbers in the key of an item
KEY_LENGTH = _PARTS + 1


def label_keys(
    y_true: Any,
    dtype: str = "float32",
    *,
    embeddings: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The keys of class ids.

    Args:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        dtype: a float dtype of at least 32 bits.
        embeddings: optional tensor with a row for each label, whose number is checked.
        mask: optional (batch,) or (batch, 1), which items take part. Defaults to None: the Keras
            mask of the embeddings; all, where there is none.

    Returns:
        (batch, 5) of dtype `dtype`, equal in the first four iff the labels are equal.

    Raises:
        ValueError: as `checked_class_ids`.
    """
    parts = _label_parts(checked_class_ids(y_true, embeddings), dtype)
    if mask is None:
        mask = mask_of(embeddings)
    valid = ops.ones_like(parts[:, :1]) if mask is None else ops.reshape(mask, (-1, 1))
    return ops.concatenate([parts, ops.cast(valid, parts.dtype)], axis=1)


def invalid_keys(number: int) -> np.ndarray:
    """Keys of so many items that take part in no pair, (number, 5)."""
    return np.zeros((number, KEY_LENGTH))


def padded_keys(keys: Tensor, number: int | Tensor) -> Tensor:
    """The keys followed by those of so many items that take part in no pair."""
    return ops.pad(keys, [[0, number], [0, 0]])


def are_valid(keys: Tensor) -> Tensor:
    """Which items take part in pairs, (batch,) bool."""
    return keys[:, -1] > 0


def valid_where(keys: Tensor, condition: Tensor) -> Tensor:
    """The keys, of which none stays valid where the condition, (batch,) or () bool, is False."""
    condition = ops.reshape(ops.cast(condition, keys.dtype), (-1, 1))
    return ops.concatenate([keys[:, :-1], keys[:, -1:] * condition], axis=1)


class LabelCodes(NamedTuple):
    """What is compared of the labels, for each item one number of each kind.

    low, high: int32, the two halves of the 64 bits.
    valid: bool, whether the item takes part in pairs.
    """

    low: Tensor
    high: Tensor
    valid: Tensor


def label_codes(keys: Tensor) -> LabelCodes:
    """The codes of keys, (batch,) each."""
    low, high = _codes(keys)
    return LabelCodes(low, high, are_valid(keys))


def same_label(codes: LabelCodes, candidate_codes: LabelCodes) -> Tensor:
    """Which items have the same label, (anchors, candidates) bool."""
    equal = [
        ops.equal(ops.expand_dims(half, 1), ops.expand_dims(candidate_half, 0))
        for half, candidate_half in zip(codes[:2], candidate_codes[:2])
    ]
    return ops.logical_and(*equal)


class LabelRanges(NamedTuple):
    """The least and the greatest 32 bits of the labels of each block of items, (blocks,) int32."""

    least: Tensor
    greatest: Tensor


def label_order(codes: LabelCodes) -> Tensor:
    """An order, (batch,) int32, that puts equal labels side by side and what is not valid last.

    Labels that differ from bit 32 on only may stand mixed.
    """
    return ops.cast(ops.argsort(ops.where(codes.valid, codes.low, 2**31 - 1)), "int32")


def label_ranges(codes: LabelCodes, block_size: int) -> LabelRanges:
    """The ranges of blocks of this size; of one with an item that is not valid, all numbers."""
    least = ops.where(codes.valid, codes.low, -(2**31))
    greatest = ops.where(codes.valid, codes.low, 2**31 - 1)
    return LabelRanges(
        ops.min(ops.reshape(least, (-1, block_size)), axis=1),
        ops.max(ops.reshape(greatest, (-1, block_size)), axis=1),
    )


def may_share_a_label(ranges: LabelRanges, block: Tensor, other: Tensor) -> Tensor:
    """Whether an item of one block may have a label of another block, or is not valid; () bool."""
    (least, other_least), (greatest, other_greatest) = (
        (ops.take(ends, block), ops.take(ends, other)) for ends in ranges
    )
    return ops.logical_and(least <= other_greatest, other_least <= greatest)


def positions_among(keys: Tensor, ascending_keys: Tensor) -> tuple[Tensor, Tensor]:
    """Where each label stands among others in ascending order, by binary search.

    Args:
        keys: (batch, 5).
        ascending_keys: (C, 5), of which some may not be valid: what stands there is not found.

    Returns:
        `(position, is_known)`: int32 (batch,) from 0 to C - 1, and bool (batch,), whether the
        label is there at all.
    """
    low, high = _codes(keys)
    low_codes, high_codes = _codes(ascending_keys)
    size = ascending_keys.shape[0]
    position = ops.zeros_like(low)
    for bit in reversed(range(size.bit_length())):
        probe = position + (1 << bit)
        before = ops.minimum(probe, size) - 1
        low_before, high_before = (ops.take(codes, before) for codes in (low_codes, high_codes))
        low_is_less = _unsigned_order(low_before) < _unsigned_order(low)
        is_less = (high_before < high) | ((high_before == high) & low_is_less)
        position = ops.where((probe <= size) & is_less, probe, position)
    # `position` counts the labels before this one
    position = ops.minimum(position, size - 1)
    is_equal = (ops.take(low_codes, position) == low) & (ops.take(high_codes, position) == high)
    return position, is_equal & ops.take(are_valid(ascending_keys), position)


def _label_parts(labels, dtype):
    """(batch, 4), 16 bits of the 64-bit ids each."""
    kind = keras.backend.standardize_dtype(labels.dtype)
    # JAX has no 64-bit integers by default: 32 bits go without them
    wide = "64" in kind or not keras.backend.is_int_dtype(kind)
    labels = ops.cast(labels, "int64" if wide else "int32")
    parts = [
        ops.bitwise_and(ops.right_shift(labels, part * _BITS_PER_PART), 2**_BITS_PER_PART - 1)
        for part in range(_PARTS if wide else _PARTS // 2)
    ]
    # what 64 bits would hold beyond them, so that -1 is the same class in any integer type
    is_signed = not kind.startswith("uint")
    upper = ops.less(labels, 0) & is_signed
    upper = ops.where(upper, ops.full_like(labels, 2**_BITS_PER_PART - 1), ops.zeros_like(labels))
    parts += [upper] * (_PARTS - len(parts))
    return ops.cast(ops.stack(parts, axis=1), dtype)


def _codes(keys):
    """Four parts of 16 bits as two int32, each (batch,): half of the comparisons of a pair."""
    parts = ops.cast(keys, "int32")
    return [
        ops.bitwise_or(parts[:, part], ops.left_shift(parts[:, part + 1], _BITS_PER_PART))
        for part in (0, 2)
    ]


def _unsigned_order(low):
    """int32 bits without a sign, so that they compare as signed numbers do."""
    return ops.bitwise_xor(low, -(2**31))
