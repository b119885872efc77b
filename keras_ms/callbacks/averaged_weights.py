"""Callbacks that see an optimizer's average of the weights instead of the weights of the step."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_ms.callbacks.recall_at_k import RecallAtK
from keras_ms.optimizers import exchange_averages


class WithAveragedWeights(keras.callbacks.Callback):
    """Calls other callbacks at the end of each epoch with the averaged weights in the model.

    The exponential moving average of the weights over the last steps is less noisy than any of
    them, and often finds more. Training goes on with the weights of the step, to the bit; when
    `fit` ends, Keras leaves the average in the model.

    Before the first step there is no average: what a callback does at the beginning of training or
    of an epoch, it does with the weights that are there.

    Relations: Keras's `use_ema` keeps the average, this has other callbacks measure and keep it.
    `keras_ms.InterpolateWeights` mixes the start with the trained weights instead, and needs no
    optimizer that averages.

    Args:
        callbacks: such as `keras_ms.RecallAtK` and the `keras_ms.KeepBestWeights` behind it, in the
            order in which they are called.

    Raises:
        ValueError: a `RecallAtK` that measures within an epoch; at the end of the first epoch, an
            optimizer without `use_ema=True`.

    Example:
        >>> images = np.random.rand(16, 8).astype("float32")
        >>> labels = np.repeat([0, 1, 2, 3], 4)
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> optimizer = GroupedAdam(0.01, use_ema=True, ema_momentum=0.9)
        >>> model.compile(optimizer, loss=MultiSimilarityLoss())
        >>> recall = RecallAtK((images, labels), ks=(1, 2))
        >>> averaged = WithAveragedWeights([recall, KeepBestWeights(recall)])
        >>> history = model.fit(images, labels, callbacks=[averaged], verbose=0)
        >>> sorted(history.history)
        ['loss', 'val_recall@1', 'val_recall@2']
    """

    # set by Keras before training begins
    model: Any

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]):
        super().__init__()
        self.callbacks = list(callbacks)
        if any(isinstance(one, RecallAtK) and one.every_steps for one in self.callbacks):
            raise ValueError(
                "WithAveragedWeights calls its callbacks at the end of an epoch. Received a "
                "RecallAtK with every_steps: leave every_steps out, and make the epochs shorter"
            )

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        for callback in self.callbacks:
            callback.set_model(model)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        for callback in self.callbacks:
            callback.set_params(params)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        exchange_averages(self.model.optimizer)
        try:
            for callback in self.callbacks:
                callback.on_epoch_end(epoch, logs)
        finally:
            exchange_averages(self.model.optimizer)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_end(logs)
