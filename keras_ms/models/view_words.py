"""Test-time views in words, known without Keras: a command refuses what `average_views` would."""

from typing import Any

# of `average_views`: the largest rotation, in degrees, and zoom
MOST = {"rotation": 180.0, "zoom": 1.0}
# what a name alone stands for
_ALONE: dict[str, Any] = {"mirror": True, "zoom": 0.1, "rotation": 5.0}


def parsed_views(text: str) -> dict[str, Any]:
    """Arguments of `average_views` from words such as "mirror,zoom=0.05".

    Raises:
        ValueError: something else, or an amount that is not above 0 or beyond `MOST`.
    """
    views = {}
    for word in filter(None, map(str.strip, text.split(","))):
        name, equals, amount = word.partition("=")
        if name not in _ALONE or name in views or (equals and name not in MOST):
            raise _refusal(text)
        views[name] = _amount(amount, MOST[name], text) if equals else _ALONE[name]
    if text and not views:
        raise _refusal(text)
    return views


def _amount(word, most, text):
    try:
        amount = float(word)
    except ValueError:
        raise _refusal(text) from None
    if not 0 < amount <= most:
        raise _refusal(text)
    return amount


def _refusal(text):
    return ValueError(
        "Expected --views as mirror, zoom, rotation or several of them with commas, with amounts "
        f"such as zoom=0.1 (up to {MOST['zoom']:g}) and rotation=5 (degrees, up to "
        f"{MOST['rotation']:g}). Received: {text}"
    )
