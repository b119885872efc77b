"""Glyphs, the embedded data set: characters of many scripts drawn from the fonts of matplotlib.

Nothing is downloaded. A class is a character; test classes come from scripts that training never
shows. Style (font, thickness, colours), geometry (size, place, rotation, slant, warp) and clutter
differ in every image, so that pixels say little about the class and a trained network much.
"""

import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageFont

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.declaration import DataSet
from keras_ms.data.sets.glyph_style import draw_character, draw_master

# script → (split, first and last code points). Where two scripts share a shape (A, Α, А), it
# stays with the script that comes first: all training scripts stand before the test ones, so that
# no test class was ever seen.
_SCRIPTS = {
    "latin": ("train", [(0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), (0xC6, 0xFE), (0x180, 0x2AF)]),
    "cyrillic": ("train", [(0x400, 0x4FF)]),
    "armenian": ("train", [(0x531, 0x587)]),
    "arabic": ("train", [(0x620, 0x64A), (0x671, 0x6D3)]),
    "canadian syllabics": ("train", [(0x1401, 0x14EF)]),
    "lisu": ("train", [(0xA4D0, 0xA4F7)]),
    "mathematics": ("train", [(0x2200, 0x22FF)]),
    "greek": ("test", [(0x391, 0x3E1)]),
    "coptic": ("test", [(0x3E2, 0x3EF)]),
    "hebrew": ("test", [(0x5D0, 0x5EA)]),
    "lao": ("test", [(0xE81, 0xEB0), (0xEDC, 0xEDD)]),
    "georgian": ("test", [(0x10A0, 0x10FF)]),
    "tifinagh": ("test", [(0x2D30, 0x2D6F)]),
    "n'ko": ("test", [(0x7CA, 0x7EA)]),
    "arrows": ("test", [(0x2190, 0x21FF)]),
}
# letters, digits and symbols; no marks, which only exist on top of a letter
_CATEGORIES = {"Lu", "Ll", "Lo", "Lt", "Nd", "Sm", "So"}
# above this correlation of their normalised shapes, two characters count as the same one. At 0.86,
# judged by eye, pairs stay that a dot or a short stroke tells apart, which blur and clutter hide
_SAME_SHAPE = 0.8
# turned by 20 degrees an image must not become another class
_TURNS = (-20, 0, 20)
_SHAPE_SIDE = 20
# pixels per em: about the size at which masters are kept
_FONT_SIZE = 64


def draw_glyphs(*, image_size: int = 64, images_per_class: int = 20, seed: int = 0) -> ImageList:
    """Draws the glyph data set in memory.

    Deterministic: equal arguments give equal images, and each character's images depend on `seed`
    and the character alone. Other versions of FreeType, Pillow or of matplotlib's fonts may place
    edges slightly differently or bring other characters: compare figures within one installation.

    - Characters that a font lacks are drawn with the other fonts; those that no font has are left
      out, and so are accented and ligature forms.
    - Of characters that look alike (Latin A, Greek Α; c and C, which differ in size only; also
      after a turn of 20 degrees) only the first is kept.

    Args:
        image_size: pixels of a side, 16 to 128. Defaults to 64: a character's dots and the
            clutter stay apart.
        images_per_class: images of each character, at least 2. Defaults to 20, as in Omniglot.
        seed: integer, at least 0. Another seed draws the same characters in other ways. Defaults to
            0.

    Returns:
        `ImageList` named "glyphs": uint8 images `(N, image_size, image_size, 3)`, RGB 0-255;
        every class has exactly `images_per_class` images and lies, with its whole script, in the
        split "train" or "test". Class names are Unicode's, such as "greek small letter alpha".

    Raises:
        ValueError: an argument is not an integer within its range.
        FileNotFoundError: this installation of matplotlib comes without its fonts.

    Example:

    >>> glyphs = draw_glyphs(image_size=32, images_per_class=2)
    >>> glyphs.images.shape[1:]
    (32, 32, 3)
    """
    _check_integer("image_size", image_size, 16, 128)
    _check_integer("images_per_class", images_per_class, 2, 10_000)
    _check_integer("seed", seed, 0, 2**63)
    characters = distinct_characters()
    images = np.empty((len(characters), images_per_class, image_size, image_size, 3), np.uint8)
    # one thread: two were measured to gain 10 %, most of the time is spent under Python's lock
    for index, item in enumerate(characters):
        # a generator per character: its images do not depend on which others are drawn
        sequence = np.random.SeedSequence((seed, ord(item.character)))
        images[index] = draw_character(
            item.masters, image_size, count=images_per_class, seed=sequence
        )
    names = [unicodedata.name(item.character).lower() for item in characters]
    return ImageList(
        paths=np.array(
            [f"{name} #{number}" for name in names for number in range(images_per_class)]
        ),
        labels=np.repeat(np.arange(len(names), dtype=np.int64), images_per_class),
        class_names=tuple(names),
        split=np.repeat([_SCRIPTS[item.script][0] for item in characters], images_per_class),
        images=images.reshape(-1, image_size, image_size, 3),
        name="glyphs",
    )


