"""A Keras model of one's own, trained to find pictures of classes that it has never seen.

python examples/your_own_model.py
"""

import argparse

import keras

import keras_ms


def build_model(image_size: int) -> keras.Model:
    """Any model whose output is (batch, dimension) will do; the loss divides by the norms."""
    return keras.Sequential(
        [
            keras.Input((image_size, image_size, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(64, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(128, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(64),
        ]
    )


def main(epochs: int, steps_per_epoch: int = 50) -> float:
    """Recall@1 of the test classes."""
    characters = keras_ms.draw_glyphs(image_size=32)
    train, test = characters.subset("train"), characters.subset("test")
    model = build_model(32)
    model.compile(
        keras.optimizers.Adam(2e-3),
        loss=keras_ms.MultiSimilarityLoss(),
        metrics=[keras_ms.MinedAnchors()],  # the share of images that still learn
    )
    recall = keras_ms.RecallAtK((test.images, test.labels))
    model.fit(
        # every batch has 32 classes with 4 images of each: a loss on pairs needs both kinds
        keras_ms.balanced_batches(
            train, classes_per_batch=32, images_per_class=4, crop_scale=None, flip=False
        ),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        callbacks=[recall, keras_ms.ExplainZeroLoss()],
        verbose=2,
    )
    found = recall.history[-1][1][1]
    print(
        f"Recall@1 among {len(test):,} characters of scripts that were not trained on: {found:.3f}"
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a Keras model of one's own.")
    parser.add_argument("--epochs", type=int, default=6)
    main(parser.parse_args().epochs)
