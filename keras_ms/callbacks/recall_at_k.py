"""Recall@K on held-out images while a model trains."""

import inspect
import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_ms.evaluation.retrieval import Recalls, recall_at_k
from keras_ms.whole_files import whole_file


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

    `best_value`, `best_step` and `history` are never reset: a second `fit` with the same callback
    continues them, and an interrupted run may set them before its own `fit`.

    Args:
        dataset: images and labels to search in one another: a finite `tf.data.Dataset` (or any
            iterable that can be read again, such as a PyDataset) of batches (images, labels), or
            one tuple of arrays (images, labels). Labels: integer class ids.
        ks: the values of K. The first one chooses the best weights. Defaults to (1, 2, 4, 8).
        prefix: begins the names in the logs. Defaults to "val_", Keras's mark for held-out data.
        every_steps: measure after every so many training steps instead of after each epoch; the
            logs of an epoch then carry the latest values. Defaults to None.
        keep_best_weights: keep a copy of the best weights in memory, as `best_weights` (a list of
            arrays for `model.set_weights`). Defaults to False: they double the model's memory.
        weights_path: keep the best weights in this file instead, ending in ".weights.h5", written
            whole or not at all. Defaults to None.
        restore_best_weights: at the end of training, set the best weights again (from
            `weights_path` if given, else from memory). Defaults to False.
        batch_size: images embedded at a time when `dataset` is a tuple of arrays. Defaults to 64:
            enough to keep a processor busy; it changes memory and speed only.
        embedder: model that embeds the images, where the model that is trained goes further than
            the embeddings (`keras_ms.Proxies` after them, or a classifier). It shares its weights
            with the trained model, whose weights are those kept as the best. Defaults to None:
            the trained model embeds.
        at_start: measure before the first step too, as step 0, so that weights which training does
            not improve are found to be the best. Left out where measurements exist already: in a
            second `fit`, or in a run that is continued. Defaults to True.
        images: the ImageList that `dataset` gives in its order, where that says which images are
            queries and which the gallery: queries are then searched among the gallery only.
            Defaults to None: all are searched in one another.
        verbose: 1 prints a line for each measurement. Defaults to 0: the progress bar shows it.

    Attributes:
        history: list of (step, recalls), one entry for each measurement; `recalls` as returned by
            `keras_ms.recall_at_k`.
        best_value: highest recall at the first of `ks`; None before the first measurement.
        best_step: training steps done when it was reached.
        best_weights: see `keep_best_weights`; None without it.

    Raises:
        ValueError: an infinite or single-use dataset, invalid options; in `fit`, batches that are
            not (images, labels), or not those of `images`, a model whose output is not (batch,
            dimension), or labels without any class of two images.

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

    def __init__(
        self,
        dataset,
        ks=(1, 2, 4, 8),
        *,
        prefix="val_",
        every_steps=None,
        keep_best_weights=False,
        weights_path=None,
        restore_best_weights=False,
        batch_size=64,
        embedder=None,
        at_start=True,
        images=None,
        verbose=0,
    ):
        super().__init__()
        if every_steps is not None and every_steps < 1:
            raise ValueError(
                f"Expected `every_steps` of at least 1, or None. Received: {every_steps}"
            )
        if weights_path is not None and not str(weights_path).endswith(".weights.h5"):
            raise ValueError(
                f"Expected a `weights_path` that ends in '.weights.h5'. Received: {weights_path}"
            )
        _check_can_be_read_again(dataset)
        self.dataset = dataset
        self.ks = tuple(ks)
        self.prefix = prefix
        self.every_steps = every_steps
        self.keep_best_weights = keep_best_weights or (restore_best_weights and not weights_path)
        self.weights_path = weights_path
        self.restore_best_weights = restore_best_weights
        self.batch_size = batch_size
        self.embedder = embedder
        self.at_start = at_start
        self.images = images
        self.verbose = verbose
        self.history = []
        self.best_value = None
        self.best_step = None
        self.best_weights = None
        self._step = 0
        self._epoch_started_at = 0
        self._warned_of_nan = False
        if every_steps is not None:
            # Keras waits for each step's logs as soon as one callback has this method: only then
            self.on_train_batch_end = self._measure_every_steps

    @property
    def names(self):
        """Names of the values in the logs, in the order of `ks`."""
        return [f"{self.prefix}recall@{k}" for k in self.ks]

    def on_train_begin(self, logs=None):
        self._warn_about_earlier_callbacks(inspect.currentframe().f_back.f_locals.get("self"))
        if self.at_start and not self.history and self.best_step is None:
            self._count_steps(0)
            self.measure()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_started_at = self._step
        self._count_steps(0)

    def on_epoch_end(self, epoch, logs=None):
        self._count_steps(self.params.get("steps") or 0)
        if self.every_steps is None or not self._measured_in_training():
            self.measure()
        if logs is not None:
            _, latest = self.history[-1]
            logs.update(zip(self.names, (latest[k] for k in self.ks)))

    def on_train_end(self, logs=None):
        if not self.restore_best_weights or self.best_step is None:
            return
        self.load_best_weights()
        if self.verbose:
            print(f"best weights restored: step {self.best_step}")

    def load_best_weights(self):
        """Sets the weights of `best_step`, from `weights_path` if given, else from memory."""
        if self.weights_path is not None:
            with warnings.catch_warnings():
                # weights kept before the first step have no state of the optimizer with them
                warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
                self.model.load_weights(self.weights_path)
        else:
            self.model.set_weights(self.best_weights)

    @property
    def step(self):
        """Training steps done: the optimizer's count, or that of the batches seen."""
        return int(self.model.optimizer.iterations + 0) or self._step

    def measure(self):
        """Embeds the dataset with the current weights and records the recalls.

        Returns:
            The recalls, as `keras_ms.recall_at_k`, also appended to `history`.
        """
        recalls = self.recalls()
        self.history.append((self._step, recalls))
        value = recalls[self.ks[0]]
        # NaN compares as False: a diverged model is never the best
        if not math.isnan(value) and (self.best_value is None or value > self.best_value):
            self.best_value, self.best_step = value, self._step
            self._keep_weights()
        if self.verbose:
            values = ", ".join(f"recall@{k} {recalls[k]:.4f}" for k in self.ks)
            skipped = f" ({recalls.num_skipped} skipped)" if recalls.num_skipped else ""
            print(f"\nstep {self._step}: {values} of {recalls.num_queries} images{skipped}")
        return recalls

    def recalls(self):
        """The recalls of the current weights, as `keras_ms.recall_at_k`; nothing is recorded."""
        return self._recalls(*self._embed())

    def _measured_in_training(self):
        return bool(self.history) and self.history[-1][0] > 0

    def _measure_every_steps(self, batch, logs=None):
        # `batch` jumps by steps_per_execution: a multiple of every_steps may lie within the jump
        before = self._step
        self._count_steps(batch + 1)
        if self._step // self.every_steps > before // self.every_steps:
            self.measure()

    def _count_steps(self, in_epoch):
        # the optimizer's count is saved with a model, so an interrupted run goes on counting;
        # it stays 0 where a train_step uses other optimizers, then batches are counted
        updates = int(self.model.optimizer.iterations + 0)  # + 0 reads a mirrored variable
        self._step = updates or self._epoch_started_at + in_epoch

    def _keep_weights(self):
        if self.keep_best_weights:
            self.best_weights = self.model.get_weights()
        if self.weights_path is not None:
            with whole_file(self.weights_path) as temporary:
                self.model.save_weights(temporary)

    def _embed(self):
        model = self.model if self.embedder is None else self.embedder
        embeddings, labels = [], []
        for batch in _batches(self.dataset, self.batch_size):
            if not isinstance(batch, (tuple, list)) or len(batch) < 2:
                raise ValueError(
                    "Expected `dataset` to give batches (images, labels). Received: "
                    f"{type(batch).__name__}"
                    + (f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else "")
                )
            embedded = _embed_batch(model, batch[0])
            if getattr(embedded, "ndim", None) != 2:
                raise ValueError(
                    "Recall@K needs a model with one output of shape (batch, dimension). "
                    f"Received: {getattr(embedded, 'shape', type(embedded).__name__)}"
                )
            embeddings.append(embedded)
            labels.append(ops.convert_to_numpy(batch[1]).reshape(-1))
        if not embeddings:
            raise ValueError("The `dataset` of RecallAtK is empty: no batch to measure on.")
        return np.concatenate(embeddings), np.concatenate(labels)

    def _recalls(self, embeddings, labels):
        diverged = ~np.isfinite(embeddings).all(axis=1)
        if not diverged.any():
            return recall_at_k(**self._arguments(embeddings, labels), ks=self.ks)
        if not self._warned_of_nan:
            self._warned_of_nan = True
            warnings.warn(
                f"{self.names[0]} is NaN: at step {self._step}, {np.count_nonzero(diverged)} of "
                f"{len(diverged)} embeddings hold NaN or infinity (the first is image "
                f"{np.argmax(diverged)}). Training diverged: lower the learning rate, clip "
                "gradients, or look for a zero vector that is divided by its norm.",
                stacklevel=2,
            )
        return Recalls(dict.fromkeys(self.ks, math.nan), len(labels), 0)

    def _arguments(self, embeddings, labels):
        if self.images is None:
            return {"embeddings": embeddings, "labels": labels}
        if not np.array_equal(labels, self.images.labels):
            raise ValueError(
                "Expected `dataset` to give the images of `images` in their order. Received other "
                f"labels ({len(labels)} of them; the list has {len(self.images)})"
            )
        return self.images.retrieval_arguments(embeddings)

    def _warn_about_earlier_callbacks(self, caller):
        # Keras tells a callback nothing about its neighbours. The list that calls this one is in
        # the caller's frame; without it (a loop of one's own) there is nothing to warn about.
        neighbours = caller.callbacks if isinstance(caller, keras.callbacks.CallbackList) else []
        loggers = (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard)
        for callback in neighbours:
            if callback is self:
                return
            if isinstance(callback, loggers) or getattr(callback, "monitor", None) in self.names:
                warnings.warn(
                    f"{type(callback).__name__} stands before RecallAtK in the list of callbacks "
                    f"and will not see {self.names[0]}: put RecallAtK first.",
                    stacklevel=2,
                )


