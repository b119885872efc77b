"""The groups of settings, and every setting by its flat name, as the command line has it."""

from collections.abc import Mapping
from typing import Any

from keras_ms.run.settings.data import DataSettings, ImageSettings
from keras_ms.run.settings.declaration import known_names, settings_of
from keras_ms.run.settings.model import HdmlSettings, LossSettings, ModelSettings
from keras_ms.run.settings.training import (
    BatchSettings,
    EvaluationSettings,
    ExportSettings,
    TrainingSettings,
)

# by the name that `Settings` has them under
GROUPS = {
    "data": DataSettings,
    "images": ImageSettings,
    "model": ModelSettings,
    "loss": LossSettings,
    "hdml": HdmlSettings,
    "batches": BatchSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
    "export": ExportSettings,
}
SETTINGS = {one.name: one for group, kind in GROUPS.items() for one in settings_of(kind, group)}
# a setting that chooses something with options, and the setting that holds these
OPTIONS = {"loss": "loss_options", "hdml": "hdml_options"}


def by_flat_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in groups, as settings.json has them, by flat name; what is in no group stays.

    Raises:
        ValueError: a setting that is there twice.

    Example:

    >>> by_flat_name({"loss": {"name": "triplet"}, "steps": 20})
    {'loss': 'triplet', 'steps': 20}
    """
    names = {(one.group, one.field): one.name for one in SETTINGS.values()}
    flat = {}
    for key, value in values.items():
        if key in GROUPS and isinstance(value, Mapping):
            parts = {
                names.get((key, field), f"{key}.{field}"): part for field, part in value.items()
            }
        else:
            parts = {key: value}
        twice = sorted(set(parts) & set(flat))
        if twice:
            raise ValueError(
                f"Expected each setting once. Received {', '.join(twice)} in a group and beside it"
            )
        flat |= parts
    return flat


def by_group(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by flat name, as arguments of the groups that they belong to.

    Raises:
        ValueError: an unknown name; the nearest known one is named.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in SETTINGS:
            raise ValueError(_unknown(name, value))
        groups.setdefault(SETTINGS[name].group, {})[SETTINGS[name].field] = value
    return groups


def _unknown(name, value):
    group, _, field = name.rpartition(".")
    if group:
        fields = [one.field for one in SETTINGS.values() if one.group == group]
        return f"Unknown setting {field!r} in {group}. {known_names(field, fields)}"
    if name in GROUPS:
        return (
            f"Invalid type for {name}. Expected a mapping from names to values. Received: {value!r}"
        )
    return f"Unknown setting {name!r}. {known_names(name, (*SETTINGS, *GROUPS))}"


def merged(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by flat name with those that are given on top of them.

    Options are added to those of the same loss; the options of a loss that is replaced go with it.

    Example:

    >>> merged({"loss": "margin", "loss_options": {"margin": 0.1}}, {"loss": "triplet"})
    {'loss': 'triplet', 'loss_options': {}}
    """
    result = {**values, **given}
    for name, options in OPTIONS.items():
        before = values.get(name, SETTINGS[name].default)
        if given.get(name, before) != before:
            result[options] = given.get(options, {})
        elif options in given and options in values:
            result[options] = {**values[options], **given[options]}
    return result
