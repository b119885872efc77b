"""What an exported file says about its input: in words for people, as JSON for programs."""

from typing import Any

from keras_ms.export.inference_model import InferenceModel
from keras_ms.export.preprocessing import CUT_INSIDE, DECODING, RESIZING, Preprocessing

_SIDES = ("height", "width")


def described_preprocessing(
    wrapped: InferenceModel, preprocessing: Preprocessing | None
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
        rule |= DECODING | {"before_resizing": given.before_resizing}
    if given.resize_to is None:
        return _sentences(rule), rule
    if not given.inside:
        rule |= {"shorter_side": given.resize_to} | RESIZING
        return _sentences(rule), rule
    if height != width:
        raise ValueError(
            "Expected a model of square images for a file that prepares pictures itself. The model "
            f"{wrapped.model.name!r} takes {shape}: leave inside=True out"
        )
    cutting = {"height": height, "width": width, "shorter_side": given.resize_to} | RESIZING
    # the caller's part: the whole picture
    rule |= {"height": None, "width": None, "dtype": "uint8", "crop": CUT_INSIDE}
    rule["inside"] = cutting
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
    cutting = rule.get("inside", rule)
    height, width = ("any" if side is None else side for side in map(cutting.get, _SIDES))
    if "inside" in rule:
        sentences.append(
            "Pass the picture whole, of any size (several of one size as a batch): the file itself "
            "prepares it, as follows."
        )
    if "shorter_side" in cutting:
        sentences += [
            f"Resize the image to a shorter side of {cutting['shorter_side']} pixels, the longer "
            "one in proportion and rounded to whole pixels (halves to even), bilinear with "
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
    what = "The input takes" if "inside" in rule else "Pass"
    sentences.append(
        f"{what} {rule['dtype']} values 0-255, not normalised, of shape (batch, height, width, "
        f"channels), NHWC, with {channels}."
    )
    return " ".join(sentences)
