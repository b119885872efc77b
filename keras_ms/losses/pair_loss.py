"""PairLoss: from labels and embeddings as Keras passes them to one loss value per anchor."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_ms.pairs import Pairs, pair_masks, unit_length

# A label is carried through Keras's cast to the loss dtype as four parts of 16 bits, each exact in
# float32 (whose integers are exact up to 2**24).
_BITS_PER_PART = 16
_PARTS = 4

# jit_compile="auto" compiles from this batch size on; the class docstring has the measurements
_COMPILE_FROM = 256

ZERO_LOSS_EXPLANATION = (
    "No anchor of this batch has a mined pair, so the loss and its gradient are 0. That is right "
    "for a batch with one class only or with one image of every class (use "
    "keras_ms.balanced_batches) and for a batch that is already separated by more than the "
    "mining margin; otherwise check that labels and images belong together."
)


class PairLoss(keras.losses.Loss):
    """Computes a pair-based loss over all pairs of a batch.

    The class does what every pair-based loss needs, and takes the loss itself as functions: it
    carries labels exactly, leaves masked items out, normalises the embeddings in the loss's
    dtype, builds the pairs, compiles the pairwise part and returns one value per anchor, which
    Keras weights and reduces.

    Args:
        pair_loss: function `Pairs -> (anchors,)`, the loss of every anchor from the mined pairs.
        weighting: function `Pairs -> (anchors, candidates)`, the derivative of every anchor's
            loss with respect to its similarities, in closed form. It is the backward pass.
        miner: function `Pairs -> Pairs`, which pairs to keep.
        jit_compile: whether the pairwise part is compiled with XLA where the model is not.
            `True`, `False` or `"auto"`: True on the TensorFlow backend (the only one whose
            models run uncompiled), outside tf.distribute, for batches whose size is static and
            at least 256. Defaults to `"auto"`: compiled, a step on 2 processor cores was 0.93
            times as fast at batch 80 and 160, 1.05 at 240, 1.2 at 400 and 1.3 at 1024
            (scripts/benchmarks/loss_step.py times 80 and 1024).
        reduction: as in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`, the mean over
            all anchors of the batch.
        name: name of the loss.
        dtype: dtype of the computation: `"float32"` or `"float64"`, whatever the model's
            precision. Defaults to `"float32"`: an exponent of 40 * similarity needs it.

    Under tf.distribute every replica sees its own part of the batch: pairs are formed within a
    replica, not across replicas.

    Raises:
        ValueError: a dtype of low precision, or labels or embeddings of the wrong kind.
    """

    def __init__(
        self,
        pair_loss,
        weighting,
        miner,
        jit_compile="auto",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        dtype = keras.dtype_policies.get(dtype or "float32").compute_dtype
        if dtype not in ("float32", "float64"):
            raise ValueError(
                "Pair losses are computed in float32 or float64; embeddings of any float dtype "
                f"are cast first. Received: dtype={dtype!r}. Leave `dtype` unset"
            )
        if jit_compile not in (True, False, "auto"):
            raise ValueError(
                "Invalid value for argument `jit_compile`. Expected one of True, False, 'auto'. "
                f"Received: jit_compile={jit_compile!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.jit_compile = jit_compile
        self._pair_loss = pair_loss
        self._weighting = weighting
        self._miner = miner
        self._compiled = None
        self._warned_of_zero = False

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Loss.__call__ casts y_true to the loss dtype, in which large ids collide.
        parts = exact_label_parts(y_true, self.dtype)
        if not hasattr(y_pred, "shape"):  # nested lists: Keras would take them for many outputs
            y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        mask = getattr(y_pred, "_keras_mask", None)
        if mask is None:
            valid = ops.ones_like(parts[:, :1])
        else:
            valid = ops.cast(ops.reshape(mask, (-1, 1)), parts.dtype)
        value = super().__call__(ops.concatenate([parts, valid], axis=1), y_pred, sample_weight)
        self._explain_zero(value)
        return value

    def call(self, y_true, y_pred):
        """One value per anchor; `y_true` holds the exact label parts and a last column `valid`."""
        if len(y_pred.shape) != 2:
            raise ValueError(
                "Expected embeddings of shape (batch, dimension). Received: "
                f"shape={tuple(y_pred.shape)}"
            )
        if None not in (y_true.shape[0], y_pred.shape[0]) and y_true.shape[0] != y_pred.shape[0]:
            raise ValueError(
                "Expected one label per embedding. Received: "
                f"{y_true.shape[0]} labels and {y_pred.shape[0]} embeddings"
            )
        label_parts, valid = y_true[:, :-1], y_true[:, -1] > 0
        # padding may hold anything: as zeros, it cannot reach the gradient of the others
        embeddings = ops.where(ops.expand_dims(valid, 1), y_pred, ops.zeros_like(y_pred))
        compiled = self._compiles(batch_size=y_pred.shape[0])
        pairwise = self._compiled_pairwise() if compiled else self._pairwise

        # The backward pass of a pair-based loss is its weighting: autodiff handles only the
        # similarities (two products with the embeddings) and the normalisation. One product with
        # G + G^T would do, but under XLA on a CPU that transpose costs as much as the product.
        @ops.custom_gradient
        def from_similarity(similarity):
            losses, weights = pairwise(similarity, label_parts, valid)

            # TensorFlow and JAX call grad(upstream), torch grad(similarity, upstream=...)
            def grad(*args, upstream=None):
                per_anchor = args[0] if upstream is None else upstream
                return ops.expand_dims(per_anchor, 1) * weights

            return losses, grad

        unit = unit_length(embeddings)
        losses = from_similarity(ops.matmul(unit, ops.transpose(unit)))
        # Every comparison with NaN is false, so mining would drop a broken embedding without a
        # word: its own value stays NaN instead.
        finite = ops.all(ops.isfinite(embeddings), axis=-1)
        return ops.where(finite, losses, ops.full_like(losses, float("nan")))

    def _pairwise(self, similarity, label_parts, valid):
        mined = self._miner(Pairs(similarity, *pair_masks(label_parts, valid)))
        return self._pair_loss(mined), self._weighting(mined)

    def _compiles(self, batch_size):
        if keras.backend.backend() != "tensorflow":
            return False
        if self.jit_compile != "auto":
            return self.jit_compile
        import tensorflow as tf

        # XLA and tf.distribute do not go together
        large = batch_size is not None and batch_size >= _COMPILE_FROM
        return large and not tf.distribute.has_strategy()

    def _compiled_pairwise(self):
        if self._compiled is None:
            import tensorflow as tf

            # Traced once for all batch sizes; XLA then compiles a program per batch size it
            # meets. Inside a model that is itself compiled with XLA it is inlined. No gradient
            # goes through it: that made XLA take the whole batch for compile-time constants.
            self._compiled = tf.function(
                self._pairwise,
                input_signature=[
                    tf.TensorSpec([None, None], self.dtype),
                    tf.TensorSpec([None, _PARTS], self.dtype),
                    tf.TensorSpec([None], "bool"),
                ],
                jit_compile=True,
                autograph=False,
            )
        return self._compiled

    def _explain_zero(self, value):
        # Only a concrete value can be looked at, so this speaks where the loss is called eagerly;
        # in fit, the callbacks look at the logged values.
        if self._warned_of_zero or not _is_concrete(value):
            return
        if not ops.convert_to_numpy(value).any():
            self._warned_of_zero = True
            warnings.warn(f"{self.name}: {ZERO_LOSS_EXPLANATION}", stacklevel=3)


def _is_concrete(value):
    if keras.backend.backend() == "tensorflow":
        return hasattr(value, "numpy")
    if keras.backend.backend() == "torch":
        return not value.requires_grad and value.device.type == "cpu"
    return False


def _averaged_over_replicas(labels):
    # Under a tf.distribute strategy Keras builds the model with placeholders shaped like the mean
    # of the replicas' batches, labels included. Those floats never reach a step.
    if keras.backend.backend() != "tensorflow" or _is_concrete(labels):
        return False
    import tensorflow as tf

    return tf.distribute.has_strategy() and tf.distribute.in_cross_replica_context()


def exact_label_parts(y_true, dtype="float32"):
    """Integer labels as numbers that no cast to `dtype` can confuse.

    Args:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1).
        dtype: a float dtype of at least 32 bits.

    Returns:
        (batch, 4) of dtype `dtype`: 16 bits of the 64-bit id each. Two labels are equal iff all
        their parts are.

    Raises:
        ValueError: labels that are not integers, or not one per item.
    """
    labels = ops.convert_to_tensor(y_true if hasattr(y_true, "shape") else np.asarray(y_true))
    kind = keras.backend.standardize_dtype(labels.dtype)
    if not keras.backend.is_int_dtype(kind) and not _averaged_over_replicas(labels):
        raise ValueError(
            f"Expected integer class ids as labels. Received: labels of dtype {kind} and shape "
            f"{tuple(labels.shape)}. Convert names or floats to integers, the same id for the "
            "same class in every batch; for one-hot labels pass argmax(labels, axis=-1)"
        )
    if len(labels.shape) not in (1, 2) or tuple(labels.shape[1:]) not in ((), (1,), (None,)):
        raise ValueError(
            "Expected class ids of shape (batch,) or (batch, 1). Received: shape="
            f"{tuple(labels.shape)}. For one-hot labels pass argmax(labels, axis=-1)"
        )
    # where 64-bit integers do not exist (JAX by default) the upper parts repeat the sign
    labels = ops.cast(ops.reshape(labels, (-1,)), "int64")
    parts = [
        ops.bitwise_and(ops.right_shift(labels, part * _BITS_PER_PART), 2**_BITS_PER_PART - 1)
        for part in range(_PARTS)
    ]
    return ops.cast(ops.stack(parts, axis=1), dtype)
