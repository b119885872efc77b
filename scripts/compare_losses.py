"""Compares all losses on cached features: the same head, batches and steps for each.

    python scripts/compare_losses.py cub200_2010_inception_mixed8.npz --to runs/compare_losses

The file holds `features` (N, channels) and `labels` (N,), 0-based; the first half of the classes
trains, the second half tests. For each loss

1. four settings are tried on validation classes (a fifth of the training classes, two draws of
   them): always four, and the best mean Recall@1 wins;
2. with the chosen setting a head is trained on all training classes from seeds 0, 1, 2, with the
   same batches for every loss, and the last step is measured on the test classes; some of the
   losses also with heads of other sizes.

Every finished run is a line of results.jsonl in the folder, and is not repeated: an interrupted
comparison goes on where it was. At the end the tables are printed and written to tables.md. Some
200 runs; an hour on 2 cores that other programs used as well.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from comparison import (
    Results,
    digest,
    linear_head,
    mean_and_spread,
    names_of,
    read_features,
    recalls,
    short,
    validation_images,
    zero_shot_halves,
)

import keras_ms
from keras_ms.data.balanced_indices import balanced_indices
from keras_ms.losses.contrastive import contrastive_weights
from keras_ms.losses.pair_weights import PairStatistics
from keras_ms.losses.proxies import Proxies, ProxyAnchorLoss, ProxyNCALoss
from keras_ms.models.cross_batch_memory import CrossBatchMemory
from keras_ms.pairs.mining import mine_all, mine_multi_similarity
from keras_ms.run.losses import named_loss

EMBEDDING_SIZE = 512
CLASSES_PER_BATCH, IMAGES_PER_CLASS = 16, 5
STEPS, STEPS_PER_EPOCH = 2000, 200
LEARNING_RATE = 1e-4  # Adam: the scale of a loss cancels out of its step
SEEDS = (0, 1, 2)
OTHER_SIZES = (64, 128, 256, 1024)  # of the embedding, with the setting chosen at EMBEDDING_SIZE
SIZED_LOSSES = ("multi_similarity", "contrastive", "triplet, semi-hard", "binomial_deviance")
VALIDATION_DRAWS = (0, 1)
MEMORY_SIZE = 1024
# other ones make other runs; lines of an older script say nothing of them
_CONSTANTS = [
    EMBEDDING_SIZE,
    CLASSES_PER_BATCH,
    IMAGES_PER_CLASS,
    STEPS,
    LEARNING_RATE,
    MEMORY_SIZE,
]

# Four settings of each, the default or the published value among them.
TRIALS = {
    "multi_similarity": [
        {"alpha": 2, "beta": 40, "threshold": 0.5},
        {"alpha": 2, "beta": 50, "threshold": 1.0},
        {"alpha": 2, "beta": 50, "threshold": 0.5},
        {"alpha": 2, "beta": 20, "threshold": 0.5},
    ],
    "contrastive": [{"threshold": value} for value in (0.2, 0.35, 0.5, 0.65)],
    "triplet, semi-hard": [
        {"mining": "semi_hard", "margin": value} for value in (0.05, 0.1, 0.2, 0.4)
    ],
    "triplet, all": [{"mining": "all", "margin": value} for value in (0.05, 0.1, 0.2, 0.4)],
    "triplet, hard": [{"mining": "hard", "margin": value} for value in (0.05, 0.1, 0.2, 0.4)],
    "lifted_structure": [{"threshold": value} for value in (1.0, -4.5, -5.0, -5.5)],
    "lifted_structure, two-sided": [
        {"two_sided": True, "margin": value} for value in (1.0, 0.5, -4.0, -5.0)
    ],
    "binomial_deviance": [
        {"beta": 50, "threshold": 0.5},
        {"beta": 25, "threshold": 0.5},
        {"beta": 50, "threshold": 0.3},
        {"beta": 50, "threshold": 0.7},
    ],
    "n_pair": [{"regularization": value} for value in (0.0, 0.002, 0.02, 0.2)],
    "histogram": [{"num_steps": value} for value in (26, 51, 101, 201)],
    "margin": [{"boundary": value} for value in (0.9, 1.0, 1.1, 1.2)],
    "angular": [{"angle": value} for value in (36.0, 40.0, 45.0, 50.0)],
    "circle": [
        {"margin": 0.25, "gamma": 256},
        {"margin": 0.4, "gamma": 80},
        {"margin": 0.25, "gamma": 80},
        {"margin": 0.25, "gamma": 32},
    ],
    "supervised_contrastive": [{"temperature": value} for value in (0.05, 0.07, 0.1, 0.2)],
    "proxy_nca": [{"scale": value} for value in (1.0, 3.0, 10.0, 20.0)],
    "proxy_anchor": [
        {"alpha": 32, "margin": 0.1},
        {"alpha": 16, "margin": 0.1},
        {"alpha": 64, "margin": 0.1},
        {"alpha": 32, "margin": 0.0},
    ],
}
PROXY_LOSSES = {"proxy_nca": ProxyNCALoss, "proxy_anchor": ProxyAnchorLoss}

# The parts of the Multi-Similarity loss, each preset whole, mined and unmined. "No weighting"
# counts every mined pair alike.
OFFICIAL = {"alpha": 2, "beta": 40, "threshold": 0.5}
PAPER = {"alpha": 2, "beta": 50, "threshold": 1.0}
ABLATION = {
    "neither: all pairs alike": None,
    "mining only": 0.1,
    "weighting only, official": {**OFFICIAL, "epsilon": None},
    "both, official": {**OFFICIAL, "epsilon": 0.1},
    "weighting only, paper": {**PAPER, "epsilon": None},
    "both, paper": {**PAPER, "epsilon": 0.1},
}


def build_loss(name, setting):
    """A loss by its name in TRIALS or ABLATION."""
    if name in PROXY_LOSSES:
        return PROXY_LOSSES[name](**setting)
    if name in ABLATION:
        if isinstance(setting, dict):
            return keras_ms.MultiSimilarityLoss(**setting)
        miner = mine_all if setting is None else partial(mine_multi_similarity, epsilon=setting)
        # below -1 every negative is above the threshold
        alike = partial(contrastive_weights, threshold=-2.0)
        return keras_ms.WeightedPairLoss(alike, miner)
    return named_loss(name.split(",")[0], **setting)


def train(features, labels, name, setting, seed, memory_size=0, embedding_size=EMBEDDING_SIZE):
    """Trains a head and returns it with the statistics of its pairs."""
    keras.utils.set_random_seed(seed)
    head = linear_head(features.shape[1], embedding_size, seed)
    loss = build_loss(name, setting)
    model, optimizer, callbacks = head, keras.optimizers.Adam(LEARNING_RATE), []
    stream = balanced_indices(labels, CLASSES_PER_BATCH, IMAGES_PER_CLASS, seed=seed)
    indices = np.stack([next(stream) for _ in range(STEPS)])
    if name in PROXY_LOSSES:
        proxies = Proxies(labels.max() + 1)
        model = keras.Sequential([head, proxies])
        factors = [1.0, 1.0, 100.0]  # as published: proxies learn 100 times as fast
        optimizer = keras_ms.GroupedAdam(LEARNING_RATE, factors)
    else:
        batches = [(features[row], labels[row]) for row in indices[:: STEPS // 4]]
        callbacks = [PairStatistics(loss, batches)]
    if memory_size:
        model = CrossBatchMemory(head, loss, memory_size)
    model.compile(
        optimizer,
        loss=None if memory_size else loss,
        jit_compile=True,
        steps_per_execution=STEPS_PER_EPOCH // 2,
    )
    rows = tf.data.Dataset.from_tensor_slices(indices)
    on_device = tf.constant(features), tf.constant(labels)
    batches = rows.map(lambda row: tuple(tf.gather(array, row) for array in on_device))
    history = model.fit(
        batches.repeat(),
        steps_per_epoch=STEPS_PER_EPOCH,
        epochs=STEPS // STEPS_PER_EPOCH,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    ).history
    size = CLASSES_PER_BATCH * IMAGES_PER_CLASS
    pairs = {
        kind: float(np.mean(history[kind])) * size
        for kind in ("mined_positives", "mined_negatives")
        + ("weighted_positives", "weighted_negatives")
        if kind in history
    }
    return head, pairs


class Comparison:
    """Runs what is not yet in results.jsonl."""

    def __init__(self, features, labels, folder):
        self.train_set, self.test_set = zero_shot_halves(features, labels)
        self.features = digest(features, labels)
        names = ("stage", "name", "setting", "seed", "memory_size", "embedding_size", "features")
        self.results = Results(
            folder,
            lambda run: [*(run.get(name) or 0 for name in names), run.get("constants", _CONSTANTS)],
        )

    def trial(self, name, setting, draw):
        """Recall on validation classes, trained on the others."""
        features, labels = self.train_set
        held_out = validation_images(labels, draw)
        # ids without gaps, for the proxies
        kept = np.unique(labels[~held_out], return_inverse=True)[1]
        return self._run(
            {"stage": "trial", "name": name, "setting": setting, "seed": draw},
            (features[~held_out], kept),
            (features[held_out], labels[held_out]),
        )

    def final(self, name, setting, seed, **options):
        """Recall on the test classes; options are `memory_size` and `embedding_size`."""
        what = {"stage": "final", "name": name, "setting": setting, "seed": seed, **options}
        return self._run(what, self.train_set, self.test_set, **options)

    def chosen(self, name):
        """The setting with the best mean Recall@1 on validation classes, the first of equals."""
        means = [
            np.mean([self.trial(name, setting, draw)["recall"]["1"] for draw in VALIDATION_DRAWS])
            for setting in TRIALS[name]
        ]
        return TRIALS[name][int(np.argmax(means))], max(means)

    def _run(self, what, train_set: tuple[Any, Any], evaluation_set, **options):
        what = {**what, "features": self.features, "constants": _CONSTANTS}

        def run():
            chosen = what["name"], what["setting"], what["seed"]
            head, pairs = train(*train_set, *chosen, **options)
            return {**recalls(head, *evaluation_set), **pairs}

        return self.results.find_or_run(what, run)


def recall_of(runs):
    return mean_and_spread([100 * run["recall"]["1"] for run in runs])


def pairs_of(runs):
    if "weighted_positives" not in runs[0]:
        return "– | –"
    return " | ".join(
        f"{np.mean([run[kind] for run in runs]):,.0f}"
        for kind in ("weighted_positives", "weighted_negatives")
    )


def tables(comparison, names):
    lines = [
        "| loss | setting chosen of four | validation | Recall@1, % | positive pairs a step "
        "| negative |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    for name in names:
        setting, validation = comparison.chosen(name)
        words = short(setting, without=("mining", "two_sided"))
        runs = [comparison.final(name, setting, seed) for seed in SEEDS]
        mean = np.mean([run["recall"]["1"] for run in runs])
        rows.append(
            (
                mean,
                f"| {name.replace('_', ' ')} | {words} | {100 * validation:.1f} "
                f"| {recall_of(runs)} | {pairs_of(runs)} |",
            )
        )
    lines += [line for _, line in sorted(rows, reverse=True)]
    lines += ["", "| Multi-Similarity | Recall@1, % | positive pairs a step | negative |"]
    lines += ["|---|---|---|---|"]
    for name, setting in ABLATION.items():
        runs = [comparison.final(name, setting, seed) for seed in SEEDS]
        lines.append(f"| {name} | {recall_of(runs)} | {pairs_of(runs)} |")
    lines += ["", "| cross-batch memory | without | memory of 1,024 |", "|---|---|---|"]
    for name in ("multi_similarity", "contrastive"):
        setting, _ = comparison.chosen(name)
        without, with_memory = (
            [comparison.final(name, setting, seed, **options) for seed in SEEDS]
            for options in ({}, {"memory_size": MEMORY_SIZE})
        )
        lines.append(
            f"| {name.replace('_', ' ')} | {recall_of(without)} | {recall_of(with_memory)} |"
        )
    sizes = sorted((EMBEDDING_SIZE, *OTHER_SIZES))
    lines += ["", "| embedding size | " + " | ".join(map(str, sizes)) + " |"]
    lines += ["|---" * (len(sizes) + 1) + "|"]
    for name in SIZED_LOSSES:
        setting, _ = comparison.chosen(name)
        row = []
        for size in sizes:
            options = {} if size == EMBEDDING_SIZE else {"embedding_size": size}
            runs = [comparison.final(name, setting, seed, **options) for seed in SEEDS]
            row.append(recall_of(runs))
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("features", help=".npz file with `features` and `labels`")
    parser.add_argument("--to", default="runs/compare_losses", help="folder of the results")
    parser.add_argument("--only", default="", help="names of losses, separated by semicolons")
    arguments = parser.parse_args()
    features, labels = read_features(parser, arguments.features)
    comparison = Comparison(features, labels, arguments.to)
    names = names_of(parser, "--only", arguments.only, TRIALS)
    text = tables(comparison, names)
    print(text)
    (Path(arguments.to) / "tables.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
