"""How far `predict`, `fit` and other work are, by Keras's bar or as lines in a log."""

import time
from collections.abc import Callable
from typing import Any

import keras

from keras_ms.terminal.progress import Progress, print_line, progress_lines

# often enough to see that it goes on, seldom enough to keep a log readable
_SECONDS = 30
# that no bar is needed for
_MOMENT = 1


class ProgressLines(keras.callbacks.Callback):
    """Tells how far `model.predict` is, a line at a time, where no terminal shows a bar.

    What is done before the first line is due is done in silence.

    Args:
        what: what is computed, the beginning of each line.
        total: rows that `predict` returns.
        unit: what the rows are. Defaults to "images".
        every_seconds: least time between two lines. Defaults to 30.
        log: function that takes a line of text. Defaults to `print_line`.
        clock: function that returns seconds. Defaults to `time.monotonic`.

    Example:

    ```python
    model.predict(batches, verbose=0, callbacks=[ProgressLines("features", len(images))])
    # features: 1,200 of 6,033 images, about 2 min left
    ```
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        unit: str = "images",
        every_seconds: float = _SECONDS,
        log: Callable[[str], Any] | None = None,
        clock: Callable[[], float] | None = None,
    ):
        super().__init__()
        self.total = total
        self._options = {"unit": unit, "every_seconds": every_seconds, "clock": clock}
        self._what, self._log = what, log

    def on_predict_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._rows = 0
        self._tell = progress_lines(self._what, self._log, **self._options)

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if logs:
            self._rows += len(keras.tree.flatten(logs["outputs"])[0])
        self._tell(self._rows, self.total)


class TrainingLines(keras.callbacks.Callback):
    """Tells how far `model.fit` is, a line at a time, and how long the rest takes.

    An epoch of a large network takes minutes, and Keras's log has one line for it; its bar tells
    the time that is left of the epoch only. The first step, which builds the graph, is not counted.

    Args:
        total: steps of the whole training.
        done: steps done before this `fit`. Defaults to 0.
        beside_bar: tell it between epochs only, where Keras shows a bar. Defaults to `False`.
        every_seconds: least time between two lines. Defaults to 30.
        log: function that takes a line of text. Defaults to `print_line`.
        clock: function that returns seconds. Defaults to `time.monotonic`.

    Example:

    ```python
    model.fit(batches, steps_per_epoch=100, epochs=3, verbose=2, callbacks=[TrainingLines(300)])
    # training: 40 of 300 steps, about 12 min left
    ```
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        beside_bar: bool = False,
        every_seconds: float = _SECONDS,
        log: Callable[[str], Any] | None = None,
        clock: Callable[[], float] | None = None,
    ):
        super().__init__()
        self._total, self._done, self._beside_bar = total - done, 0, beside_bar
        self._options = {"unit": "steps", "every_seconds": every_seconds, "clock": clock}
        self._log = log

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._tell = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._before = self._done
        if self._beside_bar and self._tell:
            self._tell(self._done, self._total)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done = self._before + batch + 1
        if self._tell is None:
            self._tell = progress_lines("training", self._log, before=self._done, **self._options)
        elif not self._beside_bar:
            self._tell(self._done, self._total)


def predict_progress(
    what: str,
    total: int,
    verbose: int,
    log: Callable[[str], Any] | None = None,
    *,
    unit: str = "images",
) -> dict[str, Any]:
    """The arguments of `model.predict` that show its progress: a bar, lines or nothing.

    Args:
        what, total, log, unit: as in `ProgressLines`.
        verbose: 1 for Keras's own bar, 2 for lines, 0 for nothing; see `shown_progress`.

    Returns:
        A dict.

    Example:

    ```python
    model.predict(batches, **predict_progress("features", len(images), shown_progress()))
    ```
    """
    if verbose == 2:
        return {"verbose": 0, "callbacks": [ProgressLines(what, total, unit=unit, log=log)]}
    return {"verbose": verbose}


def work_progress(
    what: str,
    verbose: int,
    log: Callable[[str], Any] | None = None,
    *,
    unit: str = "images",
) -> Progress:
    """A `Progress` that shows it: a bar, lines or nothing.

    What is done within a moment is done in silence.

    Args:
        what, log, unit: as in `progress_lines`.
        verbose: 1 for Keras's bar, 2 for lines, 0 for nothing; see `shown_progress`.

    Returns:
        Function of what is done and what there is in all.
    """
    if verbose == 2:
        return progress_lines(what, log, unit=unit)
    if verbose != 1:
        return lambda done, total: None
    bar, started = None, time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal bar
        if not total:
            return
        if bar is None:
            if done >= total or time.monotonic() - started < _MOMENT:
                return
            print_line(f"{what}, {total:,} {unit}")
            bar = keras.utils.Progbar(total)
        bar.update(done, finalize=done >= total)

    return tell
