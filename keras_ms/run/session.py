"""One session of a run: its folder held, its precision set, its interruption named."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import keras

from keras_ms.models.backbone_names import backbone_label
from keras_ms.run.folder import RunFolder
from keras_ms.run.processes import process_index, received_run, send_run
from keras_ms.run.settings import Settings
from keras_ms.terminal.command_words import RunInterrupted


@contextlib.contextmanager
def opened_run(
    settings: Settings, resume: str | Path | None = None, *, log: Callable[[str], Any] = print
) -> Iterator[tuple[RunFolder, Settings]]:
    """Yields the folder of a run, this process's alone within, and the settings of the run.

    Of several processes that train together the first one has it; the others have a copy.

    Args:
        settings: `Settings`; of a run to resume only `runs_folder` is read, it has its own.
        resume: folder of the run to continue, "latest", or None for a new run.
        log: function that takes a line of text for the user.

    Raises:
        FileExistsError, FileNotFoundError, BlockingIOError, OSError: as
            `keras_ms.run.folder.RunFolder`.
    """
    with contextlib.ExitStack() as stack:
        if process_index():
            yield stack.enter_context(received_run())
            return
        if resume:
            run = RunFolder.find(resume, settings.training.runs_folder)
            stack.enter_context(run.lock())
            settings = run.read_settings()
            log(f"Continuing {run.path}")
        else:
            run = _claimed_run(settings, stack)
        send_run(run, settings, resume=bool(resume))
        yield run, settings


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Makes a policy Keras's own, and the one before again in the end."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def interruption_names_run(run: RunFolder) -> Iterator[None]:
    """Turns an interruption of a run that can be continued into one that names its folder."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        if not run.settings_file.is_file():
            raise
        number = getattr(interruption, "number", signal.SIGINT)
        raise RunInterrupted(run.path, number) from None


def _claimed_run(settings: Settings, stack: contextlib.ExitStack) -> RunFolder:
    """The folder of a new run, this process's alone until `stack` is closed."""
    name, number = settings.training.run_name or _run_name(settings), 1
    while True:
        # of runs without a name that begin in the same second each gets one
        run = RunFolder(Path(settings.training.runs_folder) / (name + f"-{number}" * (number > 1)))
        try:
            stack.enter_context(run.claim())
            return run
        except (FileExistsError, BlockingIOError):
            if settings.training.run_name:
                raise
        number += 1


def _run_name(settings):
    data = Path(settings.data.data_dir).resolve().name if settings.data.data_dir else "glyphs"
    backbone = backbone_label(settings.model.backbone)
    return f"{data}-{backbone}-{datetime.now():%Y%m%d-%H%M%S}"
