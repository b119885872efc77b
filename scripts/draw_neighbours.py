"""Draws queries with their nearest images, before and after a training, into one picture.

    python scripts/draw_neighbours.py runs/NAME --to docs/pictures/neighbours.png

Before is the search by raw pixels, after the search by the run's embedder, both among all test
images. The queries are drawn at random, one of a class; none is chosen by what it finds.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.font_manager
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import keras_ms
from keras_ms.data.images import evaluation_batches
from keras_ms.report.pictures import picture
from keras_ms.run.folder import RunFolder
from keras_ms.run.images import load_run_images

# the pixels by which a run's baseline searches
_PIXELS = 42
_SIDE, _GAP, _MARGIN, _TITLE = 76, 8, 16, 40
# apart for the colour-blind too, whom the tick and the cross tell
_RIGHT, _WRONG = (22, 138, 82), (206, 66, 54)


def nearest(rows: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """The `count` rows most similar to each query but itself, by cosine: (queries, count).

    Example:

    >>> nearest(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), np.array([0]), 2).tolist()
    [[2, 1]]
    """
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows[queries] @ rows.T
    similarity[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def draw_queries(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """One random image of each of `count` random classes."""
    random = np.random.default_rng(seed)
    classes = random.choice(np.unique(labels), count, replace=False)
    return np.array([random.choice(np.flatnonzero(labels == each)) for each in classes])


def draw_picture(
    images: keras_ms.ImageList, queries: np.ndarray, found: dict[str, np.ndarray]
) -> Image.Image:
    """A row for each query: the query, then what it finds, framed by right or wrong.

    Args:
        images: in which the rows lie.
        queries: (queries,) rows.
        found: by title, the rows found, (queries, neighbours).
    """
    font = ImageFont.truetype(matplotlib.font_manager.findfont("DejaVu Sans"), 18)
    step, starts, x = _SIDE + _GAP, [], _MARGIN + _SIDE + 4 * _GAP
    for rows in found.values():
        starts.append(x)
        x += rows.shape[1] * step + 3 * _GAP
    width, height = x - 4 * _GAP + _MARGIN, _TITLE + len(queries) * step + _MARGIN
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, 12), "query", font=font, fill="black")
    for start, title in zip(starts, found):
        pen.text((start, 12), title, font=font, fill="black")
    for line, query in enumerate(queries):
        y = _TITLE + line * step
        page.paste(picture(images, int(query), size=_SIDE), (_MARGIN, y))
        for start, rows in zip(starts, found.values()):
            for place, row in enumerate(rows[line]):
                is_right = bool(images.labels[row] == images.labels[query])
                corner = (start + place * step, y)
                page.paste(picture(images, int(row), size=_SIDE), corner)
                _mark(pen, corner, is_right)
    return page


def _mark(pen, corner, is_right):
    x, y = corner
    colour = _RIGHT if is_right else _WRONG
    pen.rectangle((x - 3, y - 3, x + _SIDE + 2, y + _SIDE + 2), outline=colour, width=4)
    x, y = x + _SIDE - 18, y + _SIDE - 18
    pen.rectangle((x, y, x + 20, y + 20), fill=colour)
    if is_right:
        pen.line((x + 4, y + 10, x + 9, y + 15, x + 16, y + 5), fill="white", width=3)
    else:
        pen.line((x + 5, y + 5, x + 15, y + 15), fill="white", width=3)
        pen.line((x + 5, y + 15, x + 15, y + 5), fill="white", width=3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Draws queries with their nearest images, before and after a training."
    )
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--to", required=True, help="the picture, .png")
    parser.add_argument("--queries", type=int, default=6)
    parser.add_argument("--neighbours", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="draws the queries")
    given = parser.parse_args()

    run = RunFolder(given.run)
    settings = run.read_settings()
    images = load_run_images(settings).subset("test")
    embedder: Any = keras.saving.load_model(Path(given.run) / "embedder.keras")
    small: Any = evaluation_batches(images, _PIXELS, resize_to=_PIXELS, cache=False)
    pixels = np.concatenate([batch.numpy().reshape(len(batch), -1) for batch, _ in small])
    batches: Any = evaluation_batches(images, settings.images.image_size)
    embeddings = embedder.predict(batches.map(lambda image, _: image), verbose=0)
    queries = draw_queries(images.labels, given.queries, given.seed)
    found = {
        # each about its own mean: else the white of the paper makes all images look alike
        "before: nearest by pixels": pixels - pixels.mean(axis=1, keepdims=True),
        "after: nearest by the trained network": embeddings,
    }
    for title, rows in found.items():
        recall = keras_ms.recall_at_k(rows, images.labels, ks=(1,))[1]
        print(f"{title}: Recall@1 {recall:.3f} on {len(images)} images")
    found = {title: nearest(rows, queries, given.neighbours) for title, rows in found.items()}
    Path(given.to).parent.mkdir(parents=True, exist_ok=True)
    page = draw_picture(images, queries, found)
    # of 256 colours: a quarter of the bytes
    page.quantize(256, dither=Image.Dither.NONE).save(given.to, optimize=True)
    print(given.to)


if __name__ == "__main__":
    main()
