"""Words of the command line, parsed by tyro: each command declares its options as a class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

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
