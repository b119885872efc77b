"""A curriculum against all data at once: a whole classifier on labels as a web crawl gives them.

    python scripts/compare_web_labels.py --data-dir cars196 --foreign cub200_2010 \\
        --weights mobilenet_v2.weights.h5 --to runs/compare_web_labels

The photos of each class are divided by lot: a quarter is tested on, 15 % choose the learning rate,
the others are trained on. Those alone are made what a crawl brings, anew for each seed:
- imbalance: a class keeps between 40 and 100 % of its photos;
- neighbouring classes confused: 20 % of a class get the label of the class most like it, by the
  features of ImageNet;
- foreign photos: 15 % of all are of the other folder, each under a random class;
- duplicates: 10 % of the photos are there twice.

The whole network learns, with Adam, as many steps for each method, the layer of scores at ten times
the rate:
- everything: all at once;
- everything, three times: the schedule of a curriculum, with all photos in each stage;
- curriculum: three stages, weights 1, 0.5 and 0.5, subsets by the features of ImageNet;
- curriculum, own features: as in the paper, by the features of the network of "everything";
- clean labels only: without the wrong ones, which only the experiment knows.

The learning rate is the one with which "everything" does best on the validation photos, seed 0,
unless `--rate` says it. Error on the test photos in %, after each stage too, and how many of the
right and of the wrong labels the network gives back at the end: what it learned by heart. Every
finished training is a line of results.jsonl in the folder and is not repeated.
"""

import argparse
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from comparison import Results, file_digest, mean_and_spread, names_of

from keras_ms.curriculum.batches import curriculum_batches
from keras_ms.curriculum.label_noise import class_similarity, corrupt_labels, mix_in_outliers
from keras_ms.curriculum.subsets import curriculum_subsets
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import evaluation_batches
from keras_ms.evaluation.embed import batches_without_labels, embed_batches
from keras_ms.files import whole_file
from keras_ms.models.embedding import build_embedder, split_embedder
from keras_ms.optimizers import GroupedAdam, StageSchedule

METHODS = (
    "everything",
    "everything, three times",
    "curriculum",
    "curriculum, own features",
    "clean labels only",
)
SEEDS = 3
LEARNING_RATES = (3e-5, 1e-4, 3e-4)
HEAD_FACTOR = 10  # of the layer of scores, which begins at 0; the network begins with what it knows
STAGES, BATCH_SIZE = 3, 64
TESTED, CHOSEN_BY = 0.25, 0.15
LEAST_KEPT, CONFUSED, FOREIGN, TWICE = 0.4, 0.2, 0.15, 0.1


def divided(images: ImageList, seed: int = 0) -> dict[str, ImageList]:
    """Lists by name: train, validation and test, each with photos of every class."""
    rng, parts = np.random.default_rng(seed), {"test": [], "validation": [], "train": []}
    for label in range(len(images.class_names)):
        rows = rng.permutation(np.flatnonzero(images.labels == label))
        ends = np.cumsum([round(TESTED * len(rows)), round(CHOSEN_BY * len(rows))])
        for name, part in zip(parts, np.split(rows, ends)):
            parts[name].append(part)
    return {name: taken(images, np.sort(np.concatenate(part))) for name, part in parts.items()}


def taken(images: ImageList, rows: np.ndarray) -> ImageList:
    """The images of these rows, as training images; a row may be there twice."""
    return replace(
        images,
        paths=images.paths[rows],
        labels=images.labels[rows],
        split=np.full(len(rows), "train"),
    )


def crawled(images: ImageList, foreign: ImageList, similarity: np.ndarray, seed: int):
    """(images with labels of a crawl, which of them are wrong)."""
    rng, kept = np.random.default_rng(seed), []
    for label in np.unique(images.labels):
        rows = rng.permutation(np.flatnonzero(images.labels == label))
        kept.append(rows[: max(2, round(rng.uniform(LEAST_KEPT, 1) * len(rows)))])
    images = taken(images, np.sort(np.concatenate(kept)))
    noisy = corrupt_labels(images.labels, CONFUSED, "pairs", similarity=similarity, seed=seed)
    mixed = mix_in_outliers(replace(images, labels=noisy.labels), foreign, FOREIGN, seed=seed)
    wrong = np.concatenate([noisy.corrupted, mixed.outlier[len(images) :]])
    rows = np.arange(len(wrong))
    rows = np.concatenate([rows, rng.choice(rows, round(TWICE * len(rows)), replace=False)])
    return taken(mixed.images, rows), wrong[rows]


