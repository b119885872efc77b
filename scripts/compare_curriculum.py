"""A curriculum against plain training on groceries with wrong labels or birds among them.

    python scripts/compare_curriculum.py --data-dir grocery \\
        --weights inception_v3_mixed8.weights.h5 \\
        --outliers cub200_2010_inception_mixed8.npz --to runs/compare_curriculum

Features are pooled InceptionV3 mixed8 at 224 px, of a network that was trained on ImageNet and has
never seen the wrong labels. They are computed once. `--outliers` is an
.npz file with `features` of another set of images, of the same network.

Noise, each drawn anew for each seed, in the training images only:
- symmetric: 40 % of the labels of each class become any other class;
- pairs: 40 % become the class that is most similar by its mean features;
- outliers: images of the other set, each under a random class, make up 40 % of the images.

Training, always with the same number of steps:
- everything: all images alike;
- clean labels only: without the wrong ones, which only the experiment knows;
- clean subset only: subset 0 of `curriculum_subsets`;
- everything, three times: as a curriculum, with all images in each stage;
- curriculum: three stages of a third of the steps, weights 1, 0.5 and 0.5;
- both also with counts to the 0.3 quantile of the distances, and with Gaussian densities.

The classifier is one linear layer for 81 classes, trained on the authors' training list; the
learning rate with the best mean accuracy on their validation list is measured on their test list.
The network is the same with a hidden layer, which can learn wrong labels by heart.
The embedder is a 512-d linear layer with the Multi-Similarity loss, trained on the first 41 classes
and measured by Recall@1 on the other 40; its learning rate is chosen on 8 of the 41 held out.
Validation and test labels are clean.

Every finished run is a line of results.jsonl in the folder and is not repeated: an interrupted
comparison goes on where it was. At the end the tables are printed and written to tables.md
(`--only-divisions`: what the subsets hold, without any training, to divisions.md).
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from comparison import Results, digest, mean_and_spread, names_of
from curriculum_experiment import (
    METHODS,
    MOST_STAGES,
    STEPS_AT_ONCE,
    Experiment,
    grocery_features,
    with_noise,
)

from keras_ms.curriculum.subsets import curriculum_subsets

NOISES = ("symmetric", "pairs", "outliers")
SEEDS = (0, 1, 2)
# Adam, falling to 0 along a cosine in each stage
LEARNING_RATES = {
    "classifier": (5e-4, 1e-3, 3e-3, 1e-2),
    "network": (3e-5, 1e-4, 3e-4, 1e-3),
    "embedder": (1e-4, 5e-4),
}
TRAINING_CLASSES, VALIDATION_CLASSES = 41, 8
# how well each way of dividing finds the wrong labels
DIVISIONS = {
    "count, k-means": {},
    "count at the quantile 0.3, k-means": {"distance_quantile": 0.3},
    "count, distance to the centre": {"method": "distance"},
    "gaussian, k-means": {"density": "gaussian"},
    "gaussian, distance to the centre": {"density": "gaussian", "method": "distance"},
}


class Comparison:
    """Runs what is not yet in results.jsonl."""

    def __init__(self, features, labels, lists, outliers, arguments):
        self.outliers, self.steps = outliers, arguments.steps
        self.data = digest(features, labels, lists, outliers)
        # the one in the middle, or the first of two
        self.rates = {
            task: rates[(len(rates) - 1) // 2 :][:1] if arguments.quick else rates
            for task, rates in LEARNING_RATES.items()
        }
        self.every = features, labels, lists
        self.results = Results(arguments.to, self._key)

    def sets(self, task, held_out):
        """(training set, {name: set that is measured}), each (features, labels)."""
        features, labels, lists = self.every
        if task != "embedder":
            parts = {name: lists == name for name in ("train", "val", "test")}
        else:
            validation = np.random.default_rng(0).permutation(TRAINING_CLASSES)
            validation = np.isin(labels, validation[:VALIDATION_CLASSES])
            known = labels < TRAINING_CLASSES
            parts = (
                {"train": known & ~validation, "val": validation}
                if held_out
                else {"train": known, "test": ~known}
            )
        sets = {name: (features[rows], labels[rows]) for name, rows in parts.items()}
        return sets.pop("train"), sets

    def run(self, task, noise, method, rate, seed, held_out=False):
        """The figures of one training; `held_out`: without the validation classes."""
        what = {"task": task, "noise": noise, "method": method, "rate": rate, "seed": seed}
        what |= {"held_out": held_out, "steps": self.steps, "data": self.data}

        def train_and_measure():
            train_set, measured = self.sets(task, held_out)
            *train_set, wrong = with_noise(*train_set, self.outliers, noise, seed)
            experiment = Experiment(task, self.steps)
            model, subsets = experiment.run(train_set, wrong, method, rate, seed)
            values = {name: experiment.measure(model, *part) for name, part in measured.items()}
            keras.backend.clear_session()
            return {**values, **subsets}

        return self.results.find_or_run(what, train_and_measure)

    def chosen(self, task, noise, method):
        """(learning rate with the best validation value, its final runs)."""
        rates = self.rates[task]
        if len(rates) == 1:
            return rates[0], [self.run(task, noise, method, rates[0], seed) for seed in SEEDS]
        held_out = task == "embedder"  # of a classifier the same runs are measured on both lists
        means = [
            np.mean([self.run(task, noise, method, rate, seed, held_out)["val"] for seed in SEEDS])
            for rate in rates
        ]
        rate = rates[int(np.argmax(means))]
        return rate, [self.run(task, noise, method, rate, seed) for seed in SEEDS]

    @staticmethod
    def _key(run):
        names = ("task", "noise", "method", "rate", "seed", "held_out", "steps", "data")
        # lines of an older script may lack a name: they are runs of their own
        return [run.get(name) for name in names]


def results(comparison, task, noises):
    lines = [f"| {task} | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 1) + "|"]
    for noise in noises:
        cells = []
        for method in METHODS:
            rate, runs = comparison.chosen(task, noise, method)
            values = [100 * run["test"] for run in runs]
            cells.append(f"{mean_and_spread(values)} ({rate:g})")
        lines.append(f"| {noise} | " + " | ".join(cells) + " |")
    return lines


def divisions(comparison, task, noises):
    """Wrong images in each subset, by how the classes are divided; mean over the seeds."""
    lines = [
        f"| {task}: noise | classes divided by | wrong in clean, % | in noisy | in highly noisy "
        "| images in clean, % |",
        "|---|---|---|---|---|---|",
    ]
    (features, labels), _ = comparison.sets(task, False)
    for noise in noises:
        drawn = [with_noise(features, labels, comparison.outliers, noise, seed) for seed in SEEDS]
        for name, options in DIVISIONS.items():
            rows = []
            for features, labels, wrong in drawn:
                subset = curriculum_subsets(features, labels, **options).subset
                shares = [100 * wrong[subset == k].mean() for k in range(3)]
                rows.append([*shares, 100 * (subset == 0).mean()])
            cells = " | ".join(f"{value:.1f}" for value in np.mean(rows, axis=0))
            lines.append(f"| {noise} | {name} | {cells} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data-dir", required=True, help="the Grocery Store data set")
    parser.add_argument("--weights", required=True, help="of InceptionV3 up to mixed8")
    parser.add_argument("--outliers", required=True, help=".npz file with `features`")
    parser.add_argument("--to", default="runs/compare_curriculum", help="folder of the results")
    parser.add_argument(
        "--steps", type=int, default=1500, help="of each training, a multiple of 150"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one learning rate, none is chosen: to see it run"
    )
    parser.add_argument(
        "--only-divisions", action="store_true", help="no training, only what the subsets hold"
    )
    parser.add_argument("--tasks", default=",".join(LEARNING_RATES))
    parser.add_argument("--noises", default=",".join(NOISES))
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.steps % (MOST_STAGES * STEPS_AT_ONCE):
        parser.error(
            f"--steps: expected a multiple of {MOST_STAGES * STEPS_AT_ONCE}, {MOST_STAGES} stages "
            f"of whole executions of {STEPS_AT_ONCE} steps. Received: {arguments.steps}"
        )
    tasks = names_of(parser, "--tasks", arguments.tasks, LEARNING_RATES, ",")
    noises = names_of(parser, "--noises", arguments.noises, NOISES, ",")
    for name in ("weights", "outliers"):
        if not Path(getattr(arguments, name)).is_file():
            parser.error(f"--{name}: there is no file {getattr(arguments, name)}")
    with np.load(arguments.outliers, allow_pickle=False) as arrays:
        outliers = arrays["features"].astype("float32")
    comparison = Comparison(*grocery_features(arguments), outliers, arguments)
    lines = []
    for task in tasks:
        if not arguments.only_divisions:
            lines += [*results(comparison, task, noises), ""]
            print("\n".join(lines), flush=True)
        lines += [*divisions(comparison, task, noises), ""]
    print("\n".join(lines))
    name = "divisions.md" if arguments.only_divisions else "tables.md"
    (Path(arguments.to) / name).write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
