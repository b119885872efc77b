"""Fields of `Settings` as options of the command line."""

import argparse
import typing

from keras_ms.run.settings import Settings


def flag(name):
    """The option of a setting: test_fraction is --test-fraction."""
    return "--" + name.replace("_", "-")


def add_setting(parser, name, explanation=None):
    """Adds the option of one setting; where it is not given, its value is None.

    Args:
        parser: of argparse.
        name: of a field of `Settings`.
        explanation: of the option. Defaults to None: that of the setting, with its default.
    """
    option = Settings.__dataclass_fields__[name]
    if explanation is None:
        default = "" if option.default in (None, "") else f" (default: {option.default})"
        explanation = option.metadata["explanation"] + default
    # None marks what was not given, so that --config is overridden only by what was
    shared = {"default": None, "help": explanation.replace("%", "%%"), "dest": name}
    kind = typing.get_type_hints(Settings)[name]
    kinds = typing.get_args(kind) or (kind,)
    if bool in kinds:
        parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, **shared)
        return
    choices = option.metadata["choices"]
    parser.add_argument(
        flag(name),
        type=kinds[0],
        choices=choices,
        metavar=None if choices else kinds[0].__name__.upper(),
        **shared,
    )
