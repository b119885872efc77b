"""Options of earlier versions, in the words of now."""

from collections.abc import Sequence

from keras_ms.run.settings.earlier import MULTI_SIMILARITY, named_parts

# options of multi_similarity, once spelt without "loss."
_BESIDE = tuple(f"--{name}" for name in MULTI_SIMILARITY)
_PACKED = {"--loss-settings": "loss", "--hdml-settings": "hdml"}


def words_of_now(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of the command line, and a line for each that was spelt as in earlier versions.

    Raises:
        ValueError: text that is no list of names and values.

    Example:

    >>> words_of_now(["--loss", "triplet", "--loss-settings", "margin=0.2,mining=hard"])[0]
    ['--loss', 'triplet', '--loss.margin=0.2', '--loss.mining=hard']
    """
    now: list[str] = []
    lines: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, has_value, value = word.partition("=")
        if option not in _PACKED and option not in _BESIDE:
            now.append(word)
            continue
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"Expected a value behind {option}. Received none")
            value = rest.pop(0)
        if option in _PACKED:
            parts = named_parts(option[2:].replace("-", "_"), value)
            names = [f"--{_PACKED[option]}.{name}={part}" for name, part in parts.items()]
        else:
            names = [f"--loss.{option[2:]}={value}"]
        now += names
        spelling = " ".join(names).replace("=", " ") or "left out"
        lines.append(f"{option} {value or repr(value)} is now {spelling}")
    return now, lines
