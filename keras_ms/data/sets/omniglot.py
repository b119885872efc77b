"""Omniglot: 1,623 handwritten characters, 20 drawings each, read from its authors' two archives."""

import io
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.declaration import DataSet, Option
from keras_ms.data.sets.rotated_classes import rotated_classes

# split → archive, number of characters in it
_ARCHIVES = {
    "train": ("omniglot_images_background.zip", 964),
    "test": ("omniglot_images_evaluation.zip", 659),
}
_DRAWINGS_PER_CHARACTER = 20
_SIDE = 105
# a frame's side over the ink's: room for the distortions of training to move in
_FRAME = 1.2
# of a drawing's side, that ink is taken to have at least: a dot does not fill the picture
_SMALLEST_INK = 20 / _SIDE
# the largest drawing holds 522 bytes; a member that claims to unpack to more than this is no
# drawing of Omniglot and is refused before it is unpacked
_LARGEST_MEMBER = 64 * 1024
_WHERE = (
    "The authors distribute both archives at https://github.com/brendenlake/omniglot, folder "
    "python/ (there named images_background.zip and images_evaluation.zip)"
)


def load_omniglot(folder: str | Path, *, image_size: int = 35, framed: bool = False) -> ImageList:
    """Reads Omniglot with the background characters for training, the evaluation ones for testing.

    Each character is a class (`"Alphabet/character01"`), so test classes, and even their
    alphabets, are never seen in training. Nothing is unpacked to disk.

    The drawings keep their polarity, dark ink (0) on white paper (255): a model trained on them
    takes an ordinary picture of a character as it is. Where a distortion brings in pixels from
    outside, fill them with 255.

    Reference: Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic
    program induction, Science 350 (2015).

    Args:
        folder: the folder that holds `omniglot_images_background.zip` and
            `omniglot_images_evaluation.zip` (or the same without `omniglot_`).
        image_size: pixels of a side, at most 105. The drawings, 105 × 105 pixels of pure black or
            white, are averaged over areas down to it (interpolated if `framed`). Defaults to 35, a
            third of the original: every pixel is then the mean of 3 × 3.
        framed: cut each drawing to a square around its ink, as `frame_drawing` does, before it
            becomes smaller. A model trained so has to be given drawings cut like this. Defaults to
            False, the drawings as they are.

    Returns:
        `ImageList` of 32,460 images, uint8 `(N, image_size, image_size, 1)`; 19,280 have the
        split "train", 13,180 "test". A warning tells counts that differ from these.

    Raises:
        FileNotFoundError: an archive is missing (the message says which and where it goes).
        ValueError: an archive is damaged or is no Omniglot archive, or `image_size` is impossible.

    Example:

    >>> characters = load_omniglot("downloads", image_size=28)   # doctest: +SKIP
    >>> characters.subset("test").images.shape                   # doctest: +SKIP
    (13180, 28, 28, 1)
    """
    if not isinstance(image_size, (int, np.integer)) or not 8 <= image_size <= _SIDE:
        raise ValueError(
            f"Invalid value for `image_size`. Expected an integer from 8 to {_SIDE} (the drawings' "
            f"own side). Received: image_size={image_size!r}"
        )
    # both are looked for before either is read: one message tells everything that is missing
    archives = _find_archives(Path(folder))
    paths, images, characters, splits = [], [], [], []
    for split, archive in archives.items():
        names, pixels = _read_archive(archive, int(image_size), framed)
        _tell_other_counts(archive, names, _ARCHIVES[split][1])
        paths += [f"{archive.name}/{name}" for name in names]  # wherever the archive lies
        images.append(pixels)
        characters += [_character(name) for name in names]
        splits += [split] * len(names)
    class_names = tuple(dict.fromkeys(characters))
    if len(class_names) != len(dict.fromkeys(zip(characters, splits))):
        raise ValueError(
            f"The two archives in {folder} share characters, so train and test classes would "
            f"overlap. {_WHERE}"
        )
    class_ids = {name: number for number, name in enumerate(class_names)}
    return ImageList(
        paths=np.array(paths),
        labels=np.array([class_ids[name] for name in characters], dtype=np.int64),
        class_names=class_names,
        split=np.array(splits),
        images=np.concatenate(images),
        name="omniglot",
    )


def _find_archives(folder):
    archives, missing = {}, []
    for split, (name, _) in _ARCHIVES.items():
        candidates = [folder / name, folder / name.removeprefix("omniglot_")]
        present = [path for path in candidates if path.is_file()]
        if present:
            archives[split] = present[0]
        else:
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"Missing in the folder {str(folder)!r}: {' and '.join(missing)}. Put them there as "
            f"they are, without unpacking. {_WHERE}"
        )
    return archives


