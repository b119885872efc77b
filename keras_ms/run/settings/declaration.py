"""How a setting is declared: its default, its explanation, its bounds, what it is read with."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from keras_ms.losses.catalogue import LossOption


class Declaration(NamedTuple):
    """What `setting` says of a field beside its default.

    Attributes:
        explanation: for the command line.
        flat_name: what the setting is called on the command line and in `Settings.from_values`;
            empty: as the field.
        choices: the values, or those of each part of a tuple; empty: any.
        at_least, above, at_most, below: bounds, of each part of a tuple.
        read_with: by flat name of another setting, its values with which this one is read.
        former_defaults: values that count as not given, since files hold them.
    """

    explanation: str
    flat_name: str = ""
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    read_with: Mapping[str, tuple] = {}
    former_defaults: tuple = ()


class Setting(NamedTuple):
    """A field of a group of settings.

    Attributes:
        group: the name of the group in `Settings`.
        field: its name in the group.
        name: its flat name.
        annotation: of the field.
        default: where nobody says anything; None is left to the situation (`Settings` has a value
            then, so that its type is without None) or to the data.
        declaration: `Declaration`.
    """

    group: str
    field: str
    name: str
    annotation: Any
    default: Any
    declaration: Declaration

    @property
    def kinds(self) -> tuple[type, ...]:
        """The types of its values, or of each part of a tuple; None is not among them."""
        parts = typing.get_args(self.annotation) or (self.annotation,)
        return tuple(part for part in parts if part not in (type(None), Ellipsis))

    @property
    def is_tuple(self) -> bool:
        return typing.get_origin(self.annotation) is tuple


def setting(default: Any, explanation: str, **declared: Any) -> Any:
    """A field of a frozen dataclass that `check_group` checks.

    Args:
        default: its default; {} for a mapping.
        explanation: for the command line.
        **declared: the other attributes of `Declaration`.
    """
    metadata = {"declaration": Declaration(explanation, **declared)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(group_class: type, group: str = "") -> tuple[Setting, ...]:
    """The settings that a group declares, in their order."""
    types = typing.get_type_hints(group_class)
    declared = []
    for field in dataclasses.fields(group_class):
        declaration = field.metadata["declaration"]
        default = {} if field.default is dataclasses.MISSING else field.default
        name = declaration.flat_name or field.name
        declared.append(Setting(group, field.name, name, types[field.name], default, declaration))
    return tuple(declared)


def check_group(group: Any) -> None:
    """Raises ValueError for a value of a group that is of the wrong type or out of bounds.

    A list becomes a tuple where one is declared: files of settings have no tuples.
    """
    for one in settings_of(type(group)):
        value = getattr(group, one.field)
        if one.is_tuple and isinstance(value, list):
            value = tuple(value)
            object.__setattr__(group, one.field, value)
        if value is None and one.default is None:  # left open
            continue
        if typing.get_origin(one.annotation) is Mapping:  # its owner knows which options there are
            if isinstance(value, Mapping):
                object.__setattr__(group, one.field, dict(value))  # nobody else's
            continue
        if one.is_tuple and not isinstance(value, tuple):
            raise _wrong_type(one.name, f"a tuple of {_in_words(one.kinds)}", value)
        parts: tuple = value if isinstance(value, tuple) else (value,)
        for part in parts:
            check_type(one.name, part, one.kinds)
            _check_bounds(one.name, part, one.declaration)


def check_type(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    """Raises ValueError for a value of none of the types, or a number that is not finite."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = isinstance(value, kinds) if not isinstance(value, bool) else bool in kinds
    if not (fits or float in kinds and is_number):
        raise _wrong_type(name, _in_words(kinds), value)
    if is_number and float in kinds and not _is_finite(value):
        raise ValueError(f"Invalid value for {name}. Expected a finite number. Received: {value!r}")
    if isinstance(value, str) and "\0" in value:
        # no file has such a name
        raise ValueError(f"Invalid value for {name}. Expected no zero byte. Received: {value!r}")


def _is_finite(number):
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number that no float holds
        return False


_WITHOUT_OPTIONS = "It has none: leave it out, or choose what has it"


def check_options(owner: str, options: Any, declared: Iterable[LossOption]) -> None:
    """Raises ValueError for options that `owner` does not have, or of another type.

    Args:
        owner: setting and value that have the options, such as "loss=triplet".
        options: by name.
        declared: the options that there are.
    """
    known = {option.name: option for option in declared}
    setting_name = owner.partition("=")[0]
    if not isinstance(options, Mapping):
        raise _wrong_type(f"{setting_name}_options", "a mapping from names to values", options)
    for name, value in options.items():
        if name not in known:
            there_are = f"It has {', '.join(known)}" if known else _WITHOUT_OPTIONS
            raise ValueError(
                f"{owner} has no option {name!r}. {there_are}. "
                f"Received: {setting_name}.{name}={value!r}"
            )
        check_type(f"{setting_name}.{name}", value, known[name].types)
        choices = known[name].choices
        if choices and isinstance(value, str) and value not in choices:
            raise ValueError(
                f"Invalid value for {setting_name}.{name}. Expected one of {', '.join(choices)}. "
                f"Received: {value!r}"
            )


def flag(name: str) -> str:
    """The option of a setting on the command line: test_fraction is --test-fraction."""
    return "--" + name.replace("_", "-")


def known_names(name: str, known: Iterable[str]) -> str:
    """A sentence about the known name that is most like another one, or about all of them."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}"


def _check_bounds(name, value, declared):
    if declared.choices and value not in declared.choices:
        raise ValueError(
            f"Invalid value for {name}. Expected one of {', '.join(declared.choices)}. "
            f"Received: {value!r}"
        )
    bounds = {
        f"at least {declared.at_least}": declared.at_least is None or value >= declared.at_least,
        f"above {declared.above}": declared.above is None or value > declared.above,
        f"at most {declared.at_most}": declared.at_most is None or value <= declared.at_most,
        f"below {declared.below}": declared.below is None or value < declared.below,
    }
    if not all(bounds.values()):
        expected = " and ".join(words for words in bounds if not words.endswith(" None"))
        raise ValueError(f"Invalid value for {name}. Expected {expected}. Received: {value!r}")


def _wrong_type(name, expected, value):
    return ValueError(f"Invalid type for {name}. Expected {expected}. Received: {value!r}")


def _in_words(kinds):
    return " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
