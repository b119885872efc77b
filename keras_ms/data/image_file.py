"""One image file, judged and read: what `image_fault` passes, every reader reads alike."""

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

from keras_ms.data.exif_orientation import exif_orientation, turned, turned_back
from keras_ms.data.file_names import file_path, shown_name
from keras_ms.data.plain_jpeg import plain_jpeg

# An ending says where to look; what a file is, its content says. Those that this Pillow cannot
# read (HEIC without pillow-heif) are refused by name and not passed over.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
    ".avif", ".heic", ".heif",
)  # fmt: skip

# Pillow's names for what the bytes are; MPO is a JPEG with further pictures appended.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "HEIF")
# brands of the container that both share → name, what reads it
_BOXED = {
    (b"avif", b"avis"): ("AVIF", "Pillow from 11.3 on reads it"),
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"): (
        "HEIC",
        "with pip install pillow-heif it is read",
    ),
}
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"GIF8": "GIF", b"RIFF": "WebP",
    b"II*\0": "TIFF", b"MM\0*": "TIFF",
}  # fmt: skip
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF


def image_fault(path: str | Path) -> str | None:
    """Why no reader reads the image file, in words; None if all do.

    A plain JPEG is judged by its structure, any other file is decoded.
    """
    try:
        contents = Path(file_path(path)).read_bytes()
        if plain_jpeg(contents) is None:
            decoded(contents)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    return None


def read_pixels(path: str | Path, *, apply_exif_orientation: bool = True) -> np.ndarray:
    """The pixels of an image file as training and evaluation see them, before any resizing.

    Args:
        path: the file.
        apply_exif_orientation: turn the picture as its EXIF orientation says.

    Returns:
        uint8 array (height, width, 3), RGB.

    Raises:
        FileNotFoundError: the file is gone.
        ValueError: it cannot be read; the message names it and says why.

    Example:

    >>> read_pixels("photo.jpg").shape  # doctest: +SKIP
    (375, 500, 3)
    """
    contents = Path(file_path(path)).read_bytes()
    return pixels_of(contents, path, apply_exif_orientation=apply_exif_orientation)


def pixels_of(
    contents: bytes, path: str | bytes | Path | None = None, *, apply_exif_orientation: bool = True
) -> np.ndarray:
    """`read_pixels` of bytes that are read already.

    Args:
        contents: bytes.
        path: where they are from, for errors. Defaults to `None`: the words alone.
        apply_exif_orientation: as in `read_pixels`.

    Raises:
        ValueError: as `decoded`.
    """
    plain = plain_jpeg(contents)
    if plain is None:
        return decoded(contents, path, apply_exif_orientation=apply_exif_orientation)
    # the decoder of read_image: another library's differs by a grey level here and there
    import tensorflow as tf

    pixels = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return turned(pixels, plain.orientation) if apply_exif_orientation else pixels


def decoded(
    contents: bytes, path: str | bytes | Path | None = None, *, apply_exif_orientation: bool = True
) -> np.ndarray:
    """uint8 array (height, width, 3), RGB, that Pillow reads from the bytes of an image file.

    Args:
        contents: bytes.
        path: where they are from, for errors. Defaults to `None`: the words alone.
        apply_exif_orientation: as in `read_pixels`.

    Raises:
        ValueError: the bytes are no image of `_FORMATS`, or are damaged.
    """
    try:
        image = _opened(contents)
        orientation = exif_orientation(image)
        image.load()
        pixels = _rgb(image)
    except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
        fault = str(error) or type(error).__name__
        words = f"Cannot read the image {shown_name(path)}: {fault}" if path else fault
        raise ValueError(words) from error
    # Pillow turns TIFFs while it loads them and takes the tag away
    is_turned = orientation != exif_orientation(image)
    if is_turned == apply_exif_orientation:
        return pixels
    return (turned_back if is_turned else turned)(pixels, orientation)


def _opened(contents):
    _find_formats()
    try:
        formats = [name for name in _FORMATS if name in Image.OPEN]
        return Image.open(io.BytesIO(contents), formats=formats)
    except Image.UnidentifiedImageError:
        raise ValueError(_foreign(contents)) from None


@functools.cache
def _find_formats():
    """Registers all that Pillow reads, and HEIC where pillow-heif is installed."""
    Image.init()
    if "HEIF" in Image.OPEN:
        return  # by the user's own plugin
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _foreign(contents):
    """What the bytes are that Pillow reads as none of the formats."""
    if not contents:
        return "the file is empty"
    if contents[4:8] == b"ftyp":
        for brands, (name, reader) in _BOXED.items():
            if contents[8:12] in brands:
                return f"its content is {name}; {reader}, or save it as JPEG or PNG"
    try:
        with Image.open(io.BytesIO(contents)) as image:
            return f"its content is {image.format}; expected one of {', '.join(_FORMATS)}"
    except Exception:
        for signature, name in _SIGNATURES.items():
            if contents.startswith(signature):
                return f"a damaged {name}, or one of a rare kind; save it anew"
        return "not an image"


def _rgb(image):
    """uint8 RGB of a loaded image: the upper byte of 16 bits, colours as under transparency."""
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        return _upper_byte(image)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are 32-bit numbers (mode {image.mode}), which do not say what is white; "
            "save it with 8 or 16 bits"
        )
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    image.info.pop("transparency", None)
    return np.asarray(image.convert("RGB"))


def _upper_byte(image):
    """uint8 RGB of an image of grey values of 16 bits, or of 12 in some TIFFs."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    grey = np.asarray(image).astype(np.int32) >> bits - 8
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds up to 8 bits
        grey = 255 - grey
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def num_pixels(path: str | Path) -> int:
    """How many pixels an image file has, by its header; 0 where none can be told."""
    _find_formats()
    try:
        with Image.open(file_path(path)) as image:
            return image.width * image.height
    except Exception:  # whoever reads the file says what is wrong with it
        return 0
