"""Callbacks that see an optimizer's average of the weights instead of the weights of the step."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_ms.callbacks.recall_at_k import RecallAtK
from keras_ms.optimizers import exchange_averages

# What Keras calls while it measures or within an epoch. There the model has the weights of the
# step, since to exchange them at each would take as long as the step.
_HOOKS_WITHIN = tuple(
    f"on_{what}_{when}"
    for what in ("train_batch", "test", "test_batch", "predict", "predict_batch")
    for when in ("begin", "end")
)
# what Keras calls instead where a callback has none of the first kind
_ALSO = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}


class WithAveragedWeights(keras.callbacks.Callback):
    """Calls other callbacks at the end of each epoch with the averaged weights in the model.

    The exponential moving average of the weights over the last steps is less noisy than any of
    them, and often finds more. Training goes on with the weights of the step, to the bit; when
    `fit` ends, Keras leaves the average in the model.

    Before the first step there is no average: what a callback does at the beginning of training or
    of an epoch, it does with the weights that are there. What it does within an epoch, at each
    batch or while Keras measures `validation_data`, it does with the weights of the step; what
    would save or measure those is refused. `BackupAndRestore` belongs beside this, not within: it
    would restore the average in place of the weights.

    Relations: Keras's `use_ema` keeps the average, this has other callbacks measure and keep it.
    `keras_ms.InterpolateWeights` mixes the start with the trained weights instead, and needs no
    optimizer that averages.

    Args:
        callbacks: such as `keras_ms.RecallAtK` and the `keras_ms.KeepBestWeights` behind it, in the
            order in which they are called.

    Raises:
        ValueError: no list of callbacks, one that measures or saves within an epoch (`every_steps`,
            an integer `save_freq`), or one that changes or restores the weights of the step
            (`BackupAndRestore`, `SwapEMAWeights`); at the end of the first epoch, an optimizer
            without `use_ema=True`.

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
        self.callbacks = _checked(callbacks)
        for name in _HOOKS_WITHIN:
            those = [callback for callback in self.callbacks if _has_own(callback, name)]
            if those:
                # Keras waits for each step's logs as soon as one callback has such a method: only
                # then
                setattr(self, name, _each(those, name))

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


def _each(callbacks: list[Any], name: str) -> Callable[..., None]:
    def call(*arguments: Any, **logs: Any) -> None:
        for callback in callbacks:
            getattr(callback, name)(*arguments, **logs)

    return call


def _has_own(callback, name):
    """Whether a callback does something there: by a method of its class or one of its own."""
    names = [name, _ALSO.get(name, name)]
    return any(
        one in vars(callback)
        or getattr(type(callback), one) is not getattr(keras.callbacks.Callback, one)
        for one in names
    )


def _checked(callbacks):
    try:
        callbacks = list(callbacks)
    except TypeError:
        raise ValueError(
            "Expected a list of callbacks, WithAveragedWeights([recall, best]). Received: "
            f"{callbacks!r}: give a list"
        ) from None
    for callback in callbacks:
        kind = type(callback).__name__
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(f"Expected a list of keras.callbacks.Callback. It holds {callback!r}")
        if isinstance(callback, RecallAtK) and callback.every_steps:
            raise ValueError(
                "WithAveragedWeights calls its callbacks at the end of an epoch. Received a "
                "RecallAtK with every_steps: leave every_steps out, and make the epochs shorter"
            )
        of_the_step = keras.callbacks.BackupAndRestore, keras.callbacks.SwapEMAWeights
        if isinstance(callback, (*of_the_step, WithAveragedWeights)):
            raise ValueError(
                f"{kind} needs the weights of the step. Put it beside WithAveragedWeights, not "
                "within: callbacks=[WithAveragedWeights([recall]), BackupAndRestore(folder)]; "
                "SwapEMAWeights goes without it"
            )
        save_freq = getattr(callback, "save_freq", "epoch")
        if save_freq != "epoch":
            raise ValueError(
                "WithAveragedWeights has the average in the model at the end of an epoch. Received "
                f"a {kind} with save_freq={save_freq!r}, which would save the weights of "
                "a step: save_freq='epoch' saves the average; put it beside to save the others"
            )
    return callbacks
