"""One training of compare_curriculum.py: groceries with noise, divided, trained on and measured."""

import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_ms
from keras_ms.curriculum.batches import curriculum_balanced_batches, curriculum_batches
from keras_ms.curriculum.label_noise import class_similarity, corrupt_labels, outlier_rows
from keras_ms.curriculum.subsets import curriculum_subsets
from keras_ms.data.images import evaluation_batches
from keras_ms.data.sets.grocery import load_grocery
from keras_ms.evaluation.embed import embed_batches
from keras_ms.models.embedding import build_embedder, split_embedder
from keras_ms.models.features import pooled_features
from keras_ms.optimizers import StageSchedule

SHARE = 0.4
# how the classes are divided, as part of a method's name
DENSITIES = {
    "": {},
    ", quantile 0.3": {"distance_quantile": 0.3},
    ", gaussian": {"density": "gaussian"},
}
METHODS = (
    "everything",
    "everything, three times",
    "clean labels only",
    *(f"{method}{name}" for name in DENSITIES for method in ("clean subset only", "curriculum")),
)
BATCH_SIZE, CLASSES_PER_BATCH, IMAGES_PER_CLASS = 64, 16, 5
HIDDEN_UNITS = 512
STEPS_AT_ONCE = 50  # that Keras executes
MOST_STAGES = 3


def grocery_features(arguments):
    """(features, class ids, name of the authors' list) of all images."""
    images = load_grocery(arguments.data_dir)
    embedder = build_embedder(
        "inception_v3",
        weights=arguments.weights,
        output_layer="mixed8",
        image_size=224,
        freeze_backbone=True,
        seed=0,
    )
    model, _ = split_embedder(embedder)
    parts = [images.subset(split) for split in ("train", "test")]
    features = [
        pooled_features(
            model,
            part,
            {"plain": [224, 224]},
            lambda: evaluation_batches(part, 224, resize_to=224, cache=False).map(
                lambda image, label: image
            ),
            Path(arguments.to) / "features",
        )
        for part in parts
    ]
    paths = np.concatenate([part.paths for part in parts])
    # train/, val/ and test/ are the authors' lists
    root = os.path.commonpath(list(paths))
    lists = np.array([Path(path).relative_to(root).parts[0] for path in paths])
    return np.concatenate(features), np.concatenate([part.labels for part in parts]), lists


def with_noise(features, labels, outliers, noise, seed):
    """(features, labels, which are wrong) of a training set."""
    if noise != "outliers":
        similarity = class_similarity(features, labels) if noise == "pairs" else None
        noisy = corrupt_labels(labels, SHARE, noise, similarity=similarity, seed=seed)
        return features, *noisy
    drawn, like = outlier_rows(len(labels), len(outliers), SHARE, seed=seed)
    given = np.concatenate([labels, labels[like]])
    mixed = np.concatenate([features, outliers[drawn]])
    return mixed, given, np.arange(len(given)) >= len(labels)


def chosen_rows(method, subset, wrong):
    """(rows that are trained on, their subsets)."""
    rows = {
        "clean labels only": np.flatnonzero(~wrong),
        "clean subset only": np.flatnonzero(subset == 0),
    }.get(method.split(",")[0], np.arange(len(subset)))
    staged = method.startswith("curriculum")
    return rows, subset[rows] if staged else np.zeros(len(rows), np.int8)


class Experiment:
    """One training task: its model, its batches and what it is measured by."""

    def __init__(self, task, steps):
        self.task, self.steps = task, steps

    def run(self, train_set, wrong, method, rate, seed):
        """The trained model, and what the subsets hold."""
        features, labels = train_set
        options = next(DENSITIES[name] for name in reversed(DENSITIES) if method.endswith(name))
        subset = curriculum_subsets(features, labels, **options).subset
        rows, kept = chosen_rows(method, subset, wrong)
        # the schedule of a curriculum alone: what it owes to that
        stages = MOST_STAGES if method == "everything, three times" else int(kept.max()) + 1
        stage_steps = self.steps // stages
        schedule = keras.optimizers.schedules.CosineDecay(rate, stage_steps)
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input(features.shape[1:]), *self._layers(seed)])
        model.compile(
            keras.optimizers.Adam(
                StageSchedule(schedule, stage_steps, stages)  # pyright: ignore[reportArgumentType]
            ),
            loss=self._loss(),
            steps_per_execution=STEPS_AT_ONCE,
            jit_compile=False,  # compiling takes longer than some hundred steps of one layer
        )
        batches = self._batches(labels[rows], kept, stage_steps, seed)
        on_device = tf.constant(features[rows])
        batches = batches.map(lambda row, label, weight: (tf.gather(on_device, row), label, weight))
        model.fit(batches, steps_per_epoch=self.steps, shuffle=False, verbose=0)
        shares = [float(wrong[subset == k].mean()) for k in range(MOST_STAGES)]
        return model, {"wrong": shares, "images": np.bincount(subset, minlength=3).tolist()}

    def _layers(self, seed):
        if self.task == "embedder":
            initializer = keras.initializers.Orthogonal(seed=seed)
            layer = keras.layers.Dense(
                512,
                kernel_initializer=initializer,  # pyright: ignore[reportArgumentType]
            )
            return [layer]
        # features as they are: standardised ones, 9 points less with clean labels, on validation
        hidden = keras.layers.Dense(HIDDEN_UNITS, activation="relu")
        return [hidden] * (self.task == "network") + [keras.layers.Dense(81)]

    def _loss(self):
        if self.task == "embedder":
            return keras_ms.MultiSimilarityLoss()
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def _batches(self, labels, subset, stage_steps, seed):
        shared = {"steps_per_stage": stage_steps, "seed": seed}
        if self.task == "embedder":
            return curriculum_balanced_batches(
                labels,
                subset,
                classes_per_batch=CLASSES_PER_BATCH,
                images_per_class=IMAGES_PER_CLASS,
                **shared,
            )
        return curriculum_batches(labels, subset, batch_size=BATCH_SIZE, **shared)

    def measure(self, model, features, labels):
        """Accuracy or Recall@1, a share."""
        if self.task == "embedder":
            embeddings = embed_batches(model, features, batch_size=1024)
            return float(keras_ms.recall_at_k(embeddings, labels, ks=(1,))[1])
        scores = model.predict(features, verbose=0, batch_size=1024)
        return float((scores.argmax(axis=1) == labels).mean())
