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
import numpy as np
from PIL import Image

import keras_ms
from keras_ms.data.images import evaluation_batches
from keras_ms.run.folder import RunFolder
from keras_ms.run.images import load_run_images
from keras_ms.run.views import plain_batches

# the pixels by which a run's baseline searches
_PIXELS = 42


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
    batches: Any = plain_batches(settings, images)  # as the run evaluated them
    embeddings = embedder.predict(batches.map(lambda image, _: image), verbose=0)
    found = {
        # each about its own mean: else the white of the paper makes all images look alike
        "before: nearest by pixels": pixels - pixels.mean(axis=1, keepdims=True),
        "after: nearest by the trained network": embeddings,
    }
    for title, rows in found.items():
        recall = keras_ms.recall_at_k(rows, images.labels, ks=(1,))[1]
        print(f"{title}: Recall@1 {recall:.3f} on {len(images)} images")
    page = keras_ms.draw_neighbours(
        images, found, queries=given.queries, neighbours=given.neighbours, seed=given.seed
    )
    Path(given.to).parent.mkdir(parents=True, exist_ok=True)
    # of 256 colours: a quarter of the bytes
    page.quantize(256, dither=Image.Dither.NONE).save(given.to, optimize=True)
    print(given.to)


if __name__ == "__main__":
    main()
