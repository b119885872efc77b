"""What can be given as a backbone in a word, known without Keras: names, presets, files.

A table of facts, and checks that answer a typo in a second. `backbones.py` builds the networks that
have names; `adapters.py` takes presets, files and models.
"""

import difflib
import json
import os
import sys
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
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
_CAFFE = "BGR minus ImageNet's mean"


class ListedBackbone(NamedTuple):
    """A backbone that has a name.

    Attributes:
        name: for `build_embedder` and `--backbone`.
        image_size: side of the images in pixels that its public weights were trained on; of a
            network that is trained from scratch, the default of `scripts/train.py`.
        parameters: of the network without a head.
        normalisation: what it is given of RGB 0–255, in words; it is done inside the model.
        weights: "download" (`weights="imagenet"`), "file" (a `.weights.h5` file that is made
            first) or "none" (trained from scratch).
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
        ("mobilenet_v3_small", 224, 939_120, _MINUS_ONE_TO_ONE, "download"),
        ("mobilenet_v3_large", 224, 2_996_352, _MINUS_ONE_TO_ONE, "download"),
        ("nasnet_mobile", 224, 4_269_716, _MINUS_ONE_TO_ONE, "download"),
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


def check_backbone_source(backbone: str) -> None:
    """Refuses a preset or a file that cannot be read, as far as that is seen without Keras.

    Raises:
        ValueError: a name that there is not, a folder that is no preset, a file that is no .keras
            file.
        FileNotFoundError: nothing there.
        ImportError: KerasHub is missing, or Python or Keras are too old for it.
    """
    check_backbone_name(backbone)
    if backbone_kind(backbone) == "file":
        path = Path(backbone)
        if not path.exists():
            raise FileNotFoundError(f"Expected a .keras file as backbone. Nothing is at {path}")
        if path.is_dir() or not zipfile.is_zipfile(path):
            raise ValueError(
                f"Expected a .keras file as backbone. {path} is a folder, damaged, or another file"
            )
    elif backbone_kind(backbone) == "hub":
        check_hub_can_be_imported(backbone)
        folder = preset_folder(backbone)
        if folder is not None:
            _check_preset(folder)


def check_hub_can_be_imported(backbone: str) -> None:
    """Raises ImportError where KerasHub is missing, or Python or Keras are too old for it.

    Args:
        backbone: what wants it, for the message.
    """
    wants = f"{backbone} takes its network from KerasHub, which needs"
    if sys.version_info < (3, 11):
        raise ImportError(f"{wants} Python 3.11 or newer. This is Python {sys.version.split()[0]}")
    keras_version = metadata.version("keras")
    if tuple(int(part) for part in keras_version.split(".")[:2]) < (3, 15):
        raise ImportError(f"{wants} Keras 3.15 or newer. This is Keras {keras_version}")
    try:
        metadata.version("keras-hub")
    except metadata.PackageNotFoundError:
        raise ImportError(
            f'{wants} the package keras-hub: pip install "keras_ms[hub]" (about 200 MB, most of it '
            "tensorflow-text)"
        ) from None


def preset_folder(backbone: str) -> Path | None:
    """The folder of a local preset; None for one that KerasHub finds by its name or address.

    Raises:
        FileNotFoundError: what looks like a folder is none.
    """
    preset = backbone.removeprefix(HUB)
    if "://" in preset:
        return None
    path = Path(preset).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or os.sep in preset or preset.startswith("."):
        raise FileNotFoundError(
            f"Expected the folder of a preset behind hub:, as KerasHub's save_to_preset writes it. "
            f"{path} is no folder"
        )
    return None


def known_image_size(backbone: str) -> int | None:
    """The side of the images that a local preset or a .keras file takes, read without Keras.

    Returns:
        Pixels; None where the network takes several sizes, images that are not square, or where
        nothing can be read.
    """
    try:
        if backbone_kind(backbone) == "file":
            with zipfile.ZipFile(backbone) as file:
                config = json.loads(file.read("config.json"))
        else:
            folder = preset_folder(backbone)
            config = {} if folder is None else _json(folder / "config.json")
        shapes = [shape[1:] for shape in _values_of("batch_shape", config) if len(shape or ()) == 4]
        # of KerasHub's networks, which make their input themselves
        shapes += _values_of("image_shape", config)
        shape = shapes[0] if shapes else None
        height, width, channels = shape or (None, None, None)
        return height if isinstance(height, int) and (height, 3) == (width, channels) else None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None  # whoever builds the network says what is wrong


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


def _check_preset(folder: Path) -> None:
    expected = (
        f"{HUB}{folder} is not the folder of a preset, as KerasHub's save_to_preset writes it"
    )
    if not (folder / "config.json").is_file():
        raise ValueError(f"{expected}: it has no config.json")
    try:
        config = _json(folder / "config.json")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{expected}: its config.json cannot be read ({error})") from error
    if not {"registered_name", "model_type", "architecture"} & set(config):
        raise ValueError(
            f"{expected}: its config.json names no network of Keras, Transformers or timm"
        )
    weights = [
        file for pattern in ("*.weights.h5", "*.safetensors") for file in folder.glob(pattern)
    ]
    if not weights:
        raise ValueError(f"{expected}: it has no weights, *.weights.h5 or *.safetensors")
    for file in weights:
        with open(file, "rb") as opened:
            begin = opened.read(8)
        if len(begin) < 8 or file.suffix == ".h5" and begin != b"\x89HDF\r\n\x1a\n":
            raise ValueError(
                f"{expected}: {file.name} ({file.stat().st_size:,} bytes) is cut short or of "
                "another kind. Copy or save the folder again"
            )


def _json(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"a JSON value that is no object: {str(values)[:40]!r}")
    return values


def _values_of(key, config):
    """The values of a key anywhere in a configuration, outermost first."""
    parts = config.values() if isinstance(config, dict) else config
    if isinstance(config, dict) and key in config:
        yield config[key]
    if isinstance(parts, (list, tuple)) or isinstance(config, dict):
        for part in parts:
            if isinstance(part, (dict, list, tuple)):
                yield from _values_of(key, part)
