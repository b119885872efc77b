"""Large batches tile by tile: S is symmetric, so a tile above its diagonal serves rows and columns.

The items are put in order of their labels first. Two tiles' labels that do not overlap make nothing
but negatives, as nearly all tiles do then: their masks are constants, and what a loss computes of
positives falls away when the program is compiled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.pairs.closed_form import in_closed_form
from keras_ms.pairs.labels import (
    LabelCodes,
    LabelRanges,
    label_codes,
    label_order,
    label_ranges,
    may_share_a_label,
)
from keras_ms.pairs.pairs import Pairs, masks_of_codes
from keras_ms.pairs.row_wise import RowForm, RowParts


class SortedBatch(NamedTuple):
    """A batch in order of its labels, with items that take no part after it: whole blocks.

    rows:   (whole, dimension).
    codes:  of the labels.
    ranges: of the labels of each block.
    order:  (batch,) int32, which item of the batch stands there.
    """

    rows: Tensor
    codes: LabelCodes
    ranges: LabelRanges
    order: Tensor


class Tiles:
    """Losses and gradient of one batch against itself, of functions whose parts are known.

    Args:
        miner: its statistics and those of `weighting` are RowParts.
        weighting: as in `Pairwise`.
        loss: RowParts of the loss.
        size: rows and columns of a tile.
        keeps: whether the similarities of all tiles are kept for the later passes: half the memory
            of the whole matrix. Without, each pass multiplies them again.
    """

    def __init__(self, miner: RowForm, weighting: RowForm, loss: RowParts, size: int, keeps: bool):
        self.miner = miner
        self.weighting = weighting
        # of RowForms in general they may be plain functions
        self.mining: Any = miner.statistics
        self.statistics: Any = weighting.statistics
        self.loss = loss
        self.size = size
        self.keeps = keeps

    def losses(
        self,
        unit_rows: Tensor,
        keys: Tensor,
        program: Callable[..., Any],
        differentiable_gradient: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Losses of all anchors.

        Args:
            unit_rows: (batch, dimension), of static shape.
            keys: (batch, 5).
            program: `Pairwise.program`.
            differentiable_gradient: as `in_closed_form` takes it.

        Returns:
            (batch,).
        """
        num_blocks = -(-unit_rows.shape[0] // self.size)
        positions = [np.asarray(each, "int32") for each in np.triu_indices(num_blocks)]
        variant = (self.size, self.keeps)

        def losses_and_gradient(unit_rows):
            losses, *found = program(self._forward, unit_rows, keys, *positions, variant=variant)

            def gradient(upstream):
                return program(self._backward, upstream, *positions, *found, variant=variant)

            return losses, gradient

        return in_closed_form(losses_and_gradient, unit_rows, differentiable_gradient)

    def _forward(self, unit_rows, keys, firsts, seconds):
        """The losses, and what the backward pass takes."""
        batch = self._sorted(unit_rows, keys)
        tiles = firsts, seconds
        kept, mining = (), ()
        if self.mining.join:
            of, join, whole = self.mining
            kept, numbers = self._sum_up(batch, tiles, kept, of, join)
            mining = whole(*numbers)

        loss, statistics = self.loss, self.statistics

        def of_mined(pairs, axis, *mining):
            mined = self.miner.entry(pairs, *mining)
            return *loss.of(mined, axis), *statistics.of(mined, axis)

        join = *loss.join, *statistics.join
        kept, numbers = self._sum_up(batch, tiles, kept, of_mined, join, mining)
        of_loss = len(loss.join)
        losses = loss.whole(*numbers[:of_loss])
        statistics = statistics.whole(*numbers[of_loss:])
        return self._unsorted(losses, batch.order)[:, 0], batch, kept, mining, statistics

    def _backward(self, upstream, firsts, seconds, batch, kept, mining, statistics):
        """The gradient with respect to the rows."""
        upstream = self._padded(ops.take(ops.expand_dims(upstream, 1), batch.order, axis=0))

        def add_tile(tile, gradients):
            first, second = firsts[tile] * self.size, seconds[tile] * self.size

            def of_rows(start):
                return [[self._rows(each, start) for each in of] for of in (mining, statistics)]

            def both_weights(pairs):
                def entries(upstream, mining, statistics):
                    return upstream * self.weighting.entry(
                        self.miner.entry(pairs, *mining), *statistics
                    )

                # on the diagonal the rows' weights are all, and both products below take them
                weight = ops.cast(ops.not_equal(first, second), upstream.dtype)
                of_columns = (map(ops.transpose, of) for of in of_rows(second))
                by_columns = ops.transpose(weight * self._rows(upstream, second))
                by_rows = entries(self._rows(upstream, first), *of_rows(first))
                return by_rows + entries(by_columns, *of_columns)

            similarity = self._similarity(batch, tile, first, second, kept)
            both = self._of_pairs(both_weights, batch, similarity, first, second)
            for start, weights, other in (
                (first, both, second),
                (second, ops.transpose(both), first),
            ):
                added = ops.matmul(weights, self._rows(batch.rows, other))
                gradients = _put(gradients, start, self._rows(gradients, start) + added)
            return gradients

        start = ops.zeros_like(batch.rows)
        gradients = ops.fori_loop(0, ops.shape(firsts)[0], add_tile, start)
        return self._unsorted(gradients, batch.order)

    def _sum_up(self, batch, tiles, kept, of, join, statistics=()):
        """The tiles' similarities, where they are kept, and the joined numbers of all rows.

        Args:
            batch: SortedBatch.
            tiles: `(firsts, seconds)`, the block of rows and the block of columns of each tile.
            kept: of an earlier pass, a tuple of one, or ().
            of: function `(Pairs, axis, *statistics) -> numbers`.
            join: of each number, as in RowParts.
            statistics: of all rows, each (whole, 1).
        """
        firsts, seconds = tiles
        number_of_tiles = ops.shape(firsts)[0]
        nothing = ops.zeros_like(batch.rows[:, :1])
        no_pair = ops.zeros_like(nothing, dtype="bool")
        start = tuple(of(Pairs(nothing, no_pair, no_pair), -1, *statistics))
        keeps_now = self.keeps and not kept
        if keeps_now:
            kept = (ops.zeros((number_of_tiles * self.size, self.size), batch.rows.dtype),)

        def add_tile(tile, state):
            numbers, stored = state
            first, second = firsts[tile] * self.size, seconds[tile] * self.size
            similarity = self._similarity(batch, tile, first, second, () if keeps_now else kept)

            def both_sides(pairs):
                of_first, of_second = (
                    [self._rows(each, start) for each in statistics] for start in (first, second)
                )
                of_columns = of(pairs, 0, *map(ops.transpose, of_second))
                return *of(pairs, -1, *of_first), *map(ops.transpose, of_columns)

            found = self._of_pairs(both_sides, batch, similarity, first, second)
            of_rows, of_columns = found[: len(join)], found[len(join) :]
            numbers = tuple(
                _put(number, first, joined(self._rows(number, first), added))
                for number, joined, added in zip(numbers, join, of_rows)
            )
            is_diagonal = ops.equal(first, second)
            joined_numbers = []
            for number, joined, added in zip(numbers, join, of_columns):
                before = self._rows(number, second)
                after = ops.where(is_diagonal, before, joined(before, added))
                joined_numbers.append(_put(number, second, after))
            if keeps_now:
                stored = (_put(stored[0], tile * self.size, similarity),)
            return tuple(joined_numbers), stored

        state = start, kept if keeps_now else ()
        numbers, stored = ops.fori_loop(0, number_of_tiles, add_tile, state)
        return stored if keeps_now else kept, numbers

    def _similarity(self, batch, tile, first, second, kept):
        if kept:
            return self._rows(kept[0], tile * self.size)
        of_second = ops.transpose(self._rows(batch.rows, second))
        return ops.matmul(self._rows(batch.rows, first), of_second)

    def _of_pairs(self, function, batch, similarity, first, second):
        """What the function makes of the Pairs of a tile."""

        def of_masks():
            codes, others = (self._codes(batch, start) for start in (first, second))
            positive, negative = masks_of_codes(codes, others, first - second)
            return function(Pairs(similarity, positive, negative))

        def of_negatives():
            all_of_them = ops.ones((self.size, self.size), "bool")
            return function(Pairs(similarity, ops.logical_not(all_of_them), all_of_them))

        is_mixed = may_share_a_label(batch.ranges, first // self.size, second // self.size)
        return ops.cond(is_mixed, of_masks, of_negatives)

    def _codes(self, batch, start):
        low, high, valid = (ops.slice(each, (start,), (self.size,)) for each in batch.codes)
        return LabelCodes(low, high, valid)

    def _sorted(self, unit_rows, keys):
        order = label_order(label_codes(keys))
        rows = self._padded(ops.take(unit_rows, order, axis=0))
        # zeros as keys take part in no pair
        codes = label_codes(self._padded(ops.take(keys, order, axis=0)))
        return SortedBatch(rows, codes, label_ranges(codes, self.size), order)

    def _padded(self, array):
        """Zeros after the rows, to whole blocks."""
        return ops.pad(array, [[0, -ops.shape(array)[0] % self.size], [0, 0]])

    def _unsorted(self, array, order):
        number = ops.shape(order)
        place = ops.scatter(ops.expand_dims(order, 1), ops.arange(number[0], dtype="int32"), number)
        return ops.take(array, place, axis=0)

    def _rows(self, array, start):
        return ops.slice(array, (start, 0), (self.size, ops.shape(array)[1]))


def _put(array, start, rows):
    return ops.slice_update(array, (start, 0), rows)
