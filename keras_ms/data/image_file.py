"""One image file: what can be read of it, or why not."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

# An ending says where to look; what a file is, its content says. Those that this Pillow cannot
# read (HEIC without a plugin) are refused by name and not passed over.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
    ".avif", ".heic", ".heif",
)  # fmt: skip

# Pillow's names for what the bytes are; MPO is a JPEG with further pictures appended.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "HEIF")


def image_fault(path):
    """Why the image file cannot be read, in words; None if it can."""
    try:
        _decoded(Path(os.fsdecode(path)).read_bytes())
    except Image.UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
        return str(error) or type(error).__name__
    return None


def read_pixels(path):
    """uint8 array (height, width, 3), RGB, of an image file."""
    return np.asarray(_decoded(Path(os.fsdecode(path)).read_bytes()))


def _decoded(contents):
    with Image.open(io.BytesIO(contents)) as image:
        if image.format not in _FORMATS:
            raise ValueError(
                f"its content is {image.format}; expected one of {', '.join(_FORMATS)}"
            )
        return image.convert("RGB")
