"""One network with two outputs: a classifier of the known classes, and an embedding for all others.

    python examples/classifier_and_embedding.py

The classifier has a loss on each image, the embedding one on the pairs of the batch; `loss_weights`
balances them. The classifier sees the embedding before it is divided by its norm.
"""

import argparse

import keras

import keras_ms


def main(epochs: int, steps_per_epoch: int = 50) -> dict[str, float]:
    """Accuracy on other images of the known classes, and Recall@1 of new ones."""
    characters = keras_ms.draw_glyphs(image_size=32)
    known, new = characters.subset("train"), characters.subset("test")
    held_out = keras_ms.draw_glyphs(image_size=32, images_per_class=4, seed=1).subset("train")
    num_classes = int(known.labels.max()) + 1

    network = keras_ms.build_embedder("small", image_size=32, embedding_size=64, seed=0)
    features = network.get_layer("embedding").output
    logits = keras.layers.Dense(num_classes, name="classes")(keras.layers.ReLU()(features))
    model = keras.Model(network.input, {"classes": logits, "neighbours": network.output})
    model.compile(
        keras.optimizers.Adam(2e-3),
        loss={
            "classes": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "neighbours": keras_ms.MultiSimilarityLoss(),
        },
        loss_weights={"classes": 0.2, "neighbours": 1.0},
        metrics={"classes": "accuracy", "neighbours": keras_ms.MinedAnchors()},
    )
    batches = keras_ms.balanced_batches(
        known, classes_per_batch=32, images_per_class=4, crop_scale=None, flip=False
    )
    model.fit(
        # the same class ids for both
        batches.map(lambda images, ids: (images, {"classes": ids, "neighbours": ids})),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        # it shares its layers with the model, which has no single output to embed with
        callbacks=[keras_ms.RecallAtK((new.images, new.labels), embedder=network)],
        verbose=2,
    )
    classes = model.predict(held_out.images.astype("float32"), verbose=0)["classes"].argmax(1)
    found = {
        "accuracy": float((classes == held_out.labels).mean()),
        "recall@1": keras_ms.recall_at_k(
            network.predict(new.images.astype("float32"), verbose=0), new.labels
        )[1],
    }
    print(", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a classifier and an embedding together.")
    parser.add_argument("--epochs", type=int, default=6)
    main(parser.parse_args().epochs)
