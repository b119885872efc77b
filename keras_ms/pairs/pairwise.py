"""The pairwise part of a loss and its derivative: dense, block by block, against other candidates.

No path differentiates a loss automatically. Each computes the losses of the anchors, and for the
backward pass the closed-form weights G = dL/dS, from which the gradient with respect to the
embeddings is a product or two. With an upstream gradient g per anchor (sample weights) the
weights of anchor i are multiplied by g_i.

A second derivative is that of the gradient: of the weights as a function of the similarities,
which pairs were mined being constant. It is computed only where it is asked for.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.pairs.blocks import Blocks, oriented
from keras_ms.pairs.closed_form import in_closed_form
from keras_ms.pairs.pairs import Pairs, batch_pairs, is_pair
from keras_ms.pairs.row_wise import RowParts, row_form, row_loss
from keras_ms.pairs.tiles import Tiles


class Pairwise:
    """A miner, a weighting and a loss of pairs, computed together.

    Args:
        pair_loss: function `Pairs -> (anchors,)`.
        weighting: function `Pairs -> (anchors, candidates)`; of a loss that takes the whole batch
            `(Pairs, upstream (anchors,)) -> (anchors, anchors)`, the derivative of the sum of
            upstream times loss.
        miner: function `Pairs -> Pairs`.
        compiled: whether each step is compiled with XLA (TensorFlow backend only).
        block_size: anchors at a time in `losses_in_blocks`.
        margins: optional function `(keys, candidate_keys) -> (anchors, candidates)`, constants
            that are added to the similarities of negatives before anything else sees them: a
            margin that depends on the two classes. It makes the loss not row-wise.
        differentiable_weighting: what stands for `weighting` where the gradient is differentiated
            in turn, if some operation of `weighting` stops or cannot be differentiated. Defaults to
            None: `weighting` itself.

    Keys are those of `keras_ms.pairs.labels.label_keys`.
    """

    def __init__(
        self,
        pair_loss: Callable[[Pairs], Tensor],
        weighting: Callable[..., Tensor],
        miner: Callable[[Pairs], Pairs],
        compiled: bool,
        block_size: int | None = None,
        margins: Callable[[Tensor, Tensor], Tensor] | None = None,
        differentiable_weighting: Callable[..., Tensor] | None = None,
    ):
        self.pair_loss = pair_loss
        self.weighting = weighting
        self._differentiable_weighting = differentiable_weighting or weighting
        self.miner = miner
        self.block_size = block_size
        self.margins = margins
        self.row_forms: Any = row_form(miner), row_form(weighting)
        self.loss_parts: Any = row_loss(pair_loss)
        self.compiled = compiled
        self._programs = {}
        self._blocks = Blocks(self)

    @property
    def has_parts(self) -> bool:
        """Whether what the loss sums up can be had from parts of a row."""
        statistics = [form.statistics for form in self.row_forms if form is not None]
        known = [isinstance(each, RowParts) for each in (self.loss_parts, *statistics)]
        return self.is_row_wise and all(known)

    @property
    def is_row_wise(self) -> bool:
        """Whether (G + G^T) can be computed at once: one product less."""
        return self.margins is None and None not in self.row_forms

    def pairs(
        self,
        similarity: Tensor,
        keys: Tensor,
        candidate_keys: Tensor | None = None,
        offset: int | Tensor = 0,
    ) -> Pairs:
        """The mined pairs of `batch_pairs`, with the margins of negatives in their similarity."""
        pairs = batch_pairs(similarity, keys, candidate_keys, offset)
        if self.margins is not None:
            margins = self.margins(keys, keys if candidate_keys is None else candidate_keys)
            # where, so that a margin of no pair may be anything
            margins = ops.where(pairs.negative, margins, ops.zeros_like(similarity))
            pairs = pairs._replace(similarity=similarity + margins)
        return self.miner(pairs)

    def differentiable_weights(self, pairs: Pairs, *upstream: Tensor) -> Tensor:
        """The weights of mined pairs in a form that can be differentiated with respect to the
        similarities."""
        similarity = pairs.similarity
        # what is no pair has the weight 0, but an exponential that overflows there: 0 * inf
        similarity = ops.where(is_pair(pairs), similarity, ops.zeros_like(similarity))
        return self._differentiable_weighting(pairs._replace(similarity=similarity), *upstream)

    # One batch against itself, whose similarity matrix is symmetric.

    def losses_within_batch(self, unit_rows: Tensor, keys: Tensor) -> Tensor:
        """Losses of all anchors against each other; row-wise functions only.

        As S is symmetric, G^T differs from G in whose statistics enter: both are computed element
        by element in one pass, and the gradient is the one product (G + G^T) X.

        Args:
            unit_rows: (batch, dimension).
            keys: (batch, 5).

        Returns:
            (batch,).
        """

        def losses_and_gradient(unit_rows):
            similarity = ops.matmul(unit_rows, ops.transpose(unit_rows))
            losses, *statistics = self.program(self._row_losses, similarity, keys)

            def gradient(upstream):
                both = self.program(self._both_weights, similarity, keys, upstream, *statistics)
                return ops.matmul(both, unit_rows)

            return losses, gradient

        def differentiable_gradient(unit_rows, upstream):
            return self.differentiable_gradient_at_once(unit_rows, keys, upstream)

        return in_closed_form(losses_and_gradient, unit_rows, differentiable_gradient)

    def differentiable_gradient_at_once(
        self, unit_rows: Tensor, keys: Tensor, upstream: Tensor
    ) -> Tensor:
        """The gradient with respect to the rows, in a form that can be differentiated."""
        pairs = self.pairs(ops.matmul(unit_rows, ops.transpose(unit_rows)), keys)
        weights = ops.expand_dims(upstream, 1) * self.differentiable_weights(pairs)
        return ops.matmul(weights + ops.transpose(weights), unit_rows)

    def _row_losses(self, similarity, keys):
        return self.losses_of_rows(batch_pairs(similarity, keys))

    def losses_of_rows(self, pairs: Pairs) -> tuple[Tensor, Any, Any]:
        """The losses, and what `row_weights` takes of the rows."""
        miner, weighting = self.row_forms
        mining = miner.statistics(pairs)
        mined = miner.entry(pairs, *mining)
        return self.pair_loss(mined), mining, weighting.statistics(mined)

    def _both_weights(self, similarity, keys, upstream, mining_statistics, weighting_statistics):
        """diag(g) G + G^T diag(g)."""
        pairs = batch_pairs(similarity, keys)
        by_anchor = ops.expand_dims(upstream, 1), mining_statistics, weighting_statistics
        by_candidate = oriented(ops.transpose, by_anchor)
        return self.row_weights(pairs, *by_anchor) + self.row_weights(pairs, *by_candidate)

    def row_weights(
        self, pairs: Pairs, upstream: Tensor, mining_statistics: Any, weighting_statistics: Any
    ) -> Tensor:
        """The weights by the anchors whose statistics these are, columns or rows."""
        miner, weighting = self.row_forms
        mined = miner.entry(pairs, *mining_statistics)
        return upstream * weighting.entry(mined, *weighting_statistics)

    # Anchors against candidates that hold them, and more.

    def losses_against(
        self,
        anchors: Tensor,
        keys: Tensor,
        candidates: Tensor,
        candidate_keys: Tensor,
        offset: int | Tensor,
    ) -> Tensor:
        """Losses of the anchors against the candidates: any separable loss.

        Args:
            anchors: (anchors, dimension).
            keys: (anchors, 5).
            candidates: (candidates, dimension), of which the anchors are neighbouring rows.
            candidate_keys: (candidates, 5).
            offset: index of the first anchor among the candidates.

        Returns:
            (anchors,).
        """

        offset = ops.convert_to_tensor(offset, dtype="int32")

        def losses_and_gradient(similarity):
            losses, weights = self.program(
                self._losses_and_weights, similarity, keys, candidate_keys, offset
            )
            return losses, lambda upstream: ops.expand_dims(upstream, 1) * weights

        def differentiable_gradient(similarity, upstream):
            pairs = self.pairs(similarity, keys, candidate_keys, offset)
            return ops.expand_dims(upstream, 1) * self.differentiable_weights(pairs)

        similarity = ops.matmul(anchors, ops.transpose(candidates))
        return in_closed_form(losses_and_gradient, similarity, differentiable_gradient)

    def losses_without_gradient(
        self,
        anchors: Tensor,
        keys: Tensor,
        candidates: Tensor,
        candidate_keys: Tensor,
        offset: int | Tensor,
    ) -> Tensor:
        """The losses of `losses_against`, not to be differentiated."""
        similarity = ops.matmul(anchors, ops.transpose(candidates))
        return self.pair_loss(self.pairs(similarity, keys, candidate_keys, offset))

    def _losses_and_weights(self, similarity, keys, candidate_keys, offset):
        mined = self.pairs(similarity, keys, candidate_keys, offset)
        return self.pair_loss(mined), self.weighting(mined)

    # A loss that takes the batch as a whole.

    def losses_of_whole_batch(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Losses of all anchors where an anchor's loss depends on other rows too.

        Args:
            rows: (batch, dimension), of any length: the similarity is their product.
            keys: (batch, 5).

        Returns:
            (batch,).
        """

        def losses_and_gradient(rows):
            similarity = ops.matmul(rows, ops.transpose(rows))
            losses = self.program(self._batch_losses, similarity, keys)

            def gradient(upstream):
                both = self.program(self._both_batch_weights, similarity, keys, upstream)
                return ops.matmul(both, rows)

            return losses, gradient

        def differentiable_gradient(rows, upstream):
            pairs = self.pairs(ops.matmul(rows, ops.transpose(rows)), keys)
            weights = self.differentiable_weights(pairs, upstream)
            return ops.matmul(weights + ops.transpose(weights), rows)

        return in_closed_form(losses_and_gradient, rows, differentiable_gradient)

    def _batch_losses(self, similarity, keys):
        return self.pair_loss(self.pairs(similarity, keys))

    def _both_batch_weights(self, similarity, keys, upstream):
        weights = self.weighting(self.pairs(similarity, keys), upstream)
        return weights + ops.transpose(weights)

    # Large batches.

    def losses_in_tiles(
        self, unit_rows: Tensor, keys: Tensor, *, tile_size: int, keeps: bool
    ) -> Tensor:
        """As `losses_within_batch`, tile by tile, of a loss that `has_parts`.

        A second derivative is taken all at once: its memory grows with the square.

        Args:
            unit_rows: (batch, dimension), of static shape.
            keys: (batch, 5).
            tile_size, keeps: as `size` and `keeps` of `Tiles`.

        Returns:
            (batch,).
        """

        def differentiable_gradient(unit_rows, upstream):
            return self.differentiable_gradient_at_once(unit_rows, keys, upstream)

        miner, weighting = self.row_forms
        tiles = Tiles(miner, weighting, self.loss_parts, tile_size, keeps)
        return tiles.losses(unit_rows, keys, self.program, differentiable_gradient)

    def losses_in_blocks(self, unit_rows: Tensor, keys: Tensor) -> Tensor:
        """As `losses_against` the batch itself, in memory linear in it: `block_size` anchors at a
        time.

        Args:
            unit_rows: (batch, dimension).
            keys: (batch, 5).

        Returns:
            (batch,).
        """
        return self._blocks.losses(unit_rows, keys)

    def losses_in_blocks_without_gradient(self, unit_rows: Tensor, keys: Tensor) -> Tensor:
        """The losses of `losses_in_blocks`, not to be differentiated."""
        return self._blocks.losses_without_gradient(unit_rows, keys)

    def program(
        self, function: Callable[..., Any], *arguments: Any, variant: tuple[Any, ...] = ()
    ) -> Any:
        """Calls the function; where chosen, compiled with XLA. `variant` tells functions of one
        name apart."""
        if not self.compiled:
            return function(*arguments)
        name = function.__qualname__, *variant
        if name not in self._programs:
            import tensorflow as tf

            # Traced once for all batch sizes; XLA then compiles a program for each size it meets.
            # Inside a model that is itself compiled with XLA it is inlined. No gradient goes
            # through it: that made XLA take the whole batch for compile-time constants.
            signature = tf.nest.map_structure(
                lambda array: tf.TensorSpec([None] * len(array.shape), array.dtype), arguments
            )
            program = tf.function(function, signature, jit_compile=True, autograph=False)
            self._programs[name] = program.get_concrete_function()
        return self._programs[name](*arguments)
