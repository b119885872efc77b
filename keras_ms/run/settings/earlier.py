"""What earlier versions wrote and read: values packed in text, options of the loss beside it."""

import ast
from collections.abc import Mapping
from typing import Any

from keras_ms.run.losses import loss_options
from keras_ms.run.settings.groups import SETTINGS, by_flat_name

# options of multi_similarity that were settings of their own
MULTI_SIMILARITY = ("alpha", "beta", "threshold", "epsilon")
# text of names and values, and the options that it became
PACKED = {"loss_settings": "loss_options", "hdml_settings": "hdml_options"}


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of this or of an earlier version, in groups or not, by the flat names of now.

    Raises:
        ValueError: text that does not say what it should, or an option that is there twice.

    Example:

    >>> translated({"loss": "triplet", "loss_settings": "margin=0.2", "ks": "1,2"})
    {'loss': 'triplet', 'ks': (1, 2), 'loss_options': {'margin': 0.2}}
    """
    flat = by_flat_name(values)
    for name in PACKED.values():
        if not isinstance(flat.get(name, {}), Mapping):
            raise ValueError(
                f"Invalid type for {name}. Expected a mapping from names to values. Received: "
                f"{flat[name]!r}"
            )
    packed = {name: flat.pop(name) for name in PACKED if name in flat}
    beside = {name: flat.pop(name) for name in MULTI_SIMILARITY if name in flat}
    for name, value in flat.items():
        if name in SETTINGS and SETTINGS[name].is_tuple and isinstance(value, str):
            flat[name] = parts_of(name, value)
    for name, text in packed.items():
        if not isinstance(text, str):
            raise ValueError(f"Invalid type for {name}. Expected text. Received: {text!r}")
        options = {key: _value(part) for key, part in named_parts(name, text).items()}
        twice = sorted(set(options) & set(flat.get(PACKED[name], {})))
        if twice:
            raise ValueError(
                f"Expected {', '.join(twice)} once. Received: {name}={text!r} beside "
                f"{PACKED[name]} {flat[PACKED[name]]}"
            )
        if options:
            flat[PACKED[name]] = {**flat.get(PACKED[name], {}), **options}
    return flat | _options_of_multi_similarity(flat, beside)


def parts_of(name: str, text: str) -> tuple:
    """The parts of a text with commas between, as the setting of this name has them.

    Example:

    >>> parts_of("ks", "1, 10,100")
    (1, 10, 100)
    """
    kind = SETTINGS[name].kinds[0]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        raise ValueError(
            f"Invalid value for {name}. Expected whole numbers with commas between, such as "
            f"1,2,4,8. Received: {text!r}"
        ) from None


def named_parts(name: str, text: str) -> dict[str, str]:
    """The parts of `name=value,name=value`, as text.

    Raises:
        ValueError: another text, or a name that is there twice.
    """
    parts: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ValueError(
                f"Invalid value for {name}. Expected name=value with commas between, such as "
                f"margin=0.2,mining=hard. Received: {text!r}"
            )
        if key in parts:
            raise ValueError(
                f"Invalid value for {name}. Expected each name once, and {key} is there twice. "
                f"Received: {text!r}"
            )
        parts[key] = value
    return parts


def _value(text):
    """Numbers, True, False and None as such, else text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _options_of_multi_similarity(flat, beside):
    """{"loss_options": …} with what stood beside them; files held all, most often the defaults."""
    defaults = {option.name: option.default for option in loss_options("multi_similarity")}
    changed = {name: value for name, value in beside.items() if value != defaults[name]}
    if not changed:
        return {}
    loss, options = flat.get("loss", "multi_similarity"), flat.get("loss_options", {})
    if loss != "multi_similarity":
        raise ValueError(
            f"Expected {', '.join(changed)} with loss=multi_similarity alone: the options of "
            f"loss={loss} go into loss_options. Received: {changed}"
        )
    twice = sorted(set(changed) & set(options))
    if twice:
        raise ValueError(
            f"Expected {', '.join(twice)} once. Received: {changed} beside loss_options {options}"
        )
    return {"loss_options": {**changed, **options}}
