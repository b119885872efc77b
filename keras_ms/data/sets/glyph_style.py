"""How a glyph is drawn: from a font's character to images in random style, geometry and clutter."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# a master is the mask from which images are warped: about as large as the largest of them, with
# room around the ink for the turn
_MASTER_SIDE = 96
_MASTER_INK = 60


def draw_master(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """The character's ink, 255 on 0, its longer side `_MASTER_INK`, centred; None if blank."""
    left, top, right, bottom = map(int, font.getbbox(character))
    if right <= left or bottom <= top:
        return None
    ink = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(ink).text((-left, -top), character, font=font, fill=255)
    box = ink.getbbox()
    if box is None:
        return None
    ink = ink.crop(box)
    factor = _MASTER_INK / max(ink.size)
    size = [max(1, round(side * factor)) for side in ink.size]
    ink = ink.resize(size, Image.Resampling.BICUBIC)
    master = Image.new("L", (_MASTER_SIDE, _MASTER_SIDE))
    master.paste(ink, ((_MASTER_SIDE - size[0]) // 2, (_MASTER_SIDE - size[1]) // 2))
    return master


def draw_character(
    masters: Sequence[Image.Image],
    image_size: int,
    *,
    count: int,
    seed: int | Sequence[int] | np.random.SeedSequence,
) -> np.ndarray:
    """Draws one character in `count` random ways.

    Args:
        masters: masks made by `draw_master`, one per font.
        image_size: pixels of a side.
        count: number of images.
        seed: anything that `numpy.random.default_rng` takes.

    Returns:
        uint8 array of shape `(count, image_size, image_size, 3)`, RGB.
    """
    rng = np.random.default_rng(seed)
    variants = [weight for master in masters for weight in _weights(master)]
    chosen = rng.integers(len(variants), size=count)
    meshes = _draw_meshes(image_size, count, rng)
    ink = np.stack(
        [
            _warp(variants[number], mesh, image_size, rng.uniform(0.0, 1.0))
            for number, mesh in zip(chosen, meshes)
        ]
    )
    clutter = np.stack([_draw_clutter(image_size, rng) for _ in range(count)])
    ink, clutter = ink[..., None] / np.float32(255), clutter[..., None] / np.float32(255)
    paper_colour, ink_colour, clutter_colour = _draw_colours(count, rng)
    shade = np.stack([_draw_shade(image_size, rng) for _ in range(count)])[..., None]
    images = paper_colour + clutter * (clutter_colour - paper_colour)
    images = images + ink * (ink_colour - images) + shade
    grain = rng.standard_normal(images.shape[:3] + (1,), dtype=np.float32)
    images += grain * rng.uniform(2.0, 18.0, (count, 1, 1, 1)).astype(np.float32)
    return np.clip(images, 0, 255).astype(np.uint8)


def _weights(master):
    """The character with thinner, unchanged and thicker strokes."""
    # blended: a full erosion would tear the thinnest strokes of a light font
    thin = Image.blend(master, master.filter(ImageFilter.MinFilter(3)), 0.6)
    return thin, master, master.filter(ImageFilter.MaxFilter(3))


def _warp(ink, mesh, image_size, blur):
    warped = ink.transform(
        (image_size, image_size), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR
    )
    # blur in pixels of a 64 pixel image
    return np.asarray(warped.filter(ImageFilter.GaussianBlur(blur * image_size / 64)))


def _draw_meshes(image_size, count, rng, cells=3):
    """For each image, a mesh for Image.transform: cells of the image → quads of the master.

    The cells' corners pass through one random affine map per image, then each moves a little by
    itself, which bends the strokes.
    """
    edges = np.linspace(0, image_size, cells + 1).round().astype(int)
    grid = np.stack(np.meshgrid(edges, edges), axis=-1) / image_size - 0.5
    grid = grid + rng.uniform(-0.05, 0.05, (count, *grid.shape))
    grid = grid + rng.uniform(-0.08, 0.08, (count, 1, 1, 2))
    # the ink's longer side becomes 45 to 80 % of the image's
    zoom = _MASTER_INK / rng.uniform(0.45, 0.8, count)
    angle, slant = np.deg2rad(rng.uniform(-20, 20, count)), rng.uniform(-0.25, 0.25, count)
    stretch = np.exp(rng.uniform(-0.15, 0.15, count))
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(count)
    turn = np.moveaxis(np.array([[cos, -sin], [sin, cos]]), 2, 0)
    slanted = np.moveaxis(np.array([[stretch, slant], [zero, 1 / stretch]]), 2, 0)
    matrix = zoom[:, None, None] * turn @ slanted
    points = np.einsum("nij,nrcj->nrci", matrix, grid) + _MASTER_SIDE / 2
    # a quad: upper left, lower left, lower right, upper right
    quads = np.concatenate(
        [points[:, :-1, :-1], points[:, 1:, :-1], points[:, 1:, 1:], points[:, :-1, 1:]], axis=-1
    ).reshape(count, cells * cells, 8)
    bounds = edges.tolist()
    boxes = [
        (bounds[column], bounds[row], bounds[column + 1], bounds[row + 1])
        for row in range(cells)
        for column in range(cells)
    ]
    return [list(zip(boxes, corners)) for corners in quads.tolist()]


def _draw_clutter(image_size, rng):
    """Strokes and spots that belong to no character."""
    clutter = Image.new("L", (image_size, image_size))
    pen = ImageDraw.Draw(clutter)
    for _ in range(rng.integers(4)):
        ends = rng.uniform(-0.2, 1.2, 4) * image_size
        strength, width = int(rng.integers(90, 256)), int(rng.integers(1, 4))
        if rng.random() < 0.5:
            pen.line(tuple(ends), fill=strength, width=width)
        else:
            # Pillow wants left before right and top before bottom
            box = np.sort(ends.reshape(2, 2), axis=0).ravel()
            start = rng.uniform(0, 360)
            pen.arc(tuple(box), start, start + rng.uniform(60, 200), fill=strength, width=width)
    return np.asarray(clutter)


def _draw_colours(count, rng):
    """Float32 (count, 1, 1, 3) colours of paper, ink and clutter; ink and paper stand apart."""
    paper = rng.uniform(0, 255, (count, 1))
    contrast = rng.uniform(70, 200, (count, 1))
    # mostly dark on light, as characters are; the other way round where 0-255 has no room for it
    ink = paper + contrast * np.where(rng.random((count, 1)) < 0.75, -1, 1)
    ink = np.where((ink < 0) | (ink > 255), 2 * paper - ink, ink)
    clutter = paper + rng.uniform(0.2, 0.7, (count, 1)) * (ink - paper)
    tint = rng.uniform(-30, 30, (3, count, 3))
    colours = np.stack([paper, ink, clutter]) + tint
    return np.clip(colours, 0, 255).astype(np.float32)[:, :, None, None, :]


def _draw_shade(image_size, rng):
    """Uneven light: a field of a few random knots, smoothly interpolated."""
    knots = Image.fromarray(rng.uniform(-35, 35, (3, 3)).astype(np.float32))
    return np.asarray(knots.resize((image_size, image_size), Image.Resampling.BICUBIC))
