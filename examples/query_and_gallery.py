"""Re-identification: what one camera sees, searched among the pictures of another.

    python examples/query_and_gallery.py

Half of the images of each class are queries, the other half the gallery; which ones, an `ImageList`
says for each image. Training watches Recall@K of queries in the gallery, and the last lines have
every metric with an interval.
"""

import argparse
import dataclasses

import keras
import numpy as np

import keras_ms


def two_cameras(images: keras_ms.ImageList) -> keras_ms.ImageList:
    """The list with every other image of a class as a query, and the rest as the gallery; seen by
    a darker camera."""
    is_query = np.arange(len(images)) % 2 == 0
    assert images.images is not None
    seen = np.where(is_query[:, None, None, None], images.images // 2, images.images)
    return dataclasses.replace(images, images=seen, is_query=is_query, is_gallery=~is_query)


def main(epochs: int, steps_per_epoch: int = 50) -> float:
    """Recall@1 of the test classes' queries."""
    characters = two_cameras(keras_ms.draw_glyphs(image_size=32))
    train, test = characters.subset("train"), characters.subset("test")
    embedder = keras_ms.build_embedder("small", image_size=32, embedding_size=64, seed=0)
    embedder.compile(keras.optimizers.Adam(2e-3), loss=keras_ms.MultiSimilarityLoss())
    embedder.fit(
        keras_ms.balanced_batches(
            train, classes_per_batch=32, images_per_class=4, crop_scale=None, flip=False
        ),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        # images=test says which of the rows are queries
        callbacks=[keras_ms.RecallAtK((test.images, test.labels), images=test)],
        verbose=2,
    )
    found = keras_ms.evaluate_embeddings(
        embedder.predict(test.images.astype("float32"), verbose=0),
        test.labels,
        ks=(1, 4),
        metrics=("recall", "map_at_r"),
        is_query=test.is_query,
        is_gallery=test.is_gallery,
    )
    for name, value in found.values.items():
        low, high = found.intervals[name]
        print(f"{name}: {value:.3f} ({low:.3f} to {high:.3f} with other classes)")
    return found.values["recall@1"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains for re-identification.")
    parser.add_argument("--epochs", type=int, default=6)
    main(parser.parse_args().epochs)