class Experiment:
    """The photos of a comparison and its trainings, each of them once."""

    def __init__(self, given: argparse.Namespace):
        self._given = given
        self.parts = divided(ImageList.from_folder(given.data_dir, test_fraction=0))
        self._foreign = ImageList.from_folder(given.foreign, test_fraction=0)
        self._results = Results(given.to, lambda run: [run[name] for name in _KEY])
        features = self._features(self._network(0)[0], self.parts["train"])
        self._similarity = class_similarity(features, self.parts["train"].labels)

    def error(self, method: str, rate: float, seed: int) -> dict:
        """A line of the results: errors, shares, on validation and test photos, by stage."""
        what = self._what(method, rate, seed)
        return self._results.find_or_run(what, lambda: self._run(method, rate, seed))

    def _what(self, method, rate, seed):
        given = self._given
        what = {"data": Path(given.data_dir).name, "backbone": given.backbone}
        what |= {"foreign": Path(given.foreign).name, "weights": file_digest(given.weights)}
        what |= {"image_size": given.image_size, "steps": given.steps}
        return what | {"method": method, "rate": rate, "seed": seed}

    def _run(self, method, rate, seed):
        keras.utils.set_random_seed(seed)
        images, wrong = crawled(self.parts["train"], self._foreign, self._similarity, seed)
        features_model, classifier = self._network(seed)
        rows, subset = np.arange(len(images)), np.zeros(len(images), np.int8)
        if method == "clean labels only":
            rows = np.flatnonzero(~wrong)
        elif method.startswith("curriculum"):
            subset = self._subset(method, features_model, images, rate, seed)
        stages = STAGES if method == "everything, three times" else int(subset.max()) + 1
        steps = self._given.steps // stages
        falling = keras.optimizers.schedules.CosineDecay(rate, steps)
        scores = {id(v) for v in classifier.get_layer("scores").trainable_variables}
        factors = [
            float(HEAD_FACTOR if id(v) in scores else 1) for v in classifier.trainable_variables
        ]
        classifier.compile(
            GroupedAdam(
                StageSchedule(falling, steps, stages),  # pyright: ignore[reportArgumentType]
                factors,
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        batches = curriculum_batches(
            taken(images, rows),
            subset[rows],
            batch_size=BATCH_SIZE,
            steps_per_stage=steps,
            stages=int(subset.max()) + 1,
            seed=seed,
            image_size=self._given.image_size,
            crop_scale=(0.3, 1.0),
        )
        found = {"validation": [], "test": []}

        def measure(epoch, logs):
            for name, errors in found.items():
                errors.append(self._wrong_share(classifier, self.parts[name]))

        classifier.fit(
            batches,
            epochs=stages,
            steps_per_epoch=steps,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=measure)],
            verbose=0,  # pyright: ignore[reportArgumentType]
        )
        if method == "everything":
            self._keep_subset(features_model, images, rate, seed)
        given_back = self._predicted(classifier, images) == images.labels
        trained, is_wrong = subset[rows], wrong[rows]
        shares = [float(is_wrong[trained == k].mean()) for k in range(int(trained.max()) + 1)]
        return {
            **found,
            "wrong": shares,
            "images": np.bincount(trained).tolist(),
            "right_learned": float(given_back[~wrong].mean()),
            "wrong_learned": float(given_back[wrong].mean()),
        }

    def _network(self, seed):
        """(images to pooled features, images to scores of the classes): they share layers."""
        keras.backend.clear_session()
        given = self._given
        embedder = build_embedder(
            given.backbone, weights=given.weights or None, image_size=given.image_size, seed=seed
        )
        features_model, _ = split_embedder(embedder)
        # larger scores than a trained layer's are what a network first unlearns, and much with them
        scores = keras.layers.Dense(
            len(self.parts["test"].class_names), kernel_initializer="zeros", name="scores"
        )
        return features_model, keras.Model(
            features_model.input, scores(features_model.output), name="classifier"
        )

    def _features(self, model, images):
        return embed_batches(model, batches_without_labels(self._batches(images)))

    def _batches(self, images):
        return evaluation_batches(images, self._given.image_size, cache=False)

    def _wrong_share(self, classifier, images):
        return float((self._predicted(classifier, images) != images.labels).mean())

    def _predicted(self, classifier, images):
        scores = embed_batches(classifier, batches_without_labels(self._batches(images)))
        return scores.argmax(axis=1)

    def _subset(self, method, features_model, images, rate, seed):
        if method == "curriculum":
            features = self._features(features_model, images)
            return curriculum_subsets(features, images.labels).subset
        file = self._subset_file(rate, seed)
        if not file.is_file():  # its training was on another machine
            self._run("everything", rate, seed)
        return np.load(file, allow_pickle=False)

    def _keep_subset(self, features_model, images, rate, seed):
        found = curriculum_subsets(self._features(features_model, images), images.labels)
        with whole_file(self._subset_file(rate, seed)) as temporary:
            np.save(temporary, found.subset)

    def _subset_file(self, rate, seed):
        key = json.dumps(self._what("everything", rate, seed), sort_keys=True)
        return Path(self._given.to) / f"subsets-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"


