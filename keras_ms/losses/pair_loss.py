"""PairLoss: from labels and embeddings as Keras passes them to one loss value per anchor."""

import warnings

import keras
from keras import ops

from keras_ms.pairs import Pairs, pair_masks, unit_length

# A label is carried through Keras's cast to the loss dtype as parts of this many bits, each
# exact in float32 (whose integers are exact up to 2**24).
_BITS_PER_PART = 16

ZERO_LOSS_EXPLANATION = (
    "No anchor of this batch has a mined pair, so the loss and its gradient are 0. That is right "
    "for a batch with one class only or with one image of every class (use "
    "keras_ms.balanced_batches) and for a batch that is already separated by more than the "
    "mining margin; otherwise check that labels and images belong together."
)


class PairLoss(keras.losses.Loss):
    """Computes a pair-based loss over all pairs of a batch.

    The class does what every pair-based loss needs, and takes the loss itself as a function: it
    carries labels exactly, leaves masked items out, normalises the embeddings in the loss's
    dtype, builds the pairs, compiles the pairwise part and returns one value per anchor, which
    Keras weights and reduces.

    Args:
        pair_loss: function `Pairs -> (batch,)`, the loss of every anchor from the mined pairs.
        miner: function `Pairs -> Pairs`, which pairs to keep.
        jit_compile: whether the pairwise part is compiled with XLA where the model is not.
            `True`, `False` or `"auto"`, which means True on the TensorFlow backend (the only one
            whose models run uncompiled) and False elsewhere. Defaults to `"auto"`.
        reduction: as in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`, the mean over
            all anchors of the batch.
        name: name of the loss.
        dtype: dtype of the computation: `"float32"` or `"float64"`, whatever the model's
            precision. Defaults to `"float32"`: an exponent of 40 * similarity needs it.

    Raises:
        ValueError: a dtype of low precision, or labels or embeddings of the wrong kind.
    """

    def __init__(
        self,
        pair_loss,
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
        self._miner = miner
        self._compiled = {}
        self._warned_of_zero = False

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Loss.__call__ casts y_true to the loss dtype, in which large ids collide.
        keys = _label_keys(y_true, self.dtype)
        if not hasattr(y_pred, "shape"):  # nested lists: Keras would take them for many outputs
            y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        mask = getattr(y_pred, "_keras_mask", None)
        if mask is not None:
            # one more part: 1 for items that count, 0 for padding
            valid = ops.cast(ops.reshape(mask, (-1, 1)), keys.dtype)
        else:
            valid = ops.ones_like(keys[:, :1])
        value = super().__call__(ops.concatenate([keys, valid], axis=1), y_pred, sample_weight)
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
        compile_here = self.jit_compile
        if compile_here == "auto":
            compile_here = keras.backend.backend() == "tensorflow"
        if not compile_here or keras.backend.backend() != "tensorflow":
            return self._row_losses(y_true, y_pred)
        return self._compiled_row_losses(y_true.shape[1])(y_true, y_pred)

    def _compiled_row_losses(self, parts):
        # Traced once for all batch sizes; XLA then compiles a program per batch size it meets.
        # Inside a model that is itself compiled with XLA it is inlined.
        if parts not in self._compiled:
            import tensorflow as tf

            self._compiled[parts] = tf.function(
                self._row_losses,
                input_signature=[
                    tf.TensorSpec([None, parts], self.dtype),
                    tf.TensorSpec([None, None], self.dtype),
                ],
                jit_compile=True,
                autograph=False,
            )
        return self._compiled[parts]

    def _row_losses(self, y_true, embeddings):
        valid = y_true[:, -1] > 0
        unit = unit_length(embeddings)
        similarity = ops.matmul(unit, ops.transpose(unit))
        pairs = Pairs(similarity, *pair_masks(y_true[:, :-1], valid))
        losses = self._pair_loss(self._miner(pairs))
        # Every comparison with NaN is false, so mining would drop a broken embedding without a
        # word: its own value stays NaN instead.
        finite = ops.all(ops.isfinite(embeddings), axis=-1)
        visible = ops.logical_or(finite, ops.logical_not(valid))
        return ops.where(visible, losses, ops.full_like(losses, float("nan")))

    def _explain_zero(self, value):
        # Only a concrete value can be looked at, so this speaks where the loss is called eagerly;
        # in fit, the callbacks look at the logged values.
        if self._warned_of_zero or not _is_concrete(value):
            return
        if not keras.ops.convert_to_numpy(value).any():
            self._warned_of_zero = True
            warnings.warn(f"{self.name}: {ZERO_LOSS_EXPLANATION}", stacklevel=3)


def _is_concrete(value):
    if keras.backend.backend() == "tensorflow":
        return hasattr(value, "numpy")
    if keras.backend.backend() == "torch":
        return not value.requires_grad and value.device.type == "cpu"
    return False


def _label_keys(y_true, dtype):
    """Integer labels as (batch, parts) numbers, exact in `dtype`: equal iff all parts are."""
    labels = ops.convert_to_tensor(y_true)
    kind = keras.backend.standardize_dtype(labels.dtype)
    if "int" not in kind and kind != "bool":
        raise ValueError(
            "Expected integer class ids as labels. Received labels of dtype "
            f"{kind}. Convert names or floats to integers (e.g. numpy.unique(..., "
            "return_inverse=True)), the same id for the same class in every batch"
        )
    if len(labels.shape) > 2 or (len(labels.shape) == 2 and labels.shape[1] not in (1, None)):
        raise ValueError(
            "Expected class ids of shape (batch,) or (batch, 1). Received: shape="
            f"{tuple(labels.shape)}. For one-hot labels pass argmax(labels, axis=-1)"
        )
    wide = "64" in kind
    labels = ops.cast(ops.reshape(labels, (-1,)), "int64" if wide or kind == "uint32" else "int32")
    wide = "64" in keras.backend.standardize_dtype(labels.dtype)  # JAX may hold 32 bits only
    parts = [
        ops.bitwise_and(ops.right_shift(labels, shift), 2**_BITS_PER_PART - 1)
        for shift in range(0, 64 if wide else 32, _BITS_PER_PART)
    ]
    return ops.cast(ops.stack(parts, axis=1), dtype)
