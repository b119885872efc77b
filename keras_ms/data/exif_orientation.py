"""How a stored picture is turned to stand upright: its EXIF orientation, 1 to 8."""

from typing import Any

import numpy as np
from PIL import Image

# orientation → whether rows and columns are swapped, then the steps by which each is read
TURNS = {
    1: (False, 1, 1), 2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1),
    5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1),
}  # fmt: skip
_UNDONE_BY = {6: 8, 8: 6}  # all others undo themselves


def exif_orientation(image: Image.Image) -> int:
    """The orientation of a Pillow image; 1, as it is stored, where none can be read."""
    try:
        orientation: Any = image.getexif().get(0x0112)
    except Exception:  # Pillow's parsers raise whatever they trip over
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (height, width, channels) upright, as a view of the array."""
    swapped, rows, columns = TURNS[orientation]
    return (pixels.swapaxes(0, 1) if swapped else pixels)[::rows, ::columns]


def turned_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright pixels as they were stored."""
    return turned(pixels, _UNDONE_BY.get(orientation, orientation))