def _read_archive(archive, image_size, framed):
    """Names, sorted so that ids do not depend on the archive's order, and uint8 images."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = sorted(
                (member for member in opened.infolist() if _is_drawing(member.filename)),
                key=lambda member: member.filename,
            )
            if not members:
                raise ValueError(
                    f"{archive} holds no drawings: expected names such as "
                    f"images_background/Greek/character01/0394_01.png. {_WHERE}"
                )
            # decoding releases Python's lock for part of the time only: two workers are enough
            with ThreadPoolExecutor(2) as workers:
                images = list(
                    workers.map(
                        lambda member: _read_drawing(opened, member, image_size, framed), members
                    )
                )
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{archive} is damaged or is no zip archive ({error}). Fetch it again. {_WHERE}"
        ) from error
    return [member.filename for member in members], np.stack(images)[..., None]


def _is_drawing(name):
    # also passes over the __MACOSX/ copies that some systems add to an archive
    return name.count("/") == 3 and name.endswith(".png") and not name.startswith("__")


def _character(name):
    _, alphabet, character, _ = name.split("/")
    return f"{alphabet}/{character}"


def _read_drawing(opened, member, image_size, framed):
    if member.file_size > _LARGEST_MEMBER:
        raise ValueError(
            f"{member.filename} in {opened.filename} would unpack to {member.file_size} bytes; a "
            f"drawing has at most {_LARGEST_MEMBER}. This is no Omniglot archive. {_WHERE}"
        )
    try:
        with Image.open(io.BytesIO(opened.read(member)), formats=["PNG"]) as drawing:
            if drawing.size != (_SIDE, _SIDE):
                raise ValueError(f"expected {_SIDE} x {_SIDE} pixels, received {drawing.size}")
            grey = drawing.convert("L")
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{member.filename} in {opened.filename} cannot be read ({error}). Fetch the archive "
            f"again. {_WHERE}"
        ) from error
    if framed:
        return frame_drawing(grey, image_size)
    # averages areas: exact where the sides divide, without ringing at the strokes
    return np.asarray(grey.resize((image_size, image_size), Image.Resampling.BOX))


def frame_drawing(drawing: Image.Image | np.ndarray, image_size: int) -> np.ndarray:
    """A square cut around the ink of a drawing, as `load_omniglot(framed=True)` reads them.

    The square's side is 1.2 times the longer side of the ink, so that large and small characters
    fill the picture alike; what lies outside the drawing is white. A dot stays small: the ink
    counts as at least 20/105 of the drawing's longer side. An empty sheet is taken whole. What is
    transparent counts as white.

    Args:
        drawing: `PIL.Image.Image` or uint8 array (height, width), dark ink (below 128) on white
            paper (255).
        image_size: pixels of a side of the result.

    Returns:
        uint8 array (image_size, image_size).

    Raises:
        ValueError: an array of another shape or dtype.

    Example:

    >>> drawing = np.full((100, 300), 255, np.uint8)
    >>> drawing[40:60, 200:240] = 0
    >>> frame_drawing(drawing, 24)[[0, 12], 12]
    array([255,   0], dtype=uint8)
    """
    if not isinstance(drawing, Image.Image):
        array = np.asarray(drawing)
        if array.ndim != 2 or array.dtype != np.uint8:
            raise ValueError(
                "Expected a drawing as a PIL image or a uint8 array (height, width). Received: "
                f"shape {array.shape}, dtype {array.dtype}"
            )
        drawing = Image.fromarray(array)
    if drawing.has_transparency_data:
        # what shows through is paper, whatever colour hides below
        drawing = drawing.convert("RGBA")
        drawing = Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing)
    grey = drawing.convert("L")
    longer = max(grey.size)
    ink = grey.point([255 * (value < 128) for value in range(256)]).getbbox()
    left, top, right, bottom = ink or (0, 0, *grey.size)
    half = longer / 2
    if ink:
        half = _FRAME * max(right - left, bottom - top, _SMALLEST_INK * longer) / 2
    # half is at most 0.6 of the longer side: the square stays on this paper
    paper = Image.new("L", (grey.width + 2 * longer, grey.height + 2 * longer), 255)
    paper.paste(grey, (longer, longer))
    x, y = (left + right) / 2 + longer, (top + bottom) / 2 + longer
    box = (x - half, y - half, x + half, y + half)
    # sides that do not divide: a box filter would take one pixel here and two there
    return np.asarray(paper.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box))


def _tell_other_counts(archive, names, expected_characters):
    characters = [_character(name) for name in names]
    counts = np.unique(characters, return_counts=True)[1]
    if len(counts) != expected_characters or np.any(counts != _DRAWINGS_PER_CHARACTER):
        warnings.warn(
            f"{archive} holds {len(counts)} characters with {counts.min()} to {counts.max()} "
            f"drawings; Omniglot has {expected_characters} with {_DRAWINGS_PER_CHARACTER} each. "
            "Figures will not compare with others'",
            stacklevel=3,
        )


def _load(data_dir, *, framed_drawings=False, **arguments):
    return load_omniglot(data_dir, framed=framed_drawings, **arguments)


DATA_SET = DataSet(
    name="omniglot",
    load=_load,
    marks=("omniglot_images_*.zip", "images_background.zip", "images_evaluation.zip"),
    options=(
        Option("framed_drawings", False, "drawings on white paper"),
        Option(
            "rotated_classes",
            False,
            "characters that are drawn upright",
            change=lambda images, wanted: rotated_classes(images) if wanted else images,
        ),
    ),
    takes=("image_size",),
    has_groups=True,
)
