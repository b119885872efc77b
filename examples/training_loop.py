"""A training loop of one's own, with the gradient taken by `tf.GradientTape`.

    python examples/training_loop.py

The loss is called as any Keras loss, labels first. `jit_compile=True` compiles the whole step, the
search for pairs included, with XLA.
"""

import argparse

import keras
import tensorflow as tf

import keras_ms


def main(steps: int) -> float:
    """Recall@1 of the test classes."""
    characters = keras_ms.draw_glyphs(image_size=32)
    train, test = characters.subset("train"), characters.subset("test")
    embedder = keras_ms.build_embedder("small", image_size=32, embedding_size=64, seed=0)
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(embedder.trainable_variables)
    loss_function = keras_ms.MultiSimilarityLoss()
    mined = keras_ms.MinedAnchors()

    @tf.function(jit_compile=True)
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            embeddings = embedder(images, training=True)
            loss = loss_function(labels, embeddings)
        gradients = tape.gradient(loss, embedder.trainable_variables)
        optimizer.apply(gradients, embedder.trainable_variables)
        return loss, embeddings

    batches = keras_ms.balanced_batches(
        train, classes_per_batch=32, images_per_class=4, crop_scale=None, flip=False
    )
    for step, (images, labels) in enumerate(batches.take(steps), 1):
        loss, embeddings = train_step(images, labels)
        mined.update_state(labels, embeddings)
        if step % 50 == 0 or step == steps:
            print(
                f"step {step}: loss {float(loss):.4f}, still learning {float(mined.result()):.2f}"
            )
            mined.reset_state()
    embeddings = embedder.predict(test.images.astype("float32"), verbose=0)
    found = keras_ms.recall_at_k(embeddings, test.labels)[1]
    print(
        f"Recall@1 among {len(test):,} characters of scripts that were not trained on: {found:.3f}"
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains with a loop of one's own.")
    parser.add_argument("--steps", type=int, default=300)
    main(parser.parse_args().steps)
