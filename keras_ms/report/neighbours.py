"""A picture of what queries find: a row for each, its nearest images framed by right or wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_ms.arguments import whole_number
from keras_ms.data.image_list import ImageList
from keras_ms.evaluation.inputs import checked_embeddings, unit_rows
from keras_ms.report.pictures import picture

_GAP, _MARGIN, _TITLE = 8, 16, 40
# apart for the colour-blind too, whom the tick and the cross tell
RIGHT, WRONG = (22, 138, 82), (206, 66, 54)


def draw_neighbours(
    images: ImageList,
    embeddings: Mapping[str, Any],
    *,
    queries: int | Sequence[int] | np.ndarray = 6,
    neighbours: int = 5,
    seed: int = 0,
    size: int = 76,
) -> Image.Image:
    """Queries with their nearest images, framed green with a tick where they are of its class.

    Several sets of embeddings of the same images, such as those before and after a training, stand
    side by side and are searched with the same queries. Each query is searched among all other
    images of the list, by cosine similarity.

    Args:
        images: `ImageList`, in memory or as files.
        embeddings: dict from a title to an array (len(images), dimension), a row for each image.
        queries: how many, drawn at random, one of a class, so that none is chosen by what it finds;
            or the rows to search with. Defaults to 6.
        neighbours: images found for each query. Defaults to 5.
        seed: draws the queries. Defaults to 0.
        size: pixels of a side of each image. Defaults to 76.

    Returns:
        A Pillow image; notebooks show it, `.save("neighbours.png")` writes it.

    Raises:
        ValueError: no embeddings, or not a row for each image; more queries than classes, rows that
            are not there, or more neighbours than other images.
        FileNotFoundError: an image is gone.

    Example:

    >>> glyphs = keras_ms.draw_glyphs(image_size=16, images_per_class=2).subset("test")
    >>> pixels = glyphs.images.reshape(len(glyphs), -1)
    >>> draw_neighbours(glyphs, {"by pixels": pixels}, queries=2, neighbours=3).size
    (384, 224)
    """
    if not embeddings:
        raise ValueError("Expected embeddings under at least one title. Received: none")
    neighbours = whole_number("neighbours", neighbours)
    if neighbours >= len(images):
        raise ValueError(
            f"Expected `neighbours` below the number of images, {len(images)}. Received: "
            f"{neighbours}"
        )
    rows = _queries(images.labels, queries, seed)
    found = {}
    for title, values in embeddings.items():
        values = checked_embeddings(values, f"embeddings[{title!r}]")
        if len(values) != len(images):
            raise ValueError(
                f"Expected a row for each of {len(images)} images. Received: {len(values)} rows "
                f"of {title!r}"
            )
        found[title] = nearest(values, rows, neighbours)
    return _page(images, rows, found, whole_number("size", size, least=32))


def nearest(rows: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """The `count` rows most similar to each query but itself, by cosine: (queries, count).

    Example:

    >>> nearest(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), np.array([0]), 2).tolist()
    [[2, 1]]
    """
    rows = unit_rows(np.asarray(rows))
    similarity = rows[queries] @ rows.T
    similarity[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def draw_queries(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """One random image of each of `count` random classes."""
    random = np.random.default_rng(seed)
    classes = random.choice(np.unique(labels), count, replace=False)
    return np.array([random.choice(np.flatnonzero(labels == each)) for each in classes])


def _queries(labels, queries, seed):
    if np.ndim(queries) == 0:
        count, classes = whole_number("queries", queries), len(np.unique(labels))
        if count > classes:
            raise ValueError(
                f"Expected at most as many `queries` as classes, {classes}. Received: {count}"
            )
        return draw_queries(labels, count, seed)
    rows = np.asarray(queries)
    is_there = rows.ndim == 1 and rows.size and rows.dtype.kind in "iu"
    if not is_there or rows.min() < 0 or rows.max() >= len(labels):
        raise ValueError(
            f"Expected `queries` as rows of the images, 0 to {len(labels) - 1}. Received: "
            f"{queries!r}"
        )
    return rows


def _page(images, queries, found, size):
    import matplotlib.font_manager

    font = ImageFont.truetype(matplotlib.font_manager.findfont("DejaVu Sans"), 18)
    step, starts, x = size + _GAP, [], _MARGIN + size + 4 * _GAP
    for title, rows in found.items():
        starts.append(x)
        # a long title over few images needs the room
        x += max(rows.shape[1] * step, round(font.getlength(title))) + 3 * _GAP
    width, height = x - 4 * _GAP + _MARGIN, _TITLE + len(queries) * step + _MARGIN
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, 12), "query", font=font, fill="black")
    for start, title in zip(starts, found):
        pen.text((start, 12), title, font=font, fill="black")
    for line, query in enumerate(queries):
        y = _TITLE + line * step
        page.paste(picture(images, int(query), size=size), (_MARGIN, y))
        for start, rows in zip(starts, found.values()):
            for place, row in enumerate(rows[line]):
                is_right = bool(images.labels[row] == images.labels[query])
                corner = (start + place * step, y)
                page.paste(picture(images, int(row), size=size), corner)
                _mark(pen, corner, size, is_right)
    return page


def _mark(pen, corner, size, is_right):
    x, y = corner
    colour = RIGHT if is_right else WRONG
    pen.rectangle((x - 3, y - 3, x + size + 2, y + size + 2), outline=colour, width=4)
    x, y = x + size - 18, y + size - 18
    pen.rectangle((x, y, x + 20, y + 20), fill=colour)
    if is_right:
        pen.line((x + 4, y + 10, x + 9, y + 15, x + 16, y + 5), fill="white", width=3)
    else:
        pen.line((x + 5, y + 5, x + 15, y + 15), fill="white", width=3)
        pen.line((x + 5, y + 15, x + 15, y + 5), fill="white", width=3)