_KEY = ("data", "foreign", "backbone", "weights", "image_size", "steps", "method", "rate", "seed")


def tables(experiment: Experiment, given: argparse.Namespace) -> list[str]:
    """Markdown lines."""
    rate = given.rate or _chosen_rate(experiment)
    lines = [
        "| | stage 1 | stage 2 | stage 3 | wrong labels in the subsets, % "
        "| right labels given back, % | wrong ones, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in given.only:
        runs = [experiment.error(method, rate, seed) for seed in range(given.seeds)]
        stages = zip(*(run["test"] for run in runs))
        cells = [mean_and_spread([100 * error for error in stage]) for stage in stages]
        cells = ["–"] * (STAGES - len(cells)) + cells
        shares = np.mean([run["wrong"] for run in runs], axis=0)
        words = ", ".join(f"{100 * share:.0f}" for share in shares)
        learned = (
            mean_and_spread([100 * run[name] for run in runs]) if name in runs[0] else "–"
            for name in ("right_learned", "wrong_learned")
        )
        lines.append(f"| {method} | {' | '.join([*cells, words, *learned])} |")
    return [f"Learning rate {rate:g}.", "", *lines]


def _chosen_rate(experiment):
    errors = [experiment.error("everything", rate, 0)["validation"][-1] for rate in LEARNING_RATES]
    return LEARNING_RATES[int(np.argmin(errors))]


def parsed(words=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder with a folder for each class")
    parser.add_argument("--foreign", required=True, help="folder of photos of nothing of these")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="", help="its .weights.h5 file, or package")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=450, help="of each training, in three stages")
    parser.add_argument("--rate", type=float, default=0.0, help="learning rate; 0: the best")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="0 to one less")
    parser.add_argument("--only", default="", help="methods, separated by semicolons")
    parser.add_argument("--to", default="runs/compare_web_labels", help="folder of the results")
    given = parser.parse_args(words)
    if given.steps < STAGES or given.steps % STAGES:
        parser.error(f"--steps: expected a multiple of {STAGES}. Received: {given.steps}")
    given.only = names_of(parser, "--only", given.only, METHODS)
    if given.rate < 0 or given.seeds < 1:
        parser.error("--rate: expected 0 or more; --seeds: 1 or more")
    return given


def main():
    given = parsed()
    text = "\n".join(tables(Experiment(given), given))
    print(text)
    (Path(given.to) / "tables.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
