"""A command and its terminal: output that nobody reads, characters it cannot show, its end."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from keras_ms.terminal.progress import is_terminal

# what shells show of a process that wrote into a closed pipe
BROKEN_PIPE_CODE = 141


class OutputLost(OSError):
    """The standard output cannot be written, as on a full disk."""


class OutputClosed(OutputLost):
    """Nobody reads the standard output any more, as after `| head`."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by a signal that is not Ctrl-C.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Output that is lost, because a terminal or a pipe is gone or a disk is full, stops nothing.

    For what is worth more than what is said about it: a training, which has its history in its
    folder. From the first failure on, what is printed is dropped.

    Example:

    ```python
    with lasting_output():
        model.fit(batches, epochs=100)
    ```
    """
    with _streams(_Stream(sys.stdout, lasts=True), _Stream(sys.stderr, lasts=True)):
        yield


@contextlib.contextmanager
def command_output() -> Iterator[None]:
    """Output of a command: any character, with or without a terminal.

    Characters that the encoding lacks are written as their code, and a standard output or error
    that was closed from the start takes all that is printed. Errors and progress lost change
    nothing.

    Raises:
        OutputLost: the standard output cannot be written, `OutputClosed` if its reader is gone.
    """
    output = _Stream(sys.stdout, lasts=False)
    with _streams(output, _Stream(sys.stderr, lasts=True)):
        try:
            yield
        except SystemExit:
            if output.lost:  # by the help of argparse, which drops the error
                raise output.lost from None
            raise
        finally:
            # what is still held back is found out here, and not as the interpreter ends
            output.flush()


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Raises `Terminated` where a signal would end the process without a word.

    These are SIGTERM, as of a service that is stopped, and SIGHUP, as of a terminal that is closed.
    What is ignored, as by nohup, stays ignored.
    """

    def end(number, frame):
        raise Terminated(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _streams(output, errors):
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        yield


class _Stream:
    """A text stream around another one, or around None.

    Args:
        stream: what is written to.
        lasts: whether a stream that is lost is forgotten; else the loss is an error.
    """

    def __init__(self, stream, *, lasts):
        self._stream: Any = stream
        self._lasts = lasts
        self.lost = None  # the error of a stream that does not last

    def __getattr__(self, name):
        return getattr(self._stream, name)

    @property
    def encoding(self):
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self):
        return is_terminal(self._stream)

    def write(self, text):
        self._try("write", text)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        self._try("flush")

    def _try(self, action, *arguments):
        if self._stream is None or getattr(self._stream, "closed", False):
            return
        try:
            getattr(self._stream, action)(*arguments)
        except UnicodeEncodeError:
            escaped = (text.encode(self.encoding, "backslashreplace") for text in arguments)
            self._try(action, *(text.decode(self.encoding) for text in escaped))
        except OSError as error:
            self._lose(error)

    def _lose(self, error):
        stream, self._stream = self._stream, None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # what the stream holds back would be an error once more as the interpreter ends
            if stream.fileno() in (1, 2):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
        if self._lasts:
            return
        kind = OutputClosed if error.errno == errno.EPIPE else OutputLost
        self.lost = kind(error.errno, f"The standard output cannot be written ({error.strerror})")
        raise self.lost from error
