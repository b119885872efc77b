"""A batch against itself, some anchors at a time: any separable loss, in linear memory.

Where a loss goes in tiles (tiles.py) they are faster; blocks are for all others.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.pairs.closed_form import in_closed_form
from keras_ms.pairs.labels import padded_keys
from keras_ms.pairs.pairs import Pairs, batch_pairs

if TYPE_CHECKING:
    from keras_ms.pairs.pairwise import Pairwise


class Blocks:
    """Losses and gradient, `pairwise.block_size` anchors at a time.

    Args:
        pairwise: the functions of the loss.
    """

    def __init__(self, pairwise: "Pairwise"):
        self._pairwise = pairwise

    def losses(self, unit_rows: Tensor, keys: Tensor) -> Tensor:
        """Losses of all anchors.

        The backward pass computes the similarities of a block again. Of a row-wise loss it then has
        the block's rows of G + G^T and takes one more product; of another it takes two. A second
        derivative is taken all at once: its memory grows with the square.

        Args:
            unit_rows: (batch, dimension).
            keys: (batch, 5).

        Returns:
            (batch,).
        """

        def losses_and_gradient(unit_rows):
            if self._pairwise.is_row_wise:
                losses, *found = self._pairwise.program(self._row_losses, unit_rows, keys)
                return losses, lambda upstream: self._pairwise.program(
                    self._row_gradient, unit_rows, keys, upstream, *found
                )
            losses = self._pairwise.program(self.losses_without_gradient, unit_rows, keys)
            return losses, lambda upstream: self._pairwise.program(
                self._gradient, unit_rows, keys, upstream
            )

        def differentiable_gradient(unit_rows, upstream):
            if keras.backend.backend() != "jax":
                return self._pairwise.differentiable_gradient_at_once(unit_rows, keys, upstream)
            # JAX takes this form for first derivatives too, and differentiates it block by block
            return self._gradient(unit_rows, keys, upstream, self._pairwise.differentiable_weights)

        return in_closed_form(losses_and_gradient, unit_rows, differentiable_gradient)

    def losses_without_gradient(self, unit_rows: Tensor, keys: Tensor) -> Tensor:
        """The losses, not to be differentiated."""
        block_size = self._pairwise.block_size
        anchors, num_blocks = _padded(unit_rows, block_size)
        anchor_keys = padded_keys(keys, ops.shape(anchors)[0] - ops.shape(keys)[0])

        def add_block(block, losses):
            start = block * block_size
            rows = _rows(anchors, start, block_size)
            row_keys = _rows(anchor_keys, start, block_size)
            pairs = self._pairs(rows, row_keys, start, unit_rows, keys)
            return ops.slice_update(losses, (start,), self._pairwise.pair_loss(pairs))

        losses = ops.fori_loop(0, num_blocks, add_block, ops.zeros_like(anchors[:, 0]))
        return losses[: ops.shape(unit_rows)[0]]

    def _row_losses(self, unit_rows, keys):
        """The losses, and the statistics of all rows after whole blocks."""
        block_size = self._pairwise.block_size
        anchors, num_blocks = _padded(unit_rows, block_size)
        anchor_keys = padded_keys(keys, ops.shape(anchors)[0] - ops.shape(keys)[0])
        nothing = ops.zeros_like(anchors[:, :1])
        no_pair = ops.zeros_like(nothing, dtype="bool")

        def add_block(block, columns):
            start = block * block_size
            rows = _rows(anchors, start, block_size)
            row_keys = _rows(anchor_keys, start, block_size)
            similarity = ops.matmul(rows, ops.transpose(unit_rows))
            of_block = self._columns_of(batch_pairs(similarity, row_keys, keys, start))
            return tuple(
                tuple(ops.slice_update(column, (start, 0), new) for column, new in zip(*both))
                for both in zip(columns, of_block)
            )

        start = self._columns_of(Pairs(nothing, no_pair, no_pair))
        (losses,), mining, statistics = ops.fori_loop(0, num_blocks, add_block, start)
        return losses[: ops.shape(unit_rows)[0], 0], mining, statistics

    def _columns_of(self, pairs):
        losses, mining, statistics = self._pairwise.losses_of_rows(pairs)
        return (ops.expand_dims(losses, 1),), tuple(mining), tuple(statistics)

    def _row_gradient(self, unit_rows, keys, upstream, mining, statistics):
        block_size, size = self._pairwise.block_size, ops.shape(unit_rows)[0]
        anchors, num_blocks = _padded(unit_rows, block_size)
        anchor_keys = padded_keys(keys, ops.shape(anchors)[0] - ops.shape(keys)[0])
        upstream = ops.expand_dims(upstream, 1)
        by_row = [_padded(upstream, block_size)[0], mining, statistics]
        by_column = [upstream, *([column[:size] for column in of] for of in (mining, statistics))]
        by_column = oriented(ops.transpose, by_column)

        def add_block(block, gradients):
            start = block * block_size
            rows = _rows(anchors, start, block_size)
            row_keys = _rows(anchor_keys, start, block_size)
            similarity = ops.matmul(rows, ops.transpose(unit_rows))
            pairs = batch_pairs(similarity, row_keys, keys, start)
            of_rows = oriented(lambda column: _rows(column, start, block_size), by_row)
            by_rows, by_columns = (
                self._pairwise.row_weights(pairs, *by) for by in (of_rows, by_column)
            )
            both = by_rows + by_columns
            return ops.slice_update(gradients, (start, 0), ops.matmul(both, unit_rows))

        return ops.fori_loop(0, num_blocks, add_block, ops.zeros_like(anchors))[:size]

    def _gradient(self, unit_rows, keys, upstream, weighting=None):
        weighting = weighting or self._pairwise.weighting
        block_size = self._pairwise.block_size
        anchors, num_blocks = _padded(unit_rows, block_size)
        anchor_keys = padded_keys(keys, ops.shape(anchors)[0] - ops.shape(keys)[0])
        anchor_weights, _ = _padded(ops.expand_dims(upstream, 1), block_size)

        def add_block(block, gradients):
            by_anchors, by_candidates = gradients
            start = block * block_size
            rows = _rows(anchors, start, block_size)
            row_keys = _rows(anchor_keys, start, block_size)
            pairs = self._pairs(rows, row_keys, start, unit_rows, keys)
            weights = _rows(anchor_weights, start, block_size) * weighting(pairs)
            by_anchors = ops.slice_update(by_anchors, (start, 0), ops.matmul(weights, unit_rows))
            return by_anchors, by_candidates + ops.matmul(ops.transpose(weights), rows)

        by_anchors, by_candidates = ops.fori_loop(
            0, num_blocks, add_block, (ops.zeros_like(anchors), ops.zeros_like(unit_rows))
        )
        return by_anchors[: ops.shape(unit_rows)[0]] + by_candidates

    def _pairs(self, rows, keys, start, candidates, candidate_keys):
        similarity = ops.matmul(rows, ops.transpose(candidates))
        return self._pairwise.pairs(similarity, keys, candidate_keys, start)


def oriented(function: Callable[[Tensor], Tensor], by_anchor: Any) -> tuple[Any, ...]:
    """`(upstream, mining statistics, weighting statistics)`, each column through a function."""
    upstream, *statistics = by_anchor
    return function(upstream), *([function(column) for column in of] for of in statistics)


def _padded(array, block_size):
    """The rows, and as many zeros after them as whole blocks take; the number of blocks."""
    size = ops.shape(array)[0]
    number = (size + block_size - 1) // block_size
    return ops.pad(array, [[0, number * block_size - size], [0, 0]]), number


def _rows(array, start, number):
    return ops.slice(array, (start, 0), (number, ops.shape(array)[1]))
