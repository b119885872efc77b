"""Compares HDML with the metric loss it extends, on cached features: same head, batches, steps.

    python scripts/compare_hdml.py cub200_2010_inception_mixed8.npz --to runs/compare_hdml

The file holds `features` (N, channels) and `labels` (N,), 0-based; the first half of the classes
trains, the second half tests. For each of N-pair, triplet and Multi-Similarity

1. four settings of the loss alone are tried on validation classes (a fifth of the training
   classes, two draws of them), and the best mean Recall@1 wins;
2. with these, four settings of HDML (alpha, beta) are tried the same way, the published among them;
3. the two winners are trained on all training classes from seeds 0, 1, 2, with the same initial
   head and the same batches for both, and the last step is measured on the test classes.

Every finished run is a line of results.jsonl in the folder, and is not repeated: an interrupted
comparison goes on where it was. A run with other features, or other constants of this file, is
another run. At the end the table is printed and written to table.md, with a
picture of the synthetic negatives' hardness for each loss. `--steps 300 --trials-only` looks at
validation classes alone.
"""

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from comparison import (
    Results,
    linear_head,
    mean_and_spread,
    read_features,
    recalls,
    short,
    validation_images,
    zero_shot_halves,
)

import keras_ms
from keras_ms.data.balanced_indices import balanced_indices
from keras_ms.hdml.model import HDML
from keras_ms.hdml.picture import draw_hardness
from keras_ms.hdml.tuples import NPairTuples, PairTuples, TripletTuples

EMBEDDING_SIZE = 512
# (classes, images of each) of a batch: N-pair takes two images a class, and a batch of P classes
# makes P^2 synthetic positives
BATCHES = {"n_pair": (32, 2), "triplet": (16, 5), "multi_similarity": (16, 5)}
EPOCHS = 20  # the averages that set hardness and balance are renewed once an epoch, as published
LEARNING_RATE = 1e-4  # Adam, as in compare_losses.py; HDML's other two keep the official rates
SEEDS = (0, 1, 2)
VALIDATION_DRAWS = (0, 1)

# Four settings of each loss alone, the default or the published value among them.
LOSSES = {
    "n_pair": [{"regularization": value} for value in (0.0, 0.002, 0.02, 0.2)],
    "triplet": [{"margin": value} for value in (0.3, 1.0, 3.0, 10.0)],
    "multi_similarity": [
        {"alpha": 2, "beta": 40, "threshold": 0.5},
        {"alpha": 2, "beta": 50, "threshold": 1.0},
        {"alpha": 2, "beta": 50, "threshold": 0.5},
        {"alpha": 2, "beta": 20, "threshold": 0.5},
    ],
}
# Four of HDML: the published one, or ours, first. Alpha is in units of the metric loss, beta in
# those of the generator loss, and both are other numbers on other features.
HARDNESS = {
    "n_pair": [
        {"alpha": 90.0, "beta": 1e4},
        {"alpha": 90.0, "beta": 1e3},
        {"alpha": 1.0, "beta": 1e4},
        {"alpha": 1.0, "beta": 1e3},
    ],
    "triplet": [
        {"alpha": 7.0, "beta": 1e4},
        {"alpha": 7.0, "beta": 1e3},
        {"alpha": 300.0, "beta": 1e4},
        {"alpha": 300.0, "beta": 1e3},
    ],
    "multi_similarity": [
        {"alpha": 0.5, "beta": 1e4},
        {"alpha": 0.5, "beta": 1e3},
        {"alpha": 2.0, "beta": 1e4},
        {"alpha": 2.0, "beta": 1e3},
    ],
}


def tuples_with(name, setting):
    if name == "n_pair":
        return NPairTuples(**setting)
    if name == "triplet":
        return TripletTuples(**setting)
    return PairTuples(keras_ms.MultiSimilarityLoss(**setting))


