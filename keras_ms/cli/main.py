"""The command line, keras-ms. The options of train are the fields of Settings; convert-weights,
evaluate, report and curriculum have modules of their own."""

import argparse
import dataclasses
import json
import logging
import signal
import sys

from keras_ms import __version__
from keras_ms.cli.convert_weights import add_parser as add_convert_weights
from keras_ms.cli.curriculum import add_parser as add_curriculum
from keras_ms.cli.evaluate import add_parser as add_evaluate
from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.report import add_parser as add_report
from keras_ms.cli.setting_options import add_setting, flag
from keras_ms.run.settings import Settings
from keras_ms.terminal.command_words import RunInterrupted, UnfinishedRun, resume_command
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

# what bad data, settings, folders and files raise; anything else is a bug and keeps its traceback
_USER_ERRORS = (ValueError, OSError, ImportError)


def main(arguments=None):
    """Runs the command line and returns its exit code.

    0; 1 for an error; of what ended early the code that shells show: 130 for Ctrl-C, 143 for
    SIGTERM, 129 for SIGHUP, 141 where nobody reads the output any more (a training goes on).

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
    try:
        options = vars(_parser().parse_args(arguments))
        command, debug = options.pop("command"), options.pop("debug")
        _log_to_terminal()
        command(options)
    except KeyboardInterrupt as interruption:
        words = ""
        if isinstance(interruption, RunInterrupted):
            words = f". Continue with: {resume_command(interruption.path, arguments)}"
        # on a terminal a bar or ^C may stand in the line
        line_end = "\n" if is_terminal(sys.stderr) else ""
        print(f"{line_end}Interrupted{words}", file=sys.stderr)
        return 128 + getattr(interruption, "number", signal.SIGINT)
    except OutputLost:
        raise
    except _USER_ERRORS as error:
        if debug:
            raise
        words = ""
        if isinstance(error, UnfinishedRun):
            words = f". Continue it with: {resume_command(error.path, arguments)}"
        print(f"error: {error}{words}", file=sys.stderr)
        return 1
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


def _train(options):
    resume, config = options.pop("resume"), options.pop("config")
    given = {name: value for name, value in options.items() if value is not None}
    if resume:
        changed = sorted(set(given) - {"runs_folder"})
        if changed or config:
            raise ValueError(
                "--resume continues a run with its own settings. Leave out "
                + ", ".join(["--config"] * bool(config) + [flag(name) for name in changed])
            )
    # defaults follow what is trained, so they are taken once all that is given is known
    settings = Settings.read(config, given) if config else Settings(**given)

    import_keras()
    from keras_ms.run.training import train

    train(settings, resume)


def _export(options):
    metadata = json.loads(options["metadata"]) if options["metadata"] else None
    formats = Settings(export=options["formats"]).exports()
    import_keras()
    from keras_ms.export import Preprocessing
    from keras_ms.export.formats import export_formats
    from keras_ms.export.keras_file import load_keras_file

    model = load_keras_file(options["model"])
    shorter = options["resize_to"]
    export_formats(
        model,
        options["to"],
        formats,
        metadata=metadata,
        preprocessing=None
        if shorter is None
        else Preprocessing(resize_to=shorter, exif_orientation=options["apply_exif_orientation"]),
    )


def _weights(options):
    from keras_ms.run.losses import named_loss, pair_loss_names

    names = options["losses"].split(",") if options["losses"] else list(pair_loss_names())
    unknown = [name for name in names if name not in pair_loss_names()]
    if unknown:
        raise ValueError(
            f"Unknown loss. Expected one of {', '.join(pair_loss_names())}. Received: "
            f"{', '.join(unknown)}"
        )
    import_keras()
    import numpy as np

    from keras_ms.evaluation.saved_embeddings import read_embeddings
    from keras_ms.files import whole_file
    from keras_ms.report.weight_picture import example_batch, weight_table, write_weight_picture

    losses = {name.replace("_", " "): named_loss(name) for name in names}
    if options["embeddings"]:
        found = read_embeddings(options["embeddings"])
        embeddings, labels = found["embeddings"], found["labels"]
        if np.abs(embeddings.astype(np.float64)).max() > np.finfo(np.float32).max:
            raise ValueError(
                f"Expected embeddings within the range of float32 in {options['embeddings']}. "
                f"Received: up to {np.abs(embeddings).max():g}"
            )
    else:
        embeddings, labels = example_batch(seed=options["seed"])
    found = write_weight_picture(losses, embeddings, labels, options["to"])
    table = weight_table(found, labels)
    print(table)
    if options["table"]:
        with whole_file(options["table"]) as temporary:
            temporary.write_text(table + "\n", encoding="utf-8")


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-ms", description="Deep metric learning: train, measure, export."
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    parser.add_argument("--version", action="version", version=f"keras-ms {__version__}")
    commands = parser.add_subparsers(
        required=True,
        metavar="train | export | weights | convert-weights | evaluate | report | curriculum",
    )

    train = commands.add_parser(
        "train",
        help="train an embedder, evaluate it on unseen classes, export it",
    )
    train.set_defaults(command=_train)
    train.add_argument("--config", metavar="FILE", help="settings.json to start from")
    train.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="RUN_FOLDER",
        help="continue an interrupted run; without a folder, the newest unfinished one",
    )
    for option in dataclasses.fields(Settings):
        add_setting(train, option.name)

    export = commands.add_parser("export", help="export a saved .keras model")
    export.set_defaults(command=_export)
    export.add_argument("model", help="a .keras file")
    export.add_argument("--to", required=True, metavar="FOLDER", help="folder to export into")
    export.add_argument("--formats", default="saved_model,onnx", help="saved_model, onnx or both")
    export.add_argument(
        "--resize-to",
        type=int,
        metavar="PIXELS",
        help="shorter side of a photo before its centre is cut out, recorded in the files",
    )
    export.add_argument(
        "--apply-exif-orientation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --resize-to: whether the model was trained on photos turned as their EXIF "
        "orientation says, recorded in the files too",
    )
    export.add_argument("--metadata", metavar="JSON", help='such as \'{"recall_at_1": "0.61"}\'')

    weights = commands.add_parser(
        "weights",
        help="draw how much each loss makes every pair of a batch count, against its similarity",
    )
    weights.set_defaults(command=_weights)
    weights.add_argument("--to", default="weights.png", metavar="FILE", help="PNG, SVG or PDF")
    weights.add_argument("--table", metavar="FILE", help="Markdown file for the table")
    weights.add_argument("--losses", default="", help="names with commas between; empty: all")
    weights.add_argument(
        "--embeddings",
        metavar="FILE",
        help=".npz file with one batch, `embeddings` (batch, dimension) and `labels`; without it, "
        "80 drawn embeddings as midway in training",
    )
    weights.add_argument("--seed", type=int, default=0, help="of the drawn embeddings")
    add_convert_weights(commands)
    add_evaluate(commands)
    add_report(commands)
    add_curriculum(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
