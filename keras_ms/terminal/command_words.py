"""What a user types: how the command line was started, and how an interrupted run goes on."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PROGRAM = "keras-ms"


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal, in a training run that has its folder: it can be continued.

    Args:
        path: the run's folder.
        number: of the signal. Defaults to SIGINT, that of Ctrl-C.
    """

    def __init__(self, path: str | os.PathLike, number: int = signal.SIGINT):
        super().__init__(f"The run {path} was interrupted")
        self.path, self.number = Path(path), number


class WorkInterrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal, in work that the same command goes on with.

    Args:
        number: of the signal. Defaults to SIGINT, that of Ctrl-C.
    """

    def __init__(self, number: int = signal.SIGINT):
        super().__init__("The work was interrupted")
        self.number = number


class WrongWords(ValueError):
    """Words of the command line that name no option, or not as it is spelt."""


class UnfinishedRun(FileNotFoundError):
    """A run lacks a file that it gets when it is continued.

    Args:
        message: what is missing, without what to do: the command line says that.
        path: the run's folder.
    """

    def __init__(self, message: str, path: str | os.PathLike):
        super().__init__(message)
        self.path = Path(path)


def resume_command(path: str | os.PathLike, arguments: Sequence[str] | None = None) -> str:
    """The command that continues a run, started as this program was, to be pasted into a shell.

    Args:
        path: the run's folder.
        arguments: the words that the command line works on. Defaults to None: those that the
            program was started with.

    Returns:
        Text: `keras-ms train --resume FOLDER`, `python -m keras_ms.cli train --resume FOLDER` or,
        of a script that passes its options on to train, `python scripts/train.py --resume FOLDER`.
        The first where other code called the command line.

    Example:

    >>> resume_command("my runs/birds", ["train", "--steps", "200"])
    "keras-ms train --resume 'my runs/birds'"
    """
    typed, arguments = sys.argv[1:], sys.argv[1:] if arguments is None else list(arguments)
    program = _program_words()
    if program is None:
        words = [_PROGRAM, "train"]
    elif arguments == typed:
        words = [*program, "train"]
    elif _passes_on(typed, arguments):
        words = program
    else:
        words = [_PROGRAM, "train"]
    return _in_shell([*words, "--resume", str(path)])


def further_command(words: Sequence[str]) -> str:
    """A command of keras-ms to go on with, to be pasted into the shell this program came from.

    Args:
        words: the command and its arguments, such as ["report", "runs/birds"].

    Returns:
        Text: `keras-ms report runs/birds`, with the program's folder where the shell would not
        find it, as in an environment that is not activated.
    """
    beside = Path(sys.executable).with_name(_PROGRAM)
    if Path(sys.argv[0]).stem == _PROGRAM:
        program = _program_words() or [_PROGRAM]
    elif shutil.which(_PROGRAM) or not beside.is_file():
        program = [_PROGRAM]
    else:
        program = [str(beside)]
    return _in_shell([*program, *words])


def _in_shell(words):
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _passes_on(typed, arguments):
    """Whether train was given what was typed: all of it or, of a recipe, what follows its name."""
    if arguments[:1] != ["train"]:
        return False
    # the settings of a recipe stand before the options that were typed
    after_config = arguments[3:] if arguments[1:2] == ["--config"] else None
    return typed == arguments[1:] or after_config in (typed, typed[1:])


def _program_words():
    """The words before the program's arguments, as they were typed; None if they are unknown."""
    script = sys.argv[0]
    if Path(script).stem == _PROGRAM:
        installed = shutil.which(_PROGRAM)
        on_path = installed is not None and Path(installed).resolve() == Path(script).resolve()
        return [_PROGRAM if on_path else script]
    words, typed = sys.orig_argv, sys.argv[1:]
    before = words[: len(words) - len(typed)]
    if not before or words[len(before) :] != typed:
        return None
    return None if "-c" in before else before  # code in quotes: nobody has typed that
