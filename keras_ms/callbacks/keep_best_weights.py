"""The weights of the highest Recall@K, kept while a model trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_ms.callbacks.kept_weights import (
    BestWeightsNote,
    check_same_measure,
    labels_digest,
    load_kept,
    read_kept,
    save_kept,
    weights_of_file,
)
from keras_ms.callbacks.one_model import check_same_model
from keras_ms.callbacks.training_steps import optimizer_steps

if TYPE_CHECKING:
    from keras_ms.callbacks.recall_at_k import RecallAtK


class KeepBestWeights(keras.callbacks.Callback):
    """Keeps the weights that reached the highest Recall@K, in a file or in memory.

    Keras's ModelCheckpoint sees the end of an epoch; this sees every measurement of a `RecallAtK`,
    that before the first step and those of its `every_steps` too, so that weights which training
    does not improve are found to be the best. Put it behind its `RecallAtK` in the list of
    callbacks.

    The file says what its weights reached: in another process a run goes on with it, and it is not
    replaced by worse weights, where `fit` begins at an epoch above 0 or with an optimizer that has
    counted steps, as `keras.callbacks.BackupAndRestore` and `initial_epoch` have it. Any other fit
    begins anew and replaces the file.

    Relations: it chooses among the steps; `keras_ms.InterpolateWeights` chooses afterwards among
    these and the weights between the start and the end, and `keras_ms.WithAveragedWeights` has both
    see the average over steps.

    Args:
        recall: the `keras_ms.RecallAtK` of the same `fit`. Its first K decides.
        path: file that ends in ".weights.h5", written whole or not at all. Defaults to None: the
            weights are kept in memory, as `weights`.
        in_memory: keep them in memory beside the file too. Defaults to False: they double the
            model's memory.
        restore: at the end of training, set the best weights again. Defaults to False.
        verbose: 1 prints which step was restored. Defaults to 0.

    Attributes:
        weights: list of arrays for `model.set_weights`; None without a copy in memory, and before
            the first measurement.

    Raises:
        ValueError: a `recall` of another kind; another ending of `path`; another model than the one
            whose weights it holds; before the first step, a list of callbacks in which `recall`
            does not stand before this one, and in a run that is continued a file whose weights were
            chosen by another K or other images.

    Example:
        >>> images = np.random.rand(16, 8).astype("float32")
        >>> labels = np.repeat([0, 1, 2, 3], 4)
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("adam", "mse")
        >>> recall = RecallAtK((images, labels), ks=(1, 2))
        >>> best = KeepBestWeights(recall, restore=True)
        >>> history = model.fit(images, np.zeros((16, 4)), callbacks=[recall, best], verbose=0)
        >>> recall.recalls()[1] == recall.best_value
        True
    """

    # set by Keras before training begins
    model: Any

    def __init__(
        self,
        recall: "RecallAtK",
        path: str | Path | None = None,
        *,
        in_memory: bool = False,
        restore: bool = False,
        verbose: int = 0,
    ):
        super().__init__()
        # not at the top: that module imports this one
        from keras_ms.callbacks.recall_at_k import RecallAtK

        if not isinstance(recall, RecallAtK):
            raise ValueError(
                "Expected `recall` as the keras_ms.RecallAtK that measures in the same fit: "
                "recall = RecallAtK(dataset), then callbacks=[recall, KeepBestWeights(recall)]. "
                f"Received: {recall!r}"
            )
        if path is not None and not str(path).endswith(".weights.h5"):
            raise ValueError(f"Expected a `path` that ends in '.weights.h5'. Received: {path}")
        self.recall = recall
        self.path = path
        self.in_memory = in_memory or path is None
        self.restore = restore
        self.verbose = verbose
        self.weights: list[np.ndarray] | None = None
        self._num_seen = len(recall.history)
        self._awaits_first_epoch = False
        self._best_was_known = False
        if recall.every_steps is not None:
            # Keras waits for each step's logs as soon as one callback has this method: only then
            self.on_train_batch_end = lambda batch, logs=None: self.keep()

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to load."""
        is_there = self.path is not None and Path(self.path).is_file()
        return self.recall.best_step is not None and (is_there or self.weights is not None)

    def set_model(self, model: keras.Model) -> None:
        if self.has_weights:
            check_same_model(self, self.model, model, "the best weights")
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._awaits_first_epoch = True
        # by an earlier fit, or by who continues a run
        self._best_was_known = self.recall.best_step is not None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._awaits_first_epoch:
            self._awaits_first_epoch = False
            if self.recall.model is not self.model or self.recall.awaits_first_epoch:
                raise ValueError(
                    "KeepBestWeights keeps what its RecallAtK has measured. Put that before it in "
                    "the list of callbacks: callbacks=[recall, best]"
                )
            # not before: callbacks that restore a model do so when training begins
            self.restore_best_of_file(epoch)
        self.keep()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.keep()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self.restore or not self.has_weights:
            return
        self.load()
        if self.verbose:
            print(f"best weights restored: step {self.recall.best_step}")

    def restore_best_of_file(self, epoch: int) -> None:
        """In a run that is continued, tells `recall` what the weights of the file reached.

        Args:
            epoch: number of the epoch that fit begins with.
        """
        begins_anew = not epoch and not optimizer_steps(self.model)
        if begins_anew or self.path is None or self._best_was_known:
            return
        recall, kept = self.recall, read_kept(self.path)
        if kept is None:
            return
        check_same_measure(kept, self.path, recall.ks[0], labels_digest(recall.labels))
        if recall.best_value is not None and recall.best_value > kept.value:
            return
        recall.best_value, recall.best_step = kept.value, kept.step
        if self.in_memory:
            with weights_of_file(self.model, self.path):
                self.weights = self.model.get_weights()

    def keep(self) -> None:
        """Keeps the weights of now, if the latest measurement is new and the best of all."""
        recall = self.recall
        is_new = len(recall.history) > self._num_seen
        self._num_seen = len(recall.history)
        if not is_new:
            return
        step, recalls = recall.history[-1]
        value = recalls[recall.ks[0]]
        if (step, value) != (recall.best_step, recall.best_value):
            return
        if self.in_memory:
            self.weights = self.model.get_weights()
        if self.path is not None:
            kept = BestWeightsNote(value, step, recall.ks[0], labels_digest(recall.labels))
            save_kept(self.model, self.path, kept)

    def load(self) -> None:
        """Sets the best weights, from the file if there is one, else from memory.

        Raises:
            ValueError: none were kept yet.
        """
        if self.path is not None:
            load_kept(self.model, self.path)
        elif self.weights is None:
            raise ValueError("Expected weights that were kept. None are: nothing was measured yet")
        else:
            self.model.set_weights(self.weights)
