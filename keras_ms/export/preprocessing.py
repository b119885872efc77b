"""How a picture becomes the input of an exported model, and how a file that says so is read."""

import json
import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from keras_ms.arguments import whole_number
from keras_ms.export.onnx_packages import import_onnx_package

# The folder that TensorFlow leaves to other programs inside a SavedModel.
METADATA_FILE = "assets.extra/keras_ms.json"

# What keras_ms.data.images.centre_view and its decoder do to every picture. A file that asks for
# something else cannot be followed by this version.
DECODING = {"grey": "repeated to 3 channels", "transparency": "ignored"}
RESIZING = {
    "longer_side": "in proportion, whole pixels, halves to even",
    "filter": "bilinear",
    "antialias": True,
    "pixel_values": "whole",
    "crop": "centre",
    "odd_pixel": "cut off right or below",
}
# in the place of "centre" in files that cut themselves: versions that would cut twice refuse it
CUT_INSIDE = "inside the file"
_FOLLOWED = DECODING | RESIZING


@dataclass(frozen=True)
class Preprocessing:
    """The way from a picture to a model's input that `evaluation_batches` takes.

    Exported files hold it, so that whoever runs one feeds it what it was evaluated on: a photo
    that is squashed to a square, or shown whole where the model was evaluated on centres, gets
    another embedding. docs/runtimes.md does what it says without keras_ms.

    Args:
        image_size: side in pixels of the square that is cut out of the centre, or (height, width).
            Defaults to `None`: that of the model's input.
        resize_to: pixels of the shorter side before the cut, at least `image_size`. Defaults to
            `None`: not recorded.
        exif_orientation: whether photos are turned as their EXIF orientation says. Defaults to
            `True`, as `evaluation_batches` reads them; `False`: pixels as they are stored, which
            is also what files of earlier versions want that say how to resize and nothing of it;
            `None`: not recorded.
        before_resizing: what else is done to a picture first, in words, for people. Defaults to
            `""`: nothing.
        inside: whether the file itself resizes and cuts, so that it takes uint8 pictures of any
            size as they are decoded; `export_onnx` writes such files. Reads `resize_to`, and takes
            a square only. Defaults to `False`: whoever runs the file prepares its images.

    Raises:
        ValueError: sizes that are no whole numbers, `resize_to` below `image_size`, `inside`
            without `resize_to` or with an `image_size` that is no square.

    Example:

    ```python
    rule = keras_ms.Preprocessing(image_size=160, resize_to=180)
    keras_ms.export_onnx(model, "embedder.onnx", preprocessing=rule)
    ```
    """

    image_size: int | tuple[int, int] | None = None
    resize_to: int | None = None
    _: KW_ONLY
    exif_orientation: bool | None = True
    before_resizing: str = ""
    inside: bool = False

    def __post_init__(self) -> None:
        size = self.image_size
        if isinstance(size, (tuple, list)):
            if len(size) != 2:
                raise ValueError(
                    "Expected `image_size` as pixels or (height, width). "
                    f"Received: {self.image_size!r}"
                )
            size = tuple(whole_number("image_size", side) for side in size)
            # every consumer is spared two spellings of a square
            size = size[0] if size[0] == size[1] else size
        elif size is not None:
            size = whole_number("image_size", size)
        object.__setattr__(self, "image_size", size)
        if self.resize_to is not None:
            least = max(size) if isinstance(size, tuple) else size or 1
            side = whole_number("resize_to", self.resize_to, least=least)
            object.__setattr__(self, "resize_to", side)
        if not isinstance(self.exif_orientation, bool | None):
            raise ValueError(
                "Expected `exif_orientation` to be True, False or None. "
                f"Received: {self.exif_orientation!r}"
            )
        if not isinstance(self.before_resizing, str):
            raise ValueError(
                f"Expected `before_resizing` as text. Received: {self.before_resizing!r}"
            )
        if not isinstance(self.inside, bool):
            raise ValueError(f"Expected `inside` to be True or False. Received: {self.inside!r}")
        if self.inside and (self.resize_to is None or isinstance(size, tuple)):
            raise ValueError(
                "inside=True needs to know how a picture becomes a square: give `resize_to`, the "
                "pixels of its shorter side before the centre is cut out, and as `image_size` one "
                f"number. Received: image_size={size}, resize_to={self.resize_to}"
            )


def read_preprocessing(path: str | os.PathLike) -> Preprocessing | None:
    """How an exported file wants its images, as it says itself.

    Args:
        path: an .onnx file or a SavedModel folder.

    Returns:
        A `Preprocessing`, or None where the file holds none: a file of another program or of an
        earlier keras_ms, a model of something else than images.

    Raises:
        FileNotFoundError: nothing at `path`.
        ImportError: an ONNX file without onnxruntime, of the extra `onnx`.
        ValueError: neither kind of file, or a rule that this version cannot follow.

    Example:

    ```python
    keras_ms.export.read_preprocessing("embedder.onnx").resize_to
    ```
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No exported model at {path}")
    if path.is_dir():
        return recorded_preprocessing(saved_model_facts(path), path.name)
    onnxruntime = import_onnx_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised, with the same text
    # the graph is not run
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ValueError(
            f"Expected an ONNX file or a SavedModel folder. {path} cannot be read: {error}"
        ) from error
    return recorded_preprocessing(session.get_modelmeta().custom_metadata_map, path.name)


def square_sizes(rule: Preprocessing) -> tuple[int, int]:
    """`image_size` and `resize_to` of a rule that has both, of a square.

    Raises:
        ValueError: a rule that has not.
    """
    size, shorter = rule.image_size, rule.resize_to
    if not isinstance(size, int) or shorter is None:
        raise ValueError(
            f"Expected the sizes of a square and of the shorter side. Received: {rule}"
        )
    return size, shorter


def saved_model_facts(path: str | os.PathLike) -> dict[str, Any]:
    """What a SavedModel says about itself: a dict, empty for one of another program."""
    file = Path(path) / METADATA_FILE
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not isinstance(facts, dict):
        raise ValueError(f"Expected {file} to hold a JSON object. Received: {facts!r}")
    return facts


def recorded_preprocessing(facts: Mapping[str, Any], name: str) -> Preprocessing | None:
    """The `Preprocessing` among the facts of an exported file, or None.

    Args:
        facts: dict of an ONNX file's metadata or a SavedModel's keras_ms.json.
        name: of the file, for errors.
    """
    rule = facts.get("preprocessing_rule")
    if rule is None:
        return None
    try:
        rule = json.loads(rule) if isinstance(rule, str) else rule
        inside = "inside" in rule
        cutting = rule["inside"] if inside else rule
        found = {key: rule[key] for key in DECODING if key in rule}
        found |= {key: cutting[key] for key in RESIZING if key in cutting}
        others = {key: value for key, value in found.items() if value != _FOLLOWED[key]}
        if others:
            raise ValueError(f"this version cannot follow {others}")
        height, width = cutting["height"], cutting["width"]
        # files that say how to treat a picture and nothing of EXIF are older than turning it
        unsaid = None if rule.keys().isdisjoint({"grey", "shorter_side"}) else False
        return Preprocessing(
            None if height is None or width is None else (height, width),
            resize_to=cutting.get("shorter_side"),
            exif_orientation=rule.get("exif_orientation", unsaid),
            before_resizing=rule.get("before_resizing", ""),
            inside=inside,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected `preprocessing_rule` in {name} as this version of keras_ms writes it: "
            f"{error}. Received: {rule!r}. Use the version that wrote the file"
        ) from error