def train(features, labels, name, setting, hardness, seed, steps, mode):
    """Trains a head; returns it with HDML's history, which is None for the loss alone."""
    keras.utils.set_random_seed(seed)
    head = linear_head(features.shape[1], EMBEDDING_SIZE, seed)
    tuples = tuples_with(name, setting)
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    steps_per_epoch = max(steps // EPOCHS, 1)
    execution = {"jit_compile": True, "steps_per_execution": steps_per_epoch}
    if hardness is None:
        model = head
        # what HDML calls J_m; Keras casts labels to float32, exact for these few
        model.compile(
            optimizer,
            lambda ids, rows: tuples.metric_loss(tf.cast(ids, tf.int64), rows),
            **execution,
        )
    else:
        model = HDML(head, labels, tuples, mode, average_steps=steps_per_epoch, **hardness)
        model.compile(optimizer, **execution)
    stream = balanced_indices(labels, *BATCHES[name], seed=seed)
    indices = np.stack([next(stream) for _ in range(steps)])
    on_device = tf.constant(features), tf.constant(labels)
    batches = tf.data.Dataset.from_tensor_slices(indices).map(
        lambda row: tuple(tf.gather(array, row) for array in on_device)
    )
    history = model.fit(
        batches.repeat(),
        steps_per_epoch=steps_per_epoch,
        epochs=steps // steps_per_epoch,
        shuffle=False,
        verbose=0,
    ).history
    return head, None if hardness is None else history


class Comparison:
    """Runs what is not yet in results.jsonl."""

    def __init__(self, features, labels, folder, steps, mode, digest):
        self.train_set, self.test_set = zero_shot_halves(features, labels)
        self.folder, self.steps, self.mode = Path(folder), steps, mode
        self.digest = digest
        self.results = Results(folder, self._key, ("history",))

    def trial(self, name, setting, hardness, draw):
        """Recall on validation classes, trained on the others."""
        features, labels = self.train_set
        held_out = validation_images(labels, draw)
        return self._run(
            ("trial", name, setting, hardness, draw),
            (features[~held_out], labels[~held_out]),
            (features[held_out], labels[held_out]),
        )

    def final(self, name, setting, hardness, seed):
        return self._run(("final", name, setting, hardness, seed), self.train_set, self.test_set)

    def chosen(self, name):
        """(loss setting, its mean validation Recall@1, HDML setting, its mean)."""
        setting, plain = self._best(LOSSES[name], lambda s, draw: self.trial(name, s, None, draw))
        hardness, hard = self._best(
            HARDNESS[name], lambda h, draw: self.trial(name, setting, h, draw)
        )
        return setting, plain, hardness, hard

    @staticmethod
    def _best(settings, trial):
        means = [
            np.mean([trial(setting, draw)["recall"]["1"] for draw in VALIDATION_DRAWS])
            for setting in settings
        ]
        return settings[int(np.argmax(means))], max(means)

    def _run(self, what, train_set: tuple[Any, Any], evaluation_set):
        what = dict(zip(("stage", "name", "setting", "hardness", "seed"), what))
        what = {**what, "steps": self.steps, "mode": self.mode, "features": self.digest}
        what["constants"] = [EMBEDDING_SIZE, BATCHES[what["name"]], EPOCHS, LEARNING_RATE]

        def run():
            head, history = train(
                *train_set, what["name"], what["setting"], what["hardness"], what["seed"],
                self.steps, self.mode,
            )  # fmt: skip
            measured: dict[str, Any] = recalls(head, *evaluation_set)
            if history is not None:
                measured["history"] = {
                    k: [float(f"{v:.4g}") for v in vs] for k, vs in history.items()
                }
            return measured

        return self.results.find_or_run(what, run)

    @staticmethod
    def _key(run):
        names = ("stage", "name", "setting", "hardness", "seed", "steps", "mode")
        names += ("features", "constants")  # lines of an older comparison lack both
        # the loss alone has no modes
        return [run.get(name) for name in names if name != "mode" or run["hardness"] is not None]


def test_recalls(runs):
    return [100 * run["recall"]["1"] for run in runs]


def table(comparison, names, trials_only):
    lines = [
        "| loss | setting | HDML | validation: loss alone | HDML | test Recall@1, %: loss alone "
        "| HDML |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        setting, plain, hardness, hard = comparison.chosen(name)
        cells = [name.replace("_", " "), short(setting), short(hardness)]
        cells += [f"{100 * plain:.1f}", f"{100 * hard:.1f}"]
        if trials_only:
            cells += ["–", "–"]
            history = comparison.trial(name, setting, hardness, VALIDATION_DRAWS[0])["history"]
        else:
            runs = {
                kind: [comparison.final(name, setting, kind and hardness, s) for s in SEEDS]
                for kind in (None, "hdml")
            }
            cells += [mean_and_spread(test_recalls(finals)) for finals in runs.values()]
            history = runs["hdml"][0]["history"]
        lines.append(f"| {' | '.join(cells)} |")
        title = f"{name.replace('_', ' ')}, {short(hardness)}"
        draw_hardness(history, comparison.folder / f"hardness_{name}.png", title)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("features", help=".npz file with `features` and `labels`")
    parser.add_argument("--to", default="runs/compare_hdml", help="folder of the results")
    parser.add_argument("--only", default="", help="names of losses, separated by semicolons")
    parser.add_argument("--steps", type=int, default=1000, help="steps of every run")
    parser.add_argument("--mode", default="paper", choices=("paper", "official"))
    parser.add_argument("--trials-only", action="store_true", help="leave the test classes alone")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.only.split(";") if name.strip()] or list(LOSSES)
    if unknown := sorted(set(names) - set(LOSSES)):
        parser.error(f"expected some of {', '.join(LOSSES)} in --only: {', '.join(unknown)}")
    features, labels = read_features(parser, arguments.features)
    digest = hashlib.sha256(Path(arguments.features).read_bytes()).hexdigest()
    comparison = Comparison(features, labels, arguments.to, arguments.steps, arguments.mode, digest)
    text = table(comparison, names, arguments.trials_only)
    print(text)
    (comparison.folder / "table.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
