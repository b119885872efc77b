"""The pairwise part of a loss and its derivative: dense, block by block, against other candidates.

No path differentiates a loss automatically. Each computes the losses of the anchors, and for the
backward pass the closed-form weights G = dL/dS, from which the gradient with respect to the
embeddings is a product or two. With an upstream gradient g per anchor (sample weights) the
weights of anchor i are multiplied by g_i.
"""

import keras
from keras import ops

from keras_ms.pairs import Pairs, pair_masks, row_form


class Pairwise:
    """A miner, a weighting and a loss of pairs, computed together.

    Args:
        pair_loss: function `Pairs -> (anchors,)`.
        weighting: function `Pairs -> (anchors, candidates)`; of a loss that takes the whole batch
            `(Pairs, upstream (anchors,)) -> (anchors, anchors)`, the derivative of the sum of
            upstream times loss.
        miner: function `Pairs -> Pairs`.
        compiled: whether each step is compiled with XLA (TensorFlow backend only).

    Keys are what two items of a class share: (batch, parts) integers or floats of which the last
    column is 0 for items that take part in no pair.
    """

    def __init__(self, pair_loss, weighting, miner, compiled):
        self.pair_loss = pair_loss
        self.weighting = weighting
        self.miner = miner
        self.row_form = row_form(miner), row_form(weighting)
        self._compiled = compiled
        self._programs = {}

    @property
    def is_row_wise(self):
        """Whether (G + G^T) can be computed at once: one product less."""
        return None not in self.row_form

    # One batch against itself, whose similarity matrix is symmetric.

    def symmetric(self, unit, keys):
        """Losses of all anchors against each other; row-wise functions only.

        As S is symmetric, G^T differs from G in whose statistics enter: both are computed element
        by element in one pass, and the gradient is the one product (G + G^T) X.

        Args:
            unit: (batch, dimension).
            keys: (batch, parts).

        Returns:
            (batch,).
        """

        @ops.custom_gradient
        def losses_of(unit):
            similarity = ops.matmul(unit, ops.transpose(unit))
            losses, *statistics = self._program(self._row_losses)(similarity, keys)

            # TensorFlow and JAX call grad(upstream), torch grad(unit, upstream=...)
            def grad(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                both = self._program(self._both_weights)(similarity, keys, upstream, *statistics)
                return ops.matmul(both, unit)

            return losses, grad

        return losses_of(unit)

    def _row_losses(self, similarity, keys):
        miner, weighting = self.row_form
        pairs = _pairs(similarity, keys)
        mining = miner.statistics(pairs)
        mined = miner.entry(pairs, *mining)
        return (self.pair_loss(mined), *mining, *weighting.statistics(mined))

    def _both_weights(self, similarity, keys, upstream, *statistics):
        """diag(g) G + G^T diag(g)."""
        miner, weighting = self.row_form
        pairs = _pairs(similarity, keys)
        rows = ops.expand_dims(upstream, 1), statistics
        columns = ops.expand_dims(upstream, 0), [ops.transpose(s) for s in statistics]
        both = None
        for weight, of_anchor in (rows, columns):
            mining = of_anchor[: miner.num_statistics]
            mined = miner.entry(pairs, *mining)
            entries = weight * weighting.entry(mined, *of_anchor[miner.num_statistics :])
            both = entries if both is None else both + entries
        return both

    # Anchors against candidates that hold them, and more.

    def against(self, anchors, keys, candidates, candidate_keys, offset):
        """Losses of the anchors against the candidates: any separable loss.

        Args:
            anchors: (anchors, dimension).
            keys: (anchors, parts).
            candidates: (candidates, dimension), of which the anchors are neighbouring rows.
            candidate_keys: (candidates, parts).
            offset: index of the first anchor among the candidates.

        Returns:
            (anchors,).
        """

        @ops.custom_gradient
        def losses_of(similarity):
            losses, weights = self._program(self._losses_and_weights)(
                similarity, keys, candidate_keys, offset
            )

            def grad(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                return ops.expand_dims(upstream, 1) * weights

            return losses, grad

        return losses_of(ops.matmul(anchors, ops.transpose(candidates)))

    def _losses_and_weights(self, similarity, keys, candidate_keys, offset):
        mined = self.miner(_pairs(similarity, keys, candidate_keys, offset))
        return self.pair_loss(mined), self.weighting(mined)

    # A loss that takes the batch as a whole.

    def whole_batch(self, rows, keys):
        """Losses of all anchors where an anchor's loss depends on other rows too.

        Args:
            rows: (batch, dimension), of any length: the similarity is their product.
            keys: (batch, parts).

        Returns:
            (batch,).
        """

        @ops.custom_gradient
        def losses_of(similarity):
            losses = self._program(self._batch_losses)(similarity, keys)

            def grad(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                return self._program(self._batch_weights)(similarity, keys, upstream)

            return losses, grad

        return losses_of(ops.matmul(rows, ops.transpose(rows)))

    def _batch_losses(self, similarity, keys):
        return self.pair_loss(self.miner(_pairs(similarity, keys)))

    def _batch_weights(self, similarity, keys, upstream):
        return self.weighting(self.miner(_pairs(similarity, keys)), upstream)

    # Large batches.

    def blocks(self, unit, keys, block_size):
        """As `against` itself, in memory linear in the batch: `block_size` anchors at a time.

        The backward pass computes the similarities of a block again. Of row-wise functions it
        needs one more product, of others two.

        Args:
            unit: (batch, dimension).
            keys: (batch, parts).
            block_size: anchors at a time.

        Returns:
            (batch,).
        """

        @ops.custom_gradient
        def losses_of(unit):
            losses = self._program(self._block_losses, block_size)(unit, keys)

            def grad(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                return self._program(self._block_gradient, block_size)(unit, keys, upstream)

            return losses, grad

        return losses_of(unit)

    def _block_losses(self, unit, keys, block_size):
        size = ops.shape(unit)[0]

        def losses_of(_, block):
            anchors, anchor_keys, offset = block
            similarity = ops.matmul(anchors, ops.transpose(unit))
            pairs = _pairs(similarity, anchor_keys, keys, offset)
            return _, self.pair_loss(self.miner(pairs))

        _, losses = _scan(losses_of, ops.zeros(()), _blocks(block_size, unit, keys))
        return ops.reshape(losses, (-1,))[:size]

    def _block_gradient(self, unit, keys, upstream, block_size):
        size = ops.shape(unit)[0]

        def add_gradient(by_candidates, block):
            anchors, anchor_keys, weights, offset = block
            similarity = ops.matmul(anchors, ops.transpose(unit))
            pairs = _pairs(similarity, anchor_keys, keys, offset)
            by_pair = ops.expand_dims(weights, 1) * self.weighting(self.miner(pairs))
            by_candidates = by_candidates + ops.matmul(ops.transpose(by_pair), anchors)
            return by_candidates, ops.matmul(by_pair, unit)

        by_candidates, by_anchors = _scan(
            add_gradient, ops.zeros_like(unit), _blocks(block_size, unit, keys, upstream)
        )
        return by_candidates + ops.reshape(by_anchors, (-1, unit.shape[1]))[:size]

    def _program(self, function, *static):
        """The function, compiled with XLA if so chosen; `static` are its last arguments."""
        key = (function.__name__, *static)
        if key not in self._programs:
            program = (lambda *args: function(*args, *static)) if static else function
            if self._compiled:
                import tensorflow as tf

                # Traced again for another batch size, at last for all; XLA then compiles a program
                # for each size it meets. Inside a model that is itself compiled with XLA it is
                # inlined. No gradient goes through it: autodiff through a nested compiled function
                # made XLA take the whole batch for compile-time constants.
                program = tf.function(
                    program, jit_compile=True, autograph=False, reduce_retracing=True
                )
            self._programs[key] = program
        return self._programs[key]


def _pairs(similarity, keys, candidate_keys=None, offset=0):
    codes, valid = _codes(keys)
    if candidate_keys is None:
        return Pairs(similarity, *pair_masks(codes, valid))
    return Pairs(similarity, *pair_masks(codes, valid, *_codes(candidate_keys), offset))


def _codes(keys):
    """Four parts of 16 bits as two int32: half of the comparisons of a pair."""
    parts = ops.cast(keys, "int32")
    codes = [
        ops.bitwise_or(parts[:, part], ops.left_shift(parts[:, part + 1], 16)) for part in (0, 2)
    ]
    return ops.stack(codes, axis=1), parts[:, -1] > 0


def _blocks(block_size, *arrays):
    """The arrays cut into blocks of rows, the last one filled with zeros (whose keys make them
    invalid), and the index of each block's first row."""
    size = ops.shape(arrays[0])[0]
    number = (size + block_size - 1) // block_size
    padding = number * block_size - size
    cut = []
    for array in arrays:
        padded = ops.pad(array, [[0, padding]] + [[0, 0]] * (len(array.shape) - 1))
        cut.append(ops.reshape(padded, (number, block_size, *array.shape[1:])))
    return (*cut, ops.arange(number) * block_size)


def _scan(function, initial, blocks):
    if keras.backend.backend() == "torch":  # its scan wants the blocks as one tensor
        total, results = initial, []
        for block in zip(*blocks):
            total, result = function(total, block)
            results.append(result)
        return total, ops.stack(results)
    return ops.scan(function, initial, blocks)
