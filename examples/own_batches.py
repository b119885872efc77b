"""Batches from one's own `keras.utils.PyDataset`: images that nothing but one's own code can read.

    python examples/own_batches.py

`balanced_indices` says which images make up each batch, P classes with K images of each; how they
are read is up to the dataset. Of any step it gives the same images again, so a training that is
continued goes on as it would have.
"""

import argparse
import itertools

import keras
import numpy as np

import keras_ms
from keras_ms.data.balanced_indices import balanced_indices


class Batches(keras.utils.PyDataset):
    """Batches of one epoch after the other.

    Args:
        read: function of an index that gives an image.
        labels: (N,) class ids.
        num_batches: of an epoch.
        workers: threads that read; with `use_multiprocessing=True` processes.
    """

    def __init__(self, read, labels, *, num_batches, classes=32, images=4, workers=2):
        super().__init__(workers=workers)
        self._read, self._labels, self._num_batches = read, labels, num_batches
        self._sizes, self._epoch = (classes, images), 0
        self._draw()

    def _draw(self):
        stream = balanced_indices(
            self._labels, *self._sizes, start_step=self._epoch * self._num_batches
        )
        self._indices = list(itertools.islice(stream, self._num_batches))

    def __len__(self):
        return self._num_batches

    def __getitem__(self, number):
        indices = self._indices[number]
        images = np.stack([self._read(index) for index in indices])
        return images.astype("float32"), self._labels[indices]

    def on_epoch_end(self):
        self._epoch += 1
        self._draw()


def main(epochs: int, steps_per_epoch: int = 50) -> float:
    """Recall@1 of the test classes."""
    characters = keras_ms.draw_glyphs(image_size=32)
    train, test = characters.subset("train"), characters.subset("test")
    # whatever reads an image: a database, a video, an archive of one's own
    batches = Batches(train.images.__getitem__, train.labels, num_batches=steps_per_epoch)
    embedder = keras_ms.build_embedder("small", image_size=32, embedding_size=64, seed=0)
    embedder.compile(keras.optimizers.Adam(2e-3), loss=keras_ms.MultiSimilarityLoss())
    recall = keras_ms.RecallAtK((test.images, test.labels))
    # shuffle=False: Keras would draw the order of the batches again
    embedder.fit(batches, epochs=epochs, shuffle=False, callbacks=[recall], verbose=2)
    found = recall.history[-1][1][1]
    print(
        f"Recall@1 among {len(test):,} characters of scripts that were not trained on: {found:.3f}"
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains on batches of one's own.")
    parser.add_argument("--epochs", type=int, default=6)
    main(parser.parse_args().epochs)