def _check_can_be_read_again(dataset):
    cardinality = getattr(dataset, "cardinality", None)
    if callable(cardinality) and int(cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise ValueError(
            "RecallAtK measures on a finite dataset. Received one that repeats forever: leave out "
            ".repeat(), or cut it with .take(number_of_batches)."
        )
    if hasattr(dataset, "__next__"):
        raise ValueError(
            f"RecallAtK reads its dataset again for each measurement. Received a "
            f"{type(dataset).__name__}, which can be read once: give a tf.data.Dataset, a list of "
            "batches or a tuple of arrays."
        )


def _batches(dataset, batch_size):
    if not isinstance(dataset, tuple):
        return dataset
    if len(dataset) != 2 or len(dataset[0]) != len(dataset[1]):
        raise ValueError(
            "Expected a tuple of arrays (images, labels) of one length. Received "
            f"{len(dataset)} entries of lengths {[len(entry) for entry in dataset]}"
        )
    images, labels = dataset
    return (
        (images[start : start + batch_size], labels[start : start + batch_size])
        for start in range(0, len(images), batch_size)
    )


def _embed_batch(model, images):
    # tensors of tf.data mean nothing to the other backends
    images = keras.tree.map_structure(lambda x: x if ops.is_tensor(x) else np.asarray(x), images)
    strategy = getattr(model, "distribute_strategy", None)
    if getattr(strategy, "num_replicas_in_sync", 1) > 1:
        # predict_on_batch gives each replica the whole batch and returns its rows repeated
        return model.predict(images, verbose=0)
    return model.predict_on_batch(images)
