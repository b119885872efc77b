"""PairLoss: from labels and embeddings as Keras passes them to one loss value per anchor."""

import functools
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Literal

import keras
from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.pairs import replicas
from keras_ms.pairs.labels import are_valid, label_keys
from keras_ms.pairs.large_batches import BLOCK, goes_in_blocks, tiling
from keras_ms.pairs.mining import mine_all
from keras_ms.pairs.pairwise import Pairwise
from keras_ms.pairs.reductions import reduced_of_none
from keras_ms.pairs.unit_vectors import cast_for_loss, normalised_rows, refuse_complex

# jit_compile="auto" compiles from this batch size on; the class docstring has the measurements
_COMPILE_FROM = 256

_COMMON_OPTIONS = ("block_size", "jit_compile", "reduction", "dtype")

ZERO_LOSS_EXPLANATION = (
    "No anchor of this batch has a mined pair, so the loss and its gradient are 0. That is right "
    "for a batch with one class only or with one image of every class (use "
    "keras_ms.balanced_batches) and for a batch that is already separated by more than the "
    "margin; otherwise check that labels and images belong together."
)


class PairLoss(keras.losses.Loss):
    """Computes a pair-based loss over all pairs of a batch.

    The class does what every pair-based loss needs, and takes the loss itself as functions: it
    carries labels exactly, leaves masked items out, normalises the embeddings in the loss's
    dtype, builds the pairs (across all replicas), compiles the pairwise part and returns one value
    per anchor, which Keras weights and reduces.

    Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning, CVPR 2019, Section 3: a loss by the weights of its pairs.

    Relations: the losses of this library are made of it. Take it for a loss of your own that has a
    value; `WeightedPairLoss` takes a miner and a weighting alone, and its value says nothing.
    `CompositeLoss` adds whole losses up.

    Args:
        pair_loss: function `Pairs -> (anchors,)`, the loss of every anchor from the mined pairs.
        weighting: function `Pairs -> (anchors, candidates)`, the derivative of every anchor's
            loss with respect to its similarities, in closed form. It is the backward pass.
        miner: function `Pairs -> Pairs`, which pairs to keep. Defaults to `mine_all`. Where miner
            and weighting are `keras_ms.pairs.RowWise` functions, the gradient takes one product
            instead of two.
        whole_batch: whether the loss of an anchor depends on other rows than its own. Then
            `weighting` takes `(Pairs, upstream)`, upstream (anchors,), and returns the derivative
            of the sum of upstream times loss; the pairs are square, and the loss takes no
            cross-batch memory and no `block_size`. Defaults to False.
        faster_losses: optional function `(pairwise, rows, keys) -> (batch,)`, read with
            `whole_batch`, that computes the same losses, differentiably, in a faster way from a
            `keras_ms.pairs.pairwise.Pairwise`, the rows and their label keys. Defaults to None.
        margins: optional function `(keys, candidate_keys) -> (anchors, candidates)`, added to the
            similarities of negatives before mining: a margin that depends on the two classes. Keys
            as returned by the method `label_keys`; it is not differentiated. Defaults to None.
        weighting_again: the same derivative in operations that can be differentiated in turn, for
            second derivatives, where `weighting` has others (a loop over positives, a
            `stop_gradient`). Defaults to None: `weighting` itself.
        normalize: whether embeddings are L2-normalised first, so that similarity is cosine.
            Defaults to True; False takes their dot products.
        uses_dimension: whether `pair_loss` and `weighting` also take the keyword `dimension`, the
            size of the embeddings. Defaults to False.
        settings: the loss's own settings by name, which `get_config` returns beside the common
            ones. Defaults to None: none.
        block_size: how many anchors are compared with the batch at a time: memory then grows
            with the batch instead of its square, and the values are the same. A number, None for
            all at once, or `"auto"`: all at once below 8192 items, 256 at a time from there on,
            where the batch size is static (a dynamic one is taken all at once). On a processor,
            a compiled loss whose parts are known (`keras_ms.pairs.row_wise.RowParts`: all but
            triplet losses, hierarchical ones too, and `WeightedPairLoss`) goes in tiles from 1024
            items for each thread on, which takes fewer products. Defaults to `"auto"`.
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

    Inputs of every loss:
        y_true: class ids of any integer dtype, shape (batch,) or (batch, 1). 64-bit ids are told
            apart exactly (on JAX, unless it is set to 64 bits, 32-bit ids are).
        y_pred: embeddings, (batch, dimension), any float dtype; they are normalised inside, unless
            the loss says otherwise.

    Corner cases of every loss:
        - An anchor without a pair has the loss 0, and so, unless the loss says otherwise, has one
          without a positive or without a negative. The mean is over all anchors of the batch
          nevertheless. A loss that is 0 for the whole batch is explained by a warning.
        - The anchor itself is left out by index: an exact duplicate is an ordinary positive.
        - Items masked with a Keras mask are neither anchors nor candidates, and their value is 0.
        - An embedding with a NaN or infinity makes the loss NaN.

    Under tf.distribute each replica compares its own items with those of all replicas, so that
    the loss and its gradient are those of one device on the global batch.

    Second derivatives (gradient penalties, Hessians) are those of the gradient: mined pairs are
    constants, the weights of pairs functions of the similarities.

    Raises:
        ValueError: a dtype of low precision, an unknown option, or labels or embeddings of the
            wrong kind.

    Example, the contrastive loss:

    >>> from keras import ops
    >>> from keras_ms.weighting import contrastive_weights
    >>> def contrastive(pairs):
    ...     push = ops.relu(pairs.similarity - 0.5)
    ...     of_negatives = ops.where(pairs.negative, push, 0.0)
    ...     return ops.sum(ops.where(pairs.positive, 1 - pairs.similarity, of_negatives), axis=-1)
    >>> loss = PairLoss(contrastive, contrastive_weights, name="contrastive")
    >>> embeddings = [[1.0, 0.0], [0.8660254, 0.5], [0.5, 0.8660254]]  # 0, 30, 60 degrees
    >>> round(float(loss([0, 0, 1], embeddings)), 6)
    0.333333
    """

    def __init__(
        self,
        pair_loss: Callable,
        weighting: Callable,
        miner: Callable = mine_all,
        *,
        whole_batch: bool = False,
        faster_losses: Callable | None = None,
        margins: Callable | None = None,
        weighting_again: Callable | None = None,
        normalize: bool = True,
        uses_dimension: bool = False,
        settings: Mapping[str, Any] | None = None,
        block_size: int | Literal["auto"] | None = "auto",
        jit_compile: bool | Literal["auto"] = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
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
        if block_size not in (None, "auto") and not (
            isinstance(block_size, Integral) and int(block_size) > 0 and block_size is not True
        ):
            raise ValueError(
                "Invalid value for argument `block_size`. Expected a positive whole number, None "
                f"or 'auto'. Received: block_size={block_size!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.jit_compile: bool | Literal["auto"] = jit_compile
        self.block_size: int | Literal["auto"] | None = (
            int(block_size) if isinstance(block_size, Integral) else block_size
        )
        self.whole_batch = whole_batch
        self.margins = margins
        self._faster_losses = faster_losses
        self._settings = dict(settings or {})
        self.normalize = normalize
        self._functions = (pair_loss, weighting, miner)
        self._weighting_again = weighting_again
        self._uses_dimension = uses_dimension
        self._pairwise_by_variant = {}
        self._warned_of_zero = False

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        if not hasattr(y_pred, "shape"):  # nested lists: Keras would take them for many outputs
            y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        # Loss.__call__ casts y_true to the loss dtype, in which large ids collide.
        keys = self.label_keys(y_true, y_pred)
        y_pred = cast_for_loss(y_pred, self.dtype)
        value = reduced_of_none(super().__call__(keys, y_pred, sample_weight), self.reduction)
        value = replicas.as_on_one_device(
            value, self.reduction, ops.cast(are_valid(keys), self.dtype), sample_weight
        )
        self._explain_zero(value, sample_weight)
        return value

    def label_keys(self, y_true: Any, y_pred: Tensor) -> Tensor:
        """The label keys (see `keras_ms.pairs.labels`) of a batch, after the Keras mask of the
        embeddings: (batch, 5) of the loss's dtype."""
        check_embeddings(y_pred)
        return label_keys(y_true, self.dtype, embeddings=y_pred)

    def check_known(self, labels: Any, embeddings: Tensor) -> None:
        """Raises ValueError for labels of which the loss knows nothing; most know all.

        Args: as of `label_keys`, with values.
        """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """One value per anchor; `y_true` holds the keys."""
        return self.per_anchor(y_true, y_pred)

    def per_anchor(
        self, keys: Tensor, embeddings: Tensor, memory: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The loss of every anchor, before weighting and reduction.

        Args:
            keys: (batch, 5), of the method `label_keys`.
            embeddings: (batch, dimension).
            memory: optional `(keys, embeddings)` of further candidates, (size, 5) and (size,
                dimension), to pair the anchors with. They are constants: no gradient.

        Returns:
            (batch,) of the loss's dtype. An embedding with a NaN has a value of NaN.
        """
        check_embeddings(embeddings)
        embeddings = cast_for_loss(embeddings, self.dtype)
        if replicas.is_empty_batch(embeddings):
            return ops.sum(embeddings, axis=-1)
        valid = are_valid(keys)
        # padding may hold anything: as zeros, it cannot reach the gradient of the others
        rows = ops.where(ops.expand_dims(valid, 1), embeddings, ops.zeros_like(embeddings))
        rows = normalised_rows(rows) if self.normalize else rows
        losses = self._losses(keys, rows, memory)
        # Every comparison with NaN is false, so mining would drop a broken embedding without a
        # word: its own value stays NaN instead.
        broken = ops.logical_and(valid, ops.any(~ops.isfinite(embeddings), axis=-1))
        return ops.where(broken, ops.full_like(losses, float("nan")), losses)

    def _losses(self, keys, rows, memory):
        size = rows.shape[0]
        pairwise = self.pairwise(rows.shape[1], compiled=self._compiles(size))
        num_replicas = replicas.num_replicas()
        if num_replicas > 1 and memory is None:
            return self._replica_losses(pairwise, keys, rows)
        if self.whole_batch:
            for what, given in (
                ("cross-batch memory", memory is not None),
                ("`block_size`", self.block_size not in (None, "auto")),
            ):
                if given:
                    raise ValueError(self.refusal(what))
            return self._whole_batch_losses(pairwise, rows, keys)
        if memory is not None:
            memory_keys, memory_rows = memory
            memory_rows = ops.stop_gradient(ops.cast(memory_rows, self.dtype))
            memory_rows = normalised_rows(memory_rows) if self.normalize else memory_rows
            candidates = ops.concatenate([rows, memory_rows])
            candidate_keys = ops.concatenate([keys, ops.cast(memory_keys, keys.dtype)])
            return pairwise.losses_against(rows, keys, candidates, candidate_keys, 0)
        tiles = tiling(size, self.block_size, pairwise)
        if tiles is not None:
            return pairwise.losses_in_tiles(rows, keys, **tiles._asdict())
        if goes_in_blocks(size, self.block_size):
            return pairwise.losses_in_blocks(rows, keys)
        if pairwise.is_row_wise:
            return pairwise.losses_within_batch(rows, keys)
        return pairwise.losses_against(rows, keys, rows, keys, 0)

    def _replica_losses(self, pairwise, keys, rows):
        batch = replicas.gather(rows, keys)
        size = ops.shape(rows)[0]
        if self.whole_batch:
            losses = self._whole_batch_losses(pairwise, batch.embeddings, batch.keys)
            losses = ops.slice(losses, (batch.offset,), (size,))
        else:
            losses = pairwise.losses_against(rows, keys, batch.embeddings, batch.keys, batch.offset)
        return losses

    def _whole_batch_losses(self, pairwise, rows, keys):
        if self._faster_losses is not None:
            return self._faster_losses(pairwise, rows, keys)
        return pairwise.losses_of_whole_batch(rows, keys)

    def pairwise(self, dimension: int | None, *, compiled: bool = False) -> Pairwise:
        """The `keras_ms.pairs.pairwise.Pairwise` of this loss for embeddings of this size.

        Raises:
            ValueError: an open size (None) that the loss needs.
        """
        if self._uses_dimension and dimension is None:
            raise ValueError(
                f"{type(self).__name__} depends on the size of the embeddings. Expected embeddings "
                "(batch, dimension) of a known dimension. Received: shape=(batch, None). In a "
                "tf.function say it by embeddings.set_shape((None, dimension)), in a tf.data "
                "pipeline by tf.ensure_shape"
            )
        pair_loss, weighting, miner = self._functions
        variant = (dimension if self._uses_dimension else None, compiled)
        if variant not in self._pairwise_by_variant:
            if self._uses_dimension:
                pair_loss = functools.partial(pair_loss, dimension=dimension)
                weighting = functools.partial(weighting, dimension=dimension)
            self._pairwise_by_variant[variant] = Pairwise(
                pair_loss,
                weighting,
                miner,
                compiled,
                block_size=BLOCK if self.block_size == "auto" else self.block_size,
                margins=self.margins,
                differentiable_weighting=self._weighting_again,
            )
        return self._pairwise_by_variant[variant]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "block_size": self.block_size,
            "jit_compile": self.jit_compile,
            "dtype": self.dtype,
            **self._settings,
        }

    def refusal(self, what: str) -> str:
        """Why a loss that takes the whole batch does not go with `what`, and what to do."""
        return (
            f"{type(self).__name__} takes no {what}: an anchor's loss depends on the other rows of "
            "its batch. Use a loss that is separable by anchor, such as MultiSimilarityLoss"
        )

    def _compiles(self, batch_size):
        if keras.backend.backend() != "tensorflow":
            return False
        if self.jit_compile != "auto":
            return self.jit_compile
        import tensorflow as tf

        # XLA and tf.distribute do not go together
        large = batch_size is not None and batch_size >= _COMPILE_FROM
        return large and not tf.distribute.has_strategy()

    def _explain_zero(self, value, sample_weight):
        # Only a concrete value can be looked at, so this speaks where the loss is called eagerly;
        # in fit, the callbacks look at the logged values.
        if self._warned_of_zero or not is_concrete(value):
            return
        # weights of 0 make a 0 of any loss
        unweighted = sample_weight is None or ops.convert_to_numpy(sample_weight).any()
        if unweighted and not ops.convert_to_numpy(value).any():
            self._warned_of_zero = True
            warnings.warn(f"{self.name}: {ZERO_LOSS_EXPLANATION}", stacklevel=3)


def checked_options(
    loss: PairLoss, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What a loss passes on to `PairLoss` beside its functions: its settings and known options.

    What else `PairLoss` takes is part of a loss and not its user's choice.

    Args:
        loss: the instance that is being made.
        settings: its own settings by name.
        options: what its user gave beside them.

    Returns:
        dict.

    Raises:
        ValueError: an unknown option; the message names the loss's settings.
    """
    unknown = sorted(set(options) - set(_COMMON_OPTIONS))
    if unknown:
        raise ValueError(
            f"Unknown settings of {type(loss).__name__}: {', '.join(unknown)}. Expected some of "
            f"{', '.join([*settings, 'name', *_COMMON_OPTIONS])}"
        )
    return {**options, "settings": settings}


def check_embeddings(embeddings: Tensor) -> None:
    """Raises ValueError for a tensor that is not (batch, dimension), or of complex numbers."""
    refuse_complex(embeddings)
    shape = embeddings.shape
    # TensorFlow knows tensors of unknown rank, whose shape has no length
    if getattr(shape, "rank", 0) is None or len(shape) != 2:
        received = shape if getattr(shape, "rank", 0) is None else tuple(shape)
        raise ValueError(
            f"Expected embeddings of shape (batch, dimension). Received: shape={received}"
        )


def is_concrete(value: Tensor) -> bool:
    """Whether the value of a tensor is there to be looked at, as it is eagerly."""
    if keras.backend.backend() == "tensorflow":
        return hasattr(value, "numpy")
    if keras.backend.backend() == "torch":
        return not value.requires_grad and value.device.type == "cpu"
    return False
