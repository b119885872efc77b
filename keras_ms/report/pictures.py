"""Small pictures of images as data URIs: many in few sheets for the map, larger ones to look at."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from keras_ms.data.file_names import file_path, shown_name
from keras_ms.data.image_file import read_pixels
from keras_ms.data.image_list import ImageList
from keras_ms.data.picture_views import centre_viewer, viewed_ahead
from keras_ms.terminal.cores import num_cores
from keras_ms.terminal.progress import Progress

# multiples of 16, a JPEG's block of colour: neighbours on a sheet do not bleed into each other
SHEET_SIDE = 16
_QUALITY = 78
# pictures for each thread that are read before they are asked for
_AHEAD = 4


def picture(images: ImageList, index: int, *, size: int) -> Image.Image:
    """The centre square of an image as a Pillow image of (size, size), RGB.

    It shows the pixels that training and evaluation read.

    Args:
        images: `ImageList`, in memory or as files.
        index: row.
        size: pixels; smaller images are enlarged.

    Raises:
        FileNotFoundError, ValueError: the file is gone or damaged; the message names it.
    """
    if images.images is not None:
        pixels = images.images[index]
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    else:
        pixels = _read(images.paths[index], images.apply_exif_orientation)
    return square(pixels, size)


def square(pixels: np.ndarray, size: int) -> Image.Image:
    """The centre square of uint8 pixels, RGB or grey, as a Pillow image of (size, size), RGB."""
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box)


def _read(path, apply_exif_orientation):
    try:
        return read_pixels(path, apply_exif_orientation=apply_exif_orientation)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The image {shown_name(path)} is gone. The report shows the images themselves: put "
            "the data back"
        ) from None
    except OSError as error:
        raise ValueError(f"Cannot read the image {shown_name(path)}: {error.strerror}") from error


def image_name(images: ImageList, index: int) -> str:
    """What a page calls an image: the file's name or, of an image in memory, all of its name."""
    path = images.paths[index]
    # the folders before it say where the data lay, not what it shows
    return shown_name(path if images.images is not None else Path(path).name)


def data_uri(image: Image.Image, quality: int = _QUALITY) -> str:
    """A Pillow image as the text of a JPEG data URI."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def png_uri(path: str | Path) -> str:
    """A PNG file as the text of a data URI."""
    return "data:image/png;base64," + base64.b64encode(Path(path).read_bytes()).decode("ascii")


def small_pictures(
    images: ImageList,
    chosen: Sequence[int] | np.ndarray,
    *,
    size: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """The centre squares of many images, each read once, by threads, and decoded near its size.

    Args:
        images: `ImageList`.
        chosen: rows.
        size: pixels of one picture.
        progress: told pictures done and all of them. Defaults to None.

    Returns:
        uint8 (len(chosen), size, size, 3).

    Raises:
        FileNotFoundError, ValueError: as `picture`.
    """
    pictures = np.zeros((len(chosen), size, size, 3), np.uint8)
    view = centre_viewer(size, size, apply_exif_orientation=images.apply_exif_orientation)

    def seen(row):
        if images.images is not None:
            return np.asarray(picture(images, row, size=size))
        try:
            return view(Path(file_path(str(images.paths[row]))).read_bytes())
        except OSError as error:
            raise ValueError(str(error)) from error

    threads = num_cores()
    ahead = viewed_ahead(chosen, seen, threads=threads, ahead=_AHEAD * threads)
    for place, (row, one) in enumerate(ahead):
        if isinstance(one, str):
            # it raises the error that names the image
            one = np.asarray(picture(images, row, size=size))
        pictures[place] = one
        if progress is not None:
            progress(place + 1, len(chosen))
    return pictures


def sheets(pictures: np.ndarray, *, size: int) -> list[str]:
    """Pictures side by side on sheets of 16 × 16, row by row.

    Args:
        pictures: of `small_pictures`, of `size` or more; the n-th stands on sheet n // 256 at
            place n % 256.
        size: pixels of one picture on a sheet, a multiple of 16.

    Returns:
        List of data URIs.
    """
    on_one = SHEET_SIDE**2
    uris = []
    for start in range(0, len(pictures), on_one):
        part = pictures[start : start + on_one]
        rows = -(-len(part) // SHEET_SIDE)
        sheet = np.zeros((rows * size, SHEET_SIDE * size, 3), np.uint8)
        for place, one in enumerate(part):
            row, column = divmod(place, SHEET_SIDE)
            inside = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
            sheet[inside] = np.asarray(square(one, size)) if len(one) != size else one
        uris.append(data_uri(Image.fromarray(sheet)))
    return uris
