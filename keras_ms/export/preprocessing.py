"""How a picture becomes the input of an exported model, in words and as JSON inside the file."""

import json
import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_ms.arguments import whole_number
from keras_ms.export.onnx_packages import import_onnx_package

if TYPE_CHECKING:
    from keras_ms.export.inference_model import InferenceModel

# The folder that TensorFlow leaves to other programs inside a SavedModel.
METADATA_FILE = "assets.extra/keras_ms.json"

# What keras_ms.data.images.centre_view and its decoder do to every picture. A file that asks for
# something else cannot be followed by this version.
_DECODING = {"grey": "repeated to 3 channels", "transparency": "ignored"}
_RESIZING = {
    "longer_side": "in proportion, whole pixels, halves to even",
    "filter": "bilinear",
    "antialias": True,
    "pixel_values": "whole",
    "crop": "centre",
    "odd_pixel": "cut off right or below",
}


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

    Raises:
        ValueError: sizes that are no whole numbers, `resize_to` below `image_size`.

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
        known = _DECODING | _RESIZING
        others = {key: rule[key] for key in known if rule.get(key, known[key]) != known[key]}
        if others:
            raise ValueError(f"this version cannot follow {others}")
        height, width = rule["height"], rule["width"]
        # files that say how to treat a picture and nothing of EXIF are older than turning it
        unsaid = None if rule.keys().isdisjoint({"grey", "shorter_side"}) else False
        return Preprocessing(
            None if height is None or width is None else (height, width),
            resize_to=rule.get("shorter_side"),
            exif_orientation=rule.get("exif_orientation", unsaid),
            before_resizing=rule.get("before_resizing", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected `preprocessing_rule` in {name} as this version of keras_ms writes it: "
            f"{error}. Received: {rule!r}. Use the version that wrote the file"
        ) from error


def described_preprocessing(
    wrapped: "InferenceModel", preprocessing: Preprocessing | None
) -> tuple[str, dict[str, Any] | None]:
    """What an exported file says about its input: (text, dict for JSON or None).

    Args:
        wrapped: `InferenceModel`.
        preprocessing: `Preprocessing`, or None: what the model's input tells, without resizing.

    Raises:
        ValueError: something else, another size than the model's, or a model that does not take
            images.
    """
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise ValueError(
            "Expected `preprocessing` as keras_ms.Preprocessing(image_size=…, resize_to=…). "
            f"Received: {preprocessing!r}"
        )
    shape = wrapped.input_shape
    if preprocessing is not None and (len(shape) != 3 or shape[2] != 3):
        raise ValueError(
            f"Expected a model of RGB images, (height, width, 3), for `preprocessing`. The model "
            f"{wrapped.model.name!r} takes {shape}: describe its input in "
            "metadata={'preprocessing': …}"
        )
    if len(shape) != 3 or shape[2] not in (1, 3):
        sizes = "x".join("any" if size is None else str(size) for size in shape)
        return f"{wrapped.input_dtype}, {sizes}", None
    given = preprocessing or Preprocessing()
    height, width = _size(wrapped, given)
    rule = {
        "height": height,
        "width": width,
        "dtype": wrapped.input_dtype,
        "values": [0, 255],
        "colours": "RGB" if shape[2] == 3 else "grey",
        "layout": "NHWC",
    }
    if preprocessing is not None:
        if given.exif_orientation is not None:
            rule["exif_orientation"] = given.exif_orientation
        rule |= _DECODING | {"before_resizing": given.before_resizing}
    if given.resize_to is not None:
        rule |= {"shorter_side": given.resize_to} | _RESIZING
    return _sentences(rule), rule


def _size(wrapped, given):
    size = given.image_size
    wanted = size if isinstance(size, tuple) else (size, size)
    taken = wrapped.input_shape[:2]
    if any(side and own and side != own for side, own in zip(wanted, taken)):
        raise ValueError(
            f"Expected `preprocessing` of the size of the model's input, {taken}. "
            f"Received: image_size={size}"
        )
    height, width = (own or side for own, side in zip(taken, wanted))
    if given.resize_to is not None:
        if height is None or width is None:
            raise ValueError(
                f"The model {wrapped.model.name!r} takes images of any size: `preprocessing` with "
                "a `resize_to` needs an `image_size` too"
            )
        Preprocessing((height, width), given.resize_to)  # checks the one against the other
    return height, width


def _sentences(rule):
    """The rule for people; whoever follows it needs no other source."""
    sentences = []
    if "exif_orientation" in rule:
        turned = (
            "turned as the EXIF orientation says"
            if rule["exif_orientation"]
            else "as stored, the EXIF orientation ignored"
        )
        sentences.append(
            f"Decode the picture to RGB, {turned}; grey is repeated to 3 channels, transparency "
            "ignored."
        )
    if rule.get("before_resizing"):
        sentences.append(f"Before resizing: {rule['before_resizing'].rstrip('.')}.")
    height, width = ("any" if side is None else side for side in (rule["height"], rule["width"]))
    if "shorter_side" in rule:
        sentences += [
            f"Resize the image to a shorter side of {rule['shorter_side']} pixels, the longer one "
            "in proportion and rounded to whole pixels (halves to even), bilinear with "
            "antialiasing as Pillow's BILINEAR, values rounded to whole ones.",
            f"Cut {width} x {height} pixels (width x height) out of the centre, from the left "
            f"(width - {width}) // 2 and the top (height - {height}) // 2 on.",
        ]
    else:
        sentences.append(
            f"Images of {width} x {height} pixels (width x height); how to resize is not recorded."
        )
    channels = (
        "3 channels in the order red, green, blue" if rule["colours"] == "RGB" else "1 grey channel"
    )
    sentences.append(
        f"Pass {rule['dtype']} values 0-255, not normalised, of shape (batch, height, width, "
        f"channels), NHWC, with {channels}."
    )
    return " ".join(sentences)