class Character(NamedTuple):
    """A class of the data set: `masters` are its ink masks, one uint8 image per font."""

    character: str
    script: str
    masters: list[Image.Image]


def distinct_characters() -> list[Character]:
    """The characters that the installed fonts can draw, without those that look alike.

    Returns:
        List of `Character`, in the order of the scripts and of their code points.
    """
    fonts = _read_fonts()
    candidates, others = [], []
    for script, (_, ranges) in _SCRIPTS.items():
        for code in (code for first, last in ranges for code in range(first, last + 1)):
            character = chr(code)
            if unicodedata.category(character) not in _CATEGORIES:
                continue
            # accented letters and ligatures decompose: the plain letter is a class already
            if unicodedata.normalize("NFKD", character) != character:
                continue
            able = [font for font, has in fonts if code in has]
            master = draw_master(able[0], character) if able else None
            if master is not None:
                candidates.append(Character(character, script, [master]))
                others.append(able[1:])
    kept = _distinct([item.masters[0] for item in candidates])
    for index in kept:
        masters = [draw_master(font, candidates[index].character) for font in others[index]]
        candidates[index].masters.extend(master for master in masters if master is not None)
    return [candidates[index] for index in kept]


def _read_fonts():
    """Pairs of a font and the set of code points it can draw."""
    # only this data set needs matplotlib: imported where it is used
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # matplotlib's other fonts hold symbols at private code points
    paths = sorted(folder.glob("DejaVuS*.ttf")) + sorted(folder.glob("STIXGeneral*.ttf"))
    paths = [path for path in paths if "Display" not in path.name]
    if not paths:
        raise FileNotFoundError(
            f"No fonts in {folder}. The glyphs are drawn with the fonts that matplotlib ships: "
            "install matplotlib from PyPI, or train on a folder of images"
        )
    # the plain sans serif comes first: shapes are compared in it
    paths.sort(key=lambda path: path.name != "DejaVuSans.ttf")
    # basic layout: single characters need no shaping, and results do not depend on whether Pillow
    # was built with it
    return [
        (
            ImageFont.truetype(path, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC),
            set(FT2Font(str(path)).get_charmap()),
        )
        for path in paths
    ]


def _distinct(masters):
    """Indices of the masters that resemble no earlier kept one, however turned."""
    turned = np.stack(
        [
            [_shape(master.rotate(turn, Image.Resampling.BILINEAR)) for master in masters]
            for turn in _TURNS
        ]
    )
    upright = turned[_TURNS.index(0)]
    resemblance = np.max(turned @ upright.T, axis=0)
    # of a pair either one may be the one that is turned
    alike = np.maximum(resemblance, resemblance.T) > _SAME_SHAPE
    kept = []
    for index in range(len(masters)):
        if not alike[index, kept].any():
            kept.append(index)
    return kept


def _shape(mask):
    """A mask as a unit vector without mean: the product of two is their correlation."""
    box = mask.getbbox()
    small = mask.crop(box)
    factor = _SHAPE_SIDE / max(small.size)
    size = [max(1, round(side * factor)) for side in small.size]
    centred = Image.new("L", (_SHAPE_SIDE + 4, _SHAPE_SIDE + 4))
    centred.paste(
        small.resize(size, Image.Resampling.BOX),
        ((_SHAPE_SIDE + 4 - size[0]) // 2, (_SHAPE_SIDE + 4 - size[1]) // 2),
    )
    # blurred by a pixel: strokes that lie beside each other still match
    vector = np.asarray(centred.filter(ImageFilter.GaussianBlur(1)), np.float32).ravel()
    vector = vector - vector.mean()
    return vector / np.linalg.norm(vector)


def _check_integer(name, value, smallest, largest):
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not smallest <= value <= largest:
        raise ValueError(
            f"Invalid value for `{name}`. Expected an integer from {smallest} to {largest}. "
            f"Received: {name}={value!r}"
        )


DATA_SET = DataSet(name="glyphs", load=draw_glyphs, takes=("image_size", "seed"), is_drawn=True)
