"""Settings as options of the command line: types for tyro, made of the settings' declarations."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypedDict, Union

from tyro.conf import FlagConversionOff, arg
from tyro.constructors import PrimitiveConstructorSpec

from keras_ms.losses.catalogue import LossOption
from keras_ms.run.settings.declaration import Setting
from keras_ms.run.settings.earlier import parts_of
from keras_ms.run.settings.groups import SETTINGS


def setting_options(
    names: Iterable[str],
    explanations: Mapping[str, str] | None = None,
    description: str = "",
    more: Mapping[str, Any] | None = None,
) -> Any:
    """A type for `tyro.cli`: a dict of those of the settings that are given.

    Args:
        names: flat names of the settings.
        explanations: of those that are explained otherwise than in their declaration, with their
            default. Defaults to None: no others.
        description: of the options together.
        more: types of further options, by name. Defaults to None: no others.
    """
    others = explanations or {}
    fields = {
        name: _setting_option(SETTINGS[name], others[name], "")
        if name in others
        else _setting_option(SETTINGS[name], SETTINGS[name].declaration.explanation, None)
        for name in names
    }
    options = TypedDict("Options", fields | dict(more or {}), total=False)  # pyright: ignore
    options.__doc__ = description
    return options


def named_options(owner: str, declared: Iterable[LossOption]) -> dict[str, Any]:
    """Types of options that are given as --owner.name, by owner.name.

    Args:
        owner: setting that has the options, loss or hdml.
        declared: the options.
    """
    return {
        f"{owner}.{option.name}": Annotated[
            Union[tuple(_kinds(option))],  # noqa: UP007, as many as there are
            arg(name=f"{owner}.{option.name}", help=option.help, help_behavior_hint=""),
            FlagConversionOff,
        ]
        for option in declared
    }


def _kinds(option):
    for kind in option.types:
        yield Literal[option.choices] if kind is str and option.choices else kind


def _setting_option(one: Setting, explanation: str, hint: str | None):
    kind: Any = one.kinds[0]
    if hint is None:
        hint = "" if one.default in (None, "", ()) else f"(default: {_text(one.default)})"
    about = arg(help=explanation, help_behavior_hint=hint)
    if one.is_tuple:
        return Annotated[one.annotation, with_commas(one.name), about]
    return Annotated[Literal[one.declaration.choices] if one.declaration.choices else kind, about]


def with_commas(name: str) -> PrimitiveConstructorSpec:
    """How a setting with several values is written: 1,2,4; an empty word for none."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{SETTINGS[name].kinds[0].__name__.upper()},...",
        instance_from_str=lambda words: parts_of(name, words[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [_text(value)],
    )


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
