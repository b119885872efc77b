"""Presets and files that are named as backbones: what is wrong with them, seen without Keras."""

import json
import os
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_ms.models.backbone_names import HUB, backbone_kind, check_backbone_name


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
            f'{wants} the package keras-hub: pip install -e ".[hub]" (about 200 MB, most of it '
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
