"""A short fine-tuning on photos without TensorFlow: pillow reads, NumPy cuts, Keras's `fit` trains.

Imported by gpu.py. Photos are read once, at a shorter side of 144 pixels, and kept in memory.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image, ImageOps

import keras_ms
from keras_ms.data.balanced_indices import balanced_indices

SIDE, CUT = 144, 128
IMAGES_PER_CLASS = 5


def read_square(path: str) -> np.ndarray:
    """The centre of a photo, uint8 (SIDE, SIDE, 3)."""
    with Image.open(path) as photo:
        photo.draft("RGB", (2 * SIDE, 2 * SIDE))
        square = ImageOps.fit(ImageOps.exif_transpose(photo).convert("RGB"), (SIDE, SIDE))
    return np.asarray(square)


def training_batches(photos: np.ndarray, labels: np.ndarray, classes: int) -> Iterator[tuple]:
    """Endless batches of random cuts, half of them mirrored."""
    random = np.random.default_rng(0)
    for indices in balanced_indices(labels, classes, IMAGES_PER_CLASS):
        top, left = random.integers(SIDE - CUT + 1, size=(2, len(indices)))
        cuts = [photos[i, t : t + CUT, s : s + CUT] for i, t, s in zip(indices, top, left)]
        mirrored = random.random(len(indices)) < 0.5
        cuts = [cut[:, ::-1] if mirror else cut for cut, mirror in zip(cuts, mirrored)]
        yield np.stack(cuts).astype("float32"), labels[indices].astype("int32")


class _Timely(keras.callbacks.Callback):
    def __init__(self, check_time: Callable[[], None]):
        super().__init__()
        self._check_time = check_time

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._check_time()


def finetune(
    folder: Path | None,
    backbone: str,
    weights: Path | None,
    *,
    steps: int,
    classes_per_batch: int,
    check_time: Callable[[], None],
) -> None:
    """Prints Recall@K of unseen classes before and after a training, and how long it took.

    Args:
        folder: with a subfolder of photos for each class; the second half of them tests.
        backbone: its name.
        weights: its .weights.h5 file, or None.
        steps: of training.
        classes_per_batch: with 5 images each.
        check_time: called now and then; raises when there is no time left.
    """
    if folder is None:
        print("\nFine-tuning: skipped, no --photos", flush=True)
        return
    start = time.perf_counter()
    images = keras_ms.ImageList.from_folder(folder)
    with ThreadPoolExecutor() as threads:
        photos = np.stack(list(threads.map(read_square, images.paths)))
    read = time.perf_counter() - start
    check_time()
    train, test = images.split == "train", images.split == "test"
    edge = (SIDE - CUT) // 2
    shown = photos[test, edge : edge + CUT, edge : edge + CUT].astype("float32")

    embedder = keras_ms.build_embedder(
        backbone, embedding_size=128, image_size=CUT, weights=None if weights is None else weights
    )
    embedder.compile(keras_ms.GroupedAdam(1e-4), loss=keras_ms.MultiSimilarityLoss())

    def measured():
        embeddings = embedder.predict(shown, batch_size=64, verbose=0)
        return keras_ms.recall_at_k(embeddings, images.labels[test])

    before, start = measured(), time.perf_counter()
    epochs = 4
    embedder.fit(
        training_batches(photos[train], images.labels[train], classes_per_batch),
        steps_per_epoch=max(1, steps // epochs),
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[_Timely(check_time)],
    )
    seconds = time.perf_counter() - start
    after = measured()
    print(f"\n{len(images):,} photos read in {read:.1f} s; {backbone}, {CUT} px, ", end="")
    print(f"{steps} steps of {classes_per_batch * IMAGES_PER_CLASS} images in {seconds:.1f} s\n")
    print("| test classes (unseen) | " + " | ".join(f"Recall@{k}" for k in before) + " |")
    print("|---" * (len(before) + 1) + "|")
    for name, recalls in (("before", before), ("after", after)):
        cells = " | ".join(f"{value:.4f}" for value in recalls.values())
        print(f"| {name} | {cells} |", flush=True)
