"""The command line, keras-ms: one module a command, imported once it is asked for."""

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Sequence

from keras_ms import __version__
from keras_ms.terminal.command_words import (
    RunInterrupted,
    UnfinishedRun,
    WorkInterrupted,
    WrongWords,
    resume_command,
)
from keras_ms.terminal.progress import is_terminal
from keras_ms.terminal.start import interrupt_raises
from keras_ms.terminal.streams import (
    BROKEN_PIPE_CODE,
    OutputClosed,
    OutputLost,
    command_output,
    ending_on_signals,
    lasting_output,
)

# the module of this folder is called as the command is, with _ for -
COMMANDS = {
    "train": "train an embedder, evaluate it on unseen classes, export it",
    "export": "export a saved .keras model",
    "quantize": "write a smaller ONNX file, if photos find each other as well with it",
    "backbones": "list the networks that can be trained by their names",
    "weights": "draw how much each loss makes every pair of a batch count, by its similarity",
    "convert-weights": "convert the public PyTorch weights of BN-Inception",
    "embed": "many pictures to files of embeddings, which an interrupted run goes on with",
    "index": "embeddings or pictures into an index, to be searched",
    "search": "the nearest pictures of an index, for pictures or embeddings; duplicates",
    "evaluate": "measure a model on a data set, or saved embeddings",
    "report": "one HTML page about a trained model: metrics, map, best and worst queries",
    "card": "the model card of a run, a README.md for huggingface.co",
    "curriculum": "divide each class into clean, noisy and highly noisy images, by density",
}

# what bad data, settings, folders and files raise; anything else is a bug and keeps its traceback
_USER_ERRORS = (ValueError, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    0; 1 for an error, 2 for words that are no options; of what ended early the code that shells
    show: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 141 where nobody reads the output any
    more (a training goes on).

    Args:
        arguments: list of words. Defaults to those the program was started with.
    """
    interrupt_raises()
    try:
        with ending_on_signals(), command_output():
            return _run(arguments)
    except OutputClosed:
        return BROKEN_PIPE_CODE
    except OutputLost as error:
        with lasting_output():
            print(f"error: {error}", file=sys.stderr)
        return 1


def _run(arguments):
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(arguments)
    try:
        _log_to_terminal()
        module = importlib.import_module(f"keras_ms.cli.{options.command.replace('-', '_')}")
        module.run(options.words)
    except KeyboardInterrupt as interruption:
        words = ""
        if isinstance(interruption, RunInterrupted):
            words = f". Continue with: {resume_command(interruption.path, arguments)}"
        elif isinstance(interruption, WorkInterrupted):
            words = ". The same command goes on where it ended"
        # on a terminal a bar or ^C may stand in the line
        line_end = "\n" if is_terminal(sys.stderr) else ""
        print(f"{line_end}Interrupted{words}", file=sys.stderr)
        return 128 + getattr(interruption, "number", signal.SIGINT)
    except OutputLost:
        raise
    except _USER_ERRORS as error:
        if options.debug:
            raise
        words = ""
        if isinstance(error, UnfinishedRun):
            words = f". Continue it with: {resume_command(error.path, arguments)}"
        print(f"error: {error}{words}", file=sys.stderr)
        return 2 if isinstance(error, WrongWords) else 1
    return 0


def _log_to_terminal():
    """The library's own messages as plain lines; of TensorFlow's, the errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("keras_ms")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _parser():
    commands = "\n".join(f"  {name:<18}{what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="keras-ms",
        description="Deep metric learning: train, measure, export.",
        epilog=f"commands:\n{commands}\n\nkeras-ms COMMAND --help has the options of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    parser.add_argument("--version", action="version", version=f"keras-ms {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    parser.add_argument(
        "words", metavar="...", nargs=argparse.REMAINDER, help="options of the command"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
