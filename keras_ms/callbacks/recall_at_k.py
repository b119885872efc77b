"""Recall@K on held-out images while a model trains."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_ms.arguments import real_number, type_in_words, whole_number
from keras_ms.callbacks.keep_best_weights import KeepBestWeights
from keras_ms.callbacks.one_model import check_same_model, embedder_of
from keras_ms.callbacks.training_steps import TrainingSteps, optimizer_steps
from keras_ms.callbacks.validation_set import ValidationSet
from keras_ms.evaluation.embed import embed_batches
from keras_ms.evaluation.retrieval import Recalls, checked_ks, recall_at_k
from keras_ms.pairs.replicas import num_data_parts

if TYPE_CHECKING:
    from keras_ms.data.image_list import ImageList


class RecallAtK(keras.callbacks.Callback):
    """Measures Recall@K during `fit` and puts it into the logs, as `val_recall@1` and so on.

    The loss of an embedding says little about retrieval; this does. Put it **first** in the list
    of callbacks: those after it (EarlyStopping, ModelCheckpoint, CSVLogger, TensorBoard, the
    progress bar) then find its values in the logs. Give those that choose by it `mode="max"`.

    Images are embedded with `training=False`, and labels come from the same pass, so a dataset
    that shuffles is measured rightly too. The embedding function is compiled as the model is
    (eager, graph or XLA); under a distribution strategy each batch is shared by the replicas.

    Where the embeddings hold NaN or infinity, training has diverged: the recalls are then logged
    as NaN, with one warning that counts the rows, and the run goes on for its own callbacks
    (TerminateOnNaN, EarlyStopping) to end.

    Steps are batches trained on, counted over all fits of the callback; a run that is continued
    goes on from the optimizer's count (docs/callbacks.md).

    `best_value`, `best_step` and `history` are never reset: a second `fit` of the same model with
    the same callback continues them, and an interrupted run may set them before its own `fit`. They
    belong to what was measured: for another model make a new callback.

    To keep the best weights put `keras_ms.KeepBestWeights(recall)` behind it. The arguments
    `keep_best_weights`, `weights_path` and `restore_best_weights`, the attribute `best_weights` and
    `load_best_weights()` do what its `in_memory`, `path`, `restore`, `weights` and `load()` do;
    they are deprecated.

    Relations: `keras_ms.recall_at_k` gives the same figures for embeddings that are there;
    `keras_ms.MinedAnchors` and `keras_ms.PairStatistics` look at training batches and cannot tell
    whether unseen classes are found. `KeepBestWeights` and `InterpolateWeights` choose by its
    figures.

    Args:
        dataset: images and labels to search in one another: a finite `tf.data.Dataset` (or any
            iterable that can be read again, such as a PyDataset) of batches (images, labels), or
            one tuple of arrays (images, labels). Images: what the model takes, dicts too. Labels:
            integer class ids, (batch,) or (batch, 1). One that does not know its length is read
            up to 200,000 images, or until it begins again.
        ks: the values of K. Of the first one the best is known. Defaults to (1, 2, 4, 8).
        prefix: begins the names in the logs. Defaults to "val_", Keras's mark for held-out data.
        every_steps: measure after every so many training steps instead of after each epoch; the
            logs of an epoch then carry the latest values. Defaults to None.
        keep_best_weights, weights_path, restore_best_weights: deprecated, see above.
        batch_size: images embedded at a time when `dataset` is a tuple of arrays. Defaults to 64:
            enough to keep a processor busy; it changes memory and speed only.
        embedder: model that embeds the images, where the model that is trained goes further than
            the embeddings (`keras_ms.Proxies` after them, or a classifier). It shares its weights
            with the trained model. Defaults to None: the trained model embeds.
        at_start: measure before the first step too, as step 0, so that weights which training does
            not improve are found to be the best. Left out where measurements exist already: in a
            second `fit`, or in a run that is continued. A mapping from each of `ks` to the recall
            of the start, 0 to 1, is taken for it: nothing is embedded then. Defaults to True.
        images: the ImageList that `dataset` gives in its order, where that says which images are
            queries and which the gallery: queries are then searched among the gallery only.
            Defaults to None: all are searched in one another.
        verbose: 1 prints a line for each measurement. Defaults to 0: the progress bar shows it.

    Attributes:
        history: list of (step, recalls), one entry for each measurement; `recalls` as returned by
            `keras_ms.recall_at_k`.
        best_value: highest recall at the first of `ks`; None before the first measurement.
        best_step: training steps done when it was reached.

    Raises:
        ValueError: an infinite or single-use dataset, invalid options; before the first epoch,
            batches that are not (images, labels), or labels that are no class ids (one-hot, names,
            those of several outputs), or another model than the one whose measurements it holds;
            with the first measurement, images that are not those of
            `images`, a model whose output is not (batch, dimension), or labels without any class
            of two images.

    Example:
        >>> images = np.random.rand(16, 8).astype("float32")
        >>> labels = np.repeat([0, 1, 2, 3], 4)
        >>> model = keras.Sequential([keras.layers.Dense(4)])
        >>> model.compile("adam", "mse")
        >>> recall = RecallAtK((images, labels), ks=(1, 2))
        >>> history = model.fit(images, np.zeros((16, 4)), callbacks=[recall], verbose=0)
        >>> sorted(history.history)
        ['loss', 'val_recall@1', 'val_recall@2']
    """

    # set by Keras before training begins
    model: Any
    params: Any

    def __init__(
        self,
        dataset: Any,
        ks: Sequence[int] = (1, 2, 4, 8),
        *,
        prefix: str = "val_",
        every_steps: int | None = None,
        keep_best_weights: bool = False,
        weights_path: str | Path | None = None,
        restore_best_weights: bool = False,
        batch_size: int = 64,
        embedder: keras.Model | None = None,
        at_start: bool | Mapping[int, float] = True,
        images: "ImageList | None" = None,
        verbose: int = 0,
    ):
        super().__init__()
        if every_steps is not None:
            every_steps = whole_number("every_steps", every_steps)
        self.dataset = dataset
        self.ks = tuple(checked_ks(ks))
        at_start = _checked_start(at_start, self.ks)
        if embedder is not None and not isinstance(embedder, keras.Model):
            raise ValueError(
                "Expected `embedder` as the keras.Model that embeds the images, or None for the "
                f"one that is trained. Received: {embedder!r}"
            )
        if images is not None and not hasattr(images, "retrieval_arguments"):
            raise ValueError(
                "Expected `images` as the keras_ms.ImageList that `dataset` gives in its order, or "
                f"None. Received: {type_in_words(images)}"
            )
        self.prefix = prefix
        self.every_steps = every_steps
        self.batch_size = whole_number("batch_size", batch_size)
        self._validation = ValidationSet(dataset, self.batch_size)
        self.embedder = embedder
        self.at_start = at_start
        self.images = images
        self.verbose = verbose
        self.history: list[tuple[int, Recalls]] = []
        self.best_value: float | None = None
        self.best_step: int | None = None
        self.awaits_first_epoch = False
        self.keeper: KeepBestWeights | None = None
        self._steps = TrainingSteps()
        self._labels: np.ndarray | None = None
        self._warned_of_nan = False
        if every_steps is not None:
            # Keras waits for each step's logs as soon as one callback has this method: only then
            self.on_train_batch_end = self._measure_every_steps
        if keep_best_weights or restore_best_weights or weights_path is not None:
            warnings.warn(
                "keep_best_weights, weights_path and restore_best_weights of RecallAtK go with the "
                "next version: put keras_ms.KeepBestWeights(recall) behind it",
                DeprecationWarning,
                stacklevel=2,
            )
            self.keeper = KeepBestWeights(
                self,
                weights_path,
                in_memory=keep_best_weights,
                restore=restore_best_weights,
                verbose=verbose,
            )

    @property
    def names(self) -> list[str]:
        """Names of the values in the logs, in the order of `ks`."""
        return [f"{self.prefix}recall@{k}" for k in self.ks]

    @property
    def labels(self) -> np.ndarray:
        """Class ids of the images, in the order in which they were read last."""
        if self._labels is None:
            self._labels = np.concatenate([labels for _, labels in self._validation.batches()])
        return self._labels

    def set_model(self, model: keras.Model) -> None:
        if self.model is not None:
            before, now = embedder_of(self, self.model), embedder_of(self, model)
            if self.history or self.best_step is not None:
                check_same_model(self, before, now, "measurements")
            elif before is not now:
                # of a fit that ended before the first measurement
                self._steps = TrainingSteps()
        super().set_model(model)
        if self.keeper:
            self.keeper.set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._validation.check()
        self.awaits_first_epoch = True
        if self.keeper:
            self.keeper.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.awaits_first_epoch:
            # not before: callbacks that restore a model do so when training begins
            self.awaits_first_epoch = False
            self._steps.begin_fit(self.model, epoch, self.params.get("steps"))
            if self.keeper:
                self.keeper.restore_best_of_file(epoch)
            if self.at_start is not False and not self.history and self.best_step is None:
                self._measure_start()
        self._steps.begin_epoch(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps.end_epoch(self.model, self.params.get("steps"))
        if self.every_steps is None or not self._measured_in_training():
            self.measure()
        if logs is not None:
            _, latest = self.history[-1]
            logs.update(zip(self.names, (latest[k] for k in self.ks)))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.keeper:
            self.keeper.on_train_end(logs)

    @property
    def best_weights(self) -> list[np.ndarray] | None:
        """Deprecated: `KeepBestWeights.weights`."""
        return self.keeper.weights if self.keeper else None

    def load_best_weights(self) -> None:
        """Deprecated: `KeepBestWeights.load`."""
        if self.keeper is None:
            raise ValueError(
                "RecallAtK keeps no weights: put keras_ms.KeepBestWeights(recall) behind it"
            )
        self.keeper.load()

    @property
    def step(self) -> int:
        """Training steps done: batches of all fits, never fewer than the optimizer's."""
        return max(self._steps.done, optimizer_steps(self.model))

    def count_from(self, step: int) -> None:
        """Takes how many steps were trained before, where no `fit` follows that would tell it.

        Args:
            step: batches of all fits so far.
        """
        self._steps.done = max(self._steps.done, step)

    def measure(self) -> Recalls:
        """Embeds the dataset with the current weights and records the recalls.

        Returns:
            The recalls, as `keras_ms.recall_at_k`, also appended to `history`.
        """
        if keras.backend.backend() == "jax":
            # within an epoch Keras holds the weights outside of the model
            self.model.jax_state_sync()
        return self._record(self.recalls())

    def _measure_start(self):
        if not isinstance(self.at_start, Mapping):
            self.measure()
            return
        labels = self.labels if self.images is None else self.images.labels
        _, counts = np.unique(labels, return_counts=True)
        known = {k: self.at_start[k] for k in self.ks}
        self._record(Recalls(known, len(labels), int(np.count_nonzero(counts == 1))))

    def _record(self, recalls):
        self.history.append((self._steps.done, recalls))
        value = recalls[self.ks[0]]
        # NaN compares as False: a diverged model is never the best
        if not math.isnan(value) and (self.best_value is None or value > self.best_value):
            self.best_value, self.best_step = value, self._steps.done
        if self.keeper:
            self.keeper.keep()
        if self.verbose:
            values = ", ".join(f"recall@{k} {recalls[k]:.4f}" for k in self.ks)
            skipped = f" ({recalls.num_skipped} skipped)" if recalls.num_skipped else ""
            step = f"\nstep {self._steps.done}"
            print(f"{step}: {values} of {recalls.num_queries} images{skipped}")
        return recalls

    def recalls(self) -> Recalls:
        """The recalls of the current weights, as `keras_ms.recall_at_k`; nothing is recorded."""
        return self._recalls(*self._embed())

    def _measured_in_training(self):
        return bool(self.history) and self.history[-1][0] > 0

    def _measure_every_steps(self, batch, logs=None):
        every, before = self.every_steps or 1, self._steps.done
        # `batch` jumps by steps_per_execution: a multiple of every_steps may lie within the jump
        in_epoch = batch + 1
        self._steps.see(min(in_epoch, self.params.get("steps") or in_epoch))
        if self._steps.done // every > before // every:
            self.measure()

    def _embed(self):
        model = self.model if self.embedder is None else self.embedder
        of_batches = []

        def batches():
            for images, ids in self._validation.batches():
                of_batches.append(ids)
                yield images

        # on several devices of JAX predict_on_batch would compute the whole batch on each
        shares = num_data_parts() > 1
        embed = model if shares else lambda images: _embed_batch(model, images)
        embeddings = embed_batches(embed, batches())
        self._labels = np.concatenate(of_batches)
        return embeddings, self._labels

    def _recalls(self, embeddings, labels):
        diverged = ~np.isfinite(embeddings).all(axis=1)
        if not diverged.any():
            return recall_at_k(**self._arguments(embeddings, labels), ks=self.ks)
        if not self._warned_of_nan:
            self._warned_of_nan = True
            warnings.warn(
                f"{self.names[0]} is NaN: at step {self._steps.done}, "
                f"{np.count_nonzero(diverged)} of {len(diverged)} embeddings hold NaN or infinity "
                f"(the first is image {np.argmax(diverged)}). Training diverged: lower the "
                "learning rate, clip gradients, or look for a zero vector that is divided by its "
                "norm.",
                stacklevel=2,
            )
        return Recalls(dict.fromkeys(self.ks, math.nan), len(labels), 0)

    def _arguments(self, embeddings, labels) -> dict[str, Any]:
        if self.images is None:
            return {"embeddings": embeddings, "labels": labels}
        if not np.array_equal(labels, self.images.labels):
            raise ValueError(
                "Expected `dataset` to give the images of `images` in their order. Received other "
                f"labels ({len(labels)} of them; the list has {len(self.images)})"
            )
        return self.images.retrieval_arguments(embeddings)


def _checked_start(at_start, ks):
    if isinstance(at_start, (bool, np.bool_)):
        return bool(at_start)
    if not isinstance(at_start, Mapping) or not set(ks) <= set(at_start):
        raise ValueError(
            f"Expected `at_start` with the recall of each of ks={ks}, or True or False. Received: "
            f"{dict(at_start) if isinstance(at_start, Mapping) else at_start!r}"
        )
    why = "a share, not a percentage"
    return {
        k: real_number(f"at_start[{k}]", value, least=0, most=1, reason=why)
        for k, value in at_start.items()
    }


def _embed_batch(model, images):
    # tensors of tf.data mean nothing to the other backends
    images = keras.tree.map_structure(lambda x: x if ops.is_tensor(x) else np.asarray(x), images)
    strategy = getattr(model, "distribute_strategy", None)
    if getattr(strategy, "num_replicas_in_sync", 1) > 1:
        # predict_on_batch gives each replica the whole batch and returns its rows repeated
        return model.predict(images, verbose=0)
    return model.predict_on_batch(images)
