"""What takes long says how far it is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable
from typing import Any

# told how far something is: what is done of it, and what there is in all or None, if unknown
Progress = Callable[[int, int | None], Any]

# often enough to see that it goes on, seldom enough to keep a log readable
_SECONDS = 30


def progress_lines(
    what: str,
    log: Callable[[str], Any] | None = None,
    *,
    unit: str = "images",
    every_seconds: float = _SECONDS,
    before: int = 0,
    clock: Callable[[], float] | None = None,
) -> Progress:
    """A function to call with what is done and what there is in all, as often as one likes.

    Args:
        what: what is computed, the beginning of each line.
        log: function that takes a line of text. Defaults to `print_line`.
        unit: what is counted. Defaults to "images".
        every_seconds: least time between two lines. Defaults to 30.
        before: what was done already, at another speed: the time that is left is told by the
            rest. Defaults to 0.
        clock: function that returns seconds. Defaults to `time.monotonic`.

    Returns:
        A `Progress`, such as the `progress` of `keras_ms.recall_at_k`. Of what has no known end it
        tells nothing.

    Example:

    ```python
    tell = progress_lines("raw pixels, neighbours", unit="queries")
    recalls = keras_ms.recall_at_k(embeddings, labels, progress=tell)
    ```
    """
    log, clock = log or print_line, clock or time.monotonic
    started = told = clock()

    def tell(done: int, total: int | None) -> None:
        nonlocal told
        now = clock()
        # of the end the caller tells: what it found
        if now - told < every_seconds or not total or not before < done < total:
            return
        told = now
        left = _duration((now - started) * (total - done) / (done - before))
        log(f"{what}: {done:,} of {total:,} {unit}, about {left} left")

    return tell


def shown_progress() -> int:
    """`verbose` for Keras: 1, a moving bar, on a terminal; 2, lines, in a log."""
    return 1 if is_terminal(sys.stdout) else 2


def is_terminal(stream: Any) -> bool:
    """Whether someone watches the stream; it may be closed or None, as in a background service."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def print_line(line: str) -> None:
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
