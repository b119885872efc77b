"""The figures of a training in TensorBoard, and where other trackers go.

    pip install tensorboard
    python examples/tracking.py --to logs && tensorboard --logdir logs

`RecallAtK` stands first: what it measures is in the logs of each epoch, and every callback behind
it finds it there. So Weights & Biases (`wandb.integration.keras.WandbMetricsLogger()`) and MLflow
(`mlflow.keras.MlflowCallback()`) go where TensorBoard's callback is, and need nothing else.
"""

import argparse

import keras

import keras_ms


def main(epochs: int, to: str, steps_per_epoch: int = 50) -> None:
    """Writes the events of a short training to a folder."""
    characters = keras_ms.draw_glyphs(image_size=32).hold_out_validation(0.1)
    train, validation = characters.subset("train"), characters.subset("validation")
    embedder = keras_ms.build_embedder("small", image_size=32, embedding_size=64, seed=0)
    embedder.compile(
        keras.optimizers.Adam(2e-3),
        loss=keras_ms.MultiSimilarityLoss(),
        metrics=[keras_ms.MinedAnchors()],
    )
    recall = keras_ms.RecallAtK((validation.images, validation.labels))
    embedder.fit(
        keras_ms.balanced_batches(
            train, classes_per_batch=32, images_per_class=4, crop_scale=None, flip=False
        ),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        callbacks=[
            recall,
            keras_ms.KeepBestWeights(recall),
            keras.callbacks.TensorBoard(to, update_freq="epoch"),
            keras.callbacks.CSVLogger(f"{to}/history.csv"),
        ],
        verbose=2,
    )
    print(f"Best Recall@1 of the held-out classes {recall.best_value:.3f}, step {recall.best_step}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Follows a training in TensorBoard.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--to", default="logs", help="folder of the events")
    given = parser.parse_args()
    main(given.epochs, given.to)
