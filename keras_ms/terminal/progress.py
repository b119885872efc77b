"""What takes long says how far it is: a bar on a terminal, a line now and then in a log."""

import sys
import time

import keras

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

    def __init__(self, what, total, *, unit="images", every_seconds=_SECONDS, log=None, clock=None):
        super().__init__()
        self.total = total
        self._options = {"unit": unit, "every_seconds": every_seconds, "clock": clock}
        self._what, self._log = what, log

    def on_predict_begin(self, logs=None):
        self._rows = 0
        self._tell = progress_lines(self._what, self.total, self._log, **self._options)

    def on_predict_batch_end(self, batch, logs=None):
        self._rows += len(keras.tree.flatten(logs["outputs"])[0])
        self._tell(self._rows / self.total if self.total else 1.0)


class TrainingLines(keras.callbacks.Callback):
    """Tells how far `model.fit` is, a line at a time, where no terminal shows a bar.

    An epoch of a large network takes minutes, and Keras's log has one line for it.

    Args:
        total: steps of the whole training.
        done: steps done before this `fit`. Defaults to 0.
        every_seconds: least time between two lines. Defaults to 30.
        log: function that takes a line of text. Defaults to `print_line`.
        clock: function that returns seconds. Defaults to `time.monotonic`.

    Example:

    ```python
    model.fit(batches, steps_per_epoch=100, epochs=3, verbose=2, callbacks=[TrainingLines(300)])
    # training: 40 of 300 steps, about 12 min left
    ```
    """

    def __init__(self, total, done=0, *, every_seconds=_SECONDS, log=None, clock=None):
        super().__init__()
        self._total, self._done = total - done, 0
        self._options = {"unit": "steps", "every_seconds": every_seconds, "clock": clock}
        self._log = log

    def on_train_begin(self, logs=None):
        self._tell = progress_lines("training", self._total, self._log, **self._options)

    def on_epoch_begin(self, epoch, logs=None):
        self._before = self._done

    def on_train_batch_end(self, batch, logs=None):
        self._done = self._before + batch + 1
        self._tell(self._done / self._total)


def progress_lines(what, total, log=None, *, unit="images", every_seconds=_SECONDS, clock=None):
    """A function to call with the share of the work done, 0 to 1, as often as one likes.

    Args:
        what: what is computed, the beginning of each line.
        total: number of all `unit`.
        log: function that takes a line of text. Defaults to `print_line`.
        unit: what is counted. Defaults to "images".
        every_seconds: least time between two lines. Defaults to 30.
        clock: function that returns seconds. Defaults to `time.monotonic`.

    Returns:
        A function of one number, such as the `progress` of `keras_ms.recall_at_k`.

    Example:

    ```python
    tell = progress_lines("raw pixels, neighbours", len(embeddings))
    recalls = keras_ms.recall_at_k(embeddings, labels, progress=tell)
    ```
    """
    log, clock = log or print_line, clock or time.monotonic
    started = told = clock()

    def tell(share):
        nonlocal told
        now = clock()
        # of the end the caller tells: what it found
        if now - told < every_seconds or not 0 < share < 1:
            return
        told = now
        left = _duration((now - started) * (1 - share) / share)
        log(f"{what}: {round(share * total):,} of {total:,} {unit}, about {left} left")

    return tell


def predict_progress(what, total, verbose, log=None, *, unit="images"):
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


def share_progress(what, total, verbose, log=None, *, unit="images"):
    """A function of the share done, 0 to 1, that shows it: a bar, lines or nothing.

    What is done within a moment is done in silence.

    Args:
        what, total, log, unit: as in `progress_lines`.
        verbose: 1 for Keras's bar, 2 for lines, 0 for nothing; see `shown_progress`.

    Returns:
        A function of one number, such as the `progress` of `keras_ms.recall_at_k`.
    """
    if verbose == 2:
        return progress_lines(what, total, log, unit=unit)
    if verbose != 1:
        return lambda share: None
    bar, started, begun = keras.utils.Progbar(total), time.monotonic(), False

    def tell(share):
        nonlocal begun
        if not begun and (share >= 1 or time.monotonic() - started < _MOMENT):
            return
        if not begun:
            begun = True
            print_line(f"{what}, {total:,} {unit}")
        bar.update(round(share * total), finalize=share >= 1)

    return tell


def shown_progress():
    """`verbose` for Keras: 1, a moving bar, on a terminal; 2, lines, in a log."""
    return 1 if is_terminal(sys.stdout) else 2


def is_terminal(stream):
    """Whether someone watches the stream; it may be closed or None, as in a background service."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def print_line(line):
    """Prints a line at once, into a log too; where there is no standard output, nothing."""
    try:
        print(line, flush=True)
    except ValueError:
        # closed: what is computed is worth more than what would be said about it
        if sys.stdout is None or not sys.stdout.closed:
            raise


def _duration(seconds):
    if round(seconds) < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
