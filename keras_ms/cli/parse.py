"""Words of the command line, parsed by tyro: each command declares its options as a class."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from keras_ms.files import check_can_be_written

# without them a run cannot be resumed, measured or exported; those of keras_ms.run.folder, which
# would import Keras
RUN_FILES = (
    "settings.json",
    "environment.json",
    "data.json",
    "state.npz",
    "history.csv",
    "curves.png",
    "baselines.json",
    "summary.json",
    "embedder.keras",
    "folds.json",
    "choice.json",
    "start.weights.h5",
    "best.weights.h5",
    "chosen.weights.h5",
    "last.weights.h5",
    "curriculum.csv",
    "class_tree.npz",
    "first_class_tree.npz",
    "class_tree.png",
    "hardness.png",
)

Options = TypeVar("Options")


def option(explanation: str, metavar: str | None = None, *, default: str | None = None) -> Any:
    """What stands beside the type of an option, in `Annotated`.

    Args:
        explanation: of the option.
        metavar: what stands for its value. Defaults to None: its type.
        default: what the help says of its default. Defaults to None: the default itself.
    """
    hint = f"(default: {default})" if default else default
    return tyro.conf.arg(help=explanation, metavar=metavar, help_behavior_hint=hint)


# of a command that may be given embeddings in place of pictures
PictureSize = Annotated[
    int | None,
    option(
        "of pictures: as in keras-ms embed",
        "PIXELS",
        default="that of the index, else what the model's file says",
    ),
]


def parsed(
    kind: type[Options],
    command: str,
    description: str,
    words: Sequence[str],
    *,
    none_is_a_value: bool = False,
) -> Options:
    """The options that the words give.

    Args:
        kind: a dataclass, or a `TypedDict`; the names of groups in it are left out of the options.
        command: name of the command.
        description: of the command, for its help.
        words: those behind the command's name.
        none_is_a_value: whether the word None is one, where a type allows it; else it is a text
            like any other. Defaults to False.

    Raises:
        SystemExit: wrong words, with code 2, or help.
    """
    markers = [tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff]
    if not none_is_a_value:
        markers.append(tyro.conf.DisallowNone)
    return tyro.cli(
        kind,
        prog=f"keras-ms {command}",
        description=description,
        args=words,
        config=markers,
    )


def check_is_there(path: str, expected: str) -> None:
    """Raises FileNotFoundError where nothing is at a path, before Keras is imported.

    Args:
        path: as it was typed.
        expected: what should be there, such as "a .keras file".
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"Expected {expected}. Nothing is at {path or repr(path)}")


def check_ending(name: str, path: str | Path, endings: Sequence[str]) -> None:
    """Raises ValueError where the file of an option ends in what the command cannot write or read.

    Args:
        name: of the option, as it is typed.
        path: of the file.
        endings: those that are expected, such as ".csv".
    """
    name_of_file = Path(path).name
    if not name_of_file.endswith(tuple(endings)) or name_of_file in endings:
        raise ValueError(f"Expected {name} to end in {' or '.join(endings)}. Received: {path}")


def check_output_file(
    name: str, path: str | Path, endings: Sequence[str], inputs: Iterable[str | None] = ()
) -> None:
    """Refuses, before the work, a file that the command could not write or should not replace.

    Args:
        name: of the option, as it is typed.
        path: of the file.
        endings: those that are expected, such as ".csv".
        inputs: files that the command reads; those that are empty or None count for nothing.

    Raises:
        IsADirectoryError: a folder of that name is there.
        OSError: nothing can be written beside it.
        ValueError: another ending, a file that is an input, or one that a run lives by.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"Expected {name} to be a file that ends in {' or '.join(endings)}. Received a "
            f"folder: {path}"
        )
    check_ending(name, path, endings)
    if path.exists() and any(file and _is_same(path, file) for file in inputs):
        raise ValueError(f"{name} {path} is what the command reads: choose another name")
    if path.name in RUN_FILES and (path.parent / "settings.json").exists():
        raise ValueError(
            f"{name} {path} is a file of the run in that folder: choose another name or folder"
        )
    check_can_be_written(path.parent)


def check_output_folder(name: str, path: str | Path) -> None:
    """Refuses, before the work, a folder that the command could not write into.

    Args:
        name: of the option, as it is typed.
        path: of the folder.

    Raises:
        NotADirectoryError: a file of that name is there.
        OSError: it cannot be made or written into.
    """
    if Path(path).is_file():
        raise NotADirectoryError(f"Expected {name} to be a folder. Received a file: {path}")
    check_can_be_written(path)


def _is_same(path, other):
    return Path(other).exists() and path.samefile(other)
