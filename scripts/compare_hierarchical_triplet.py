"""Compares the hierarchical triplet loss with the triplet loss that it extends.

    python scripts/compare_hierarchical_triplet.py cub200_2010_inception_mixed8.npz \
        --to runs/compare_htl

The file holds `features` (N, channels) and `labels` (N,), 0-based; the first half of the classes
trains, the second half tests. A linear head on the features is trained with

1. every setting of TRIALS, on four fifths of the training classes, and measured on the last fifth
   (`--draws` draws of them): the best mean Recall@1 of each kind is chosen;
2. with the chosen settings, on all training classes from seeds 0, 1, 2, and measured on the test
   classes as it goes: the last step, and the first step that reaches the triplet loss's last
   Recall@1;
3. with the parts of the best of the hierarchical kinds, by validation classes, changed one at a
   time (ABLATION), likewise.

The kinds differ in their loss and in their batches: random classes, or classes with their nearest
ones, by a tree that is rebuilt every epoch. All have batches of as many classes and images.

Every finished run is a line of results.jsonl in the folder, and is not repeated: an interrupted
comparison goes on where it was. `--trials-only` never looks at the test classes.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from comparison import (
    BATCH_SIZE,
    Results,
    digest,
    linear_head,
    mean_and_spread,
    read_features,
    short,
    validation_images,
    zero_shot_halves,
)

import keras_ms
from keras_ms.evaluation.embed import embed_batches
from keras_ms.htl.batches import NeighbourIndices, neighbour_batches
from keras_ms.htl.callback import RebuildClassTree
from keras_ms.htl.class_tree import ClassTree
from keras_ms.htl.loss import HierarchicalTripletLoss

EMBEDDING_SIZE = 512
CLASSES_PER_BATCH, IMAGES_PER_CLASS = 16, 5
LEARNING_RATE = 1e-4  # Adam: the scale of a loss cancels out of its step
SEEDS = (0, 1, 2)
STEPS_PER_EPOCH = 50  # a tree every 50 steps: about 1.3 epochs of the 3,000 training images
CONSTANTS = [EMBEDDING_SIZE, CLASSES_PER_BATCH, IMAGES_PER_CLASS, LEARNING_RATE, STEPS_PER_EPOCH]

# What a run is made of. `margin` is in cosine similarity and takes the tree's place: a constant
# margin; None takes the tree's margins. `anchor_classes` of 16 leaves no place for neighbours: the
# batch is 16 random classes.
TRIPLET = {"margin": 0.1, "anchor_classes": 16}
HIERARCHICAL = {
    "margin": None,
    "anchor_classes": 4,
    "beta": 0.1,
    "levels": 16,
    "linkage": "average",
}
# the margins of the untrained head's tree cannot run away; batches follow the latest tree
FIRST_TREE = {**HIERARCHICAL, "levels": 64, "margins": "of the first tree"}
# 0.1 as published. d_H - s is about the gap that the classes have already: at -0.3 and below almost
# no triplet violates the margin, from -0.2 on the margin grows with every tree.
BETAS = (-0.3, -0.2, -0.1, 0.1)
ANCHOR_CLASSES = (4, 2, 8)  # l' of neighbour batches: 4 x 4, 2 x 8 and 8 x 2 classes
TRIALS = {
    "triplet, random classes": [{**TRIPLET, "margin": m} for m in (0.02, 0.05, 0.1, 0.2)],
    "triplet, neighbours": [
        {**TRIPLET, "anchor_classes": anchors, "margin": m}
        for anchors in ANCHOR_CLASSES
        for m in (0.02, 0.05, 0.1, 0.2)
    ],
    "hierarchical, random classes": [
        {**HIERARCHICAL, "anchor_classes": 16, "beta": beta} for beta in (-0.2, 0.1, 0.4, 0.8)
    ],
    "hierarchical, neighbours": [{**HIERARCHICAL, "beta": beta} for beta in BETAS],
    "hierarchical, margins of the first tree": [
        {**FIRST_TREE, "anchor_classes": anchors, "beta": beta}
        for anchors in ANCHOR_CLASSES
        for beta in (-0.2, -0.1, 0.0, 0.1)
    ],
    "hierarchical, margins of the first tree, random classes": [
        {**FIRST_TREE, "anchor_classes": 16, "beta": beta} for beta in (-0.2, -0.1, 0.0, 0.1)
    ],
}
ABLATION = {
    "constant margin of the same mean": None,  # measured from the trees of the run
    "16 levels": {"levels": 16},
    "4 levels": {"levels": 4},
    "single linkage": {"linkage": "single"},
    "random classes": {"anchor_classes": 16},
    "8 anchors x 2 classes": {"anchor_classes": 8},
    "4 anchors x 4 classes": {"anchor_classes": 4},
    "2 anchors x 8 classes": {"anchor_classes": 2},
    "batches by the first tree too": {"every": 10**6},
    "margins of the latest tree": {"margins": "of the latest tree"},
}


class Trace(keras.callbacks.Callback):
    """Recall@1 after every epoch, and the mean margin of the tree that the loss takes its margins
    from; of the last tree built where the margin is constant."""

    def __init__(self, features, labels, loss, rebuild):
        super().__init__()
        self.evaluation = features, labels
        self.tree_holder: Any = loss if isinstance(loss, HierarchicalTripletLoss) else rebuild
        self.recalls, self.margins, self.nodes = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        features, labels = self.evaluation
        embeddings = embed_batches(self.model, features, batch_size=BATCH_SIZE)
        self.recalls.append(float(keras_ms.recall_at_k(embeddings, labels)[1]))
        tree = self.tree_holder.tree
        ids = tree.class_ids
        distances = tree.distances(ids[:, None], ids[None])[~np.eye(len(ids), dtype=bool)]
        # in cosine similarity, as the margin of the triplet loss, and without beta
        self.margins.append(float((distances.mean() - tree.spreads.mean()) / 2))
        self.nodes.append(tree.num_nodes())


def train(train_set, evaluation_set: tuple[Any, Any], setting, seed, steps):
    """Trains a head; returns what there is to say about the run."""
    keras.utils.set_random_seed(seed)
    features, labels = train_set
    order = NeighbourIndices(
        labels,
        anchor_classes=setting["anchor_classes"],
        classes_each=CLASSES_PER_BATCH // setting["anchor_classes"],
        images_per_class=IMAGES_PER_CLASS,
        steps_per_epoch=STEPS_PER_EPOCH,
        seed=seed,
    )
    if setting["margin"] is None:
        loss = tree_loss = HierarchicalTripletLoss(beta=setting["beta"])
    else:
        loss, tree_loss = keras_ms.TripletLoss(setting["margin"], mining="all"), None
    head = linear_head(features.shape[1], EMBEDDING_SIZE, seed)
    levels = setting.get("levels", HIERARCHICAL["levels"])
    if tree_loss is not None and setting.get("margins") == "of the first tree":
        embeddings = embed_batches(head, features, batch_size=BATCH_SIZE)
        tree_loss.assign_tree(ClassTree.build(embeddings, labels, levels, setting["linkage"]))
        tree_loss = None
    rebuild = RebuildClassTree(
        tree_loss,
        features,
        labels,
        order,
        levels=levels,
        linkage=setting.get("linkage", HIERARCHICAL["linkage"]),
        every=setting.get("every", 1),
        batch_size=BATCH_SIZE,
    )
    head.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        loss=loss,
        jit_compile=True,
        steps_per_execution=STEPS_PER_EPOCH,
    )
    on_device = tf.constant(features), tf.constant(labels)
    indices = neighbour_batches(labels, order)
    batches = indices.map(lambda rows, _: tuple(tf.gather(array, rows) for array in on_device))
    trace = Trace(*evaluation_set, loss, rebuild)
    head.fit(batches, epochs=steps // STEPS_PER_EPOCH, callbacks=[rebuild, trace], verbose=0)
    return {
        "recall@1": trace.recalls,
        "last_recall@1": trace.recalls[-1],
        "mean_margin": float(np.mean(trace.margins)),
        "last_nodes": trace.nodes[-1],
    }


class Comparison:
    """Runs what is not yet in results.jsonl."""

    def __init__(self, features, labels, folder, steps, num_draws):
        self.train_set, self.test_set = zero_shot_halves(features, labels)
        self.steps, self.num_draws = steps, num_draws
        self.features = digest(features, labels)
        names = ("stage", "setting", "seed", "steps", "features", "constants")
        # a line of an older script has no features: it is another run
        self.results = Results(folder, lambda run: [run.get(n) for n in names], ("recall@1",))

    def trial(self, setting, draw):
        """Trained on four fifths of the training classes, measured on the others."""
        features, labels = self.train_set
        held_out = validation_images(labels, draw)
        return self._run(
            {"stage": "trial", "setting": setting, "seed": draw},
            (features[~held_out], labels[~held_out]),
            (features[held_out], labels[held_out]),
        )

    def final(self, setting, seed):
        what = {"stage": "final", "setting": setting, "seed": seed}
        return self._run(what, self.train_set, self.test_set)

    def trials(self, setting):
        return [self.trial(setting, draw) for draw in range(self.num_draws)]

    def finals(self, setting):
        return [self.final(setting, seed) for seed in SEEDS]

    def chosen(self, name):
        """The setting with the best mean Recall@1 on validation classes, the first of equals."""
        return max(TRIALS[name], key=lambda setting: np.mean(last(self.trials(setting))))

    def _run(self, what, train_set, evaluation_set):
        what = {**what, "steps": self.steps, "features": self.features, "constants": CONSTANTS}
        return self.results.find_or_run(
            what,
            lambda: train(train_set, evaluation_set, what["setting"], what["seed"], self.steps),
        )


def last(runs):
    return [100 * run["recall@1"][-1] for run in runs]


def steps_to(target, runs):
    """Steps until the mean curve of the runs reaches a Recall@1; None if it never does."""
    curve = 100 * np.mean([run["recall@1"] for run in runs], axis=0)
    reached = np.flatnonzero(curve >= target)
    return (int(reached[0]) + 1) * STEPS_PER_EPOCH if len(reached) else None


def row(name, setting, runs, target):
    nodes = runs[0]["last_nodes"]
    return (
        f"| {name} | {short(setting)} | {mean_and_spread(last(runs))} "
        f"| {steps_to(target, runs) or '–'} | {np.mean([r['mean_margin'] for r in runs]):.3f} "
        f"| {', '.join(str(n) for n in nodes[:6])} … |"
    )


HEADER = [
    "| | setting | Recall@1, % | steps to the triplet's last | mean of d_H - s over 2 | nodes at "
    "levels 0, 1, … |",
    "|---|---|---|---|---|---|",
]


def tables(comparison, trials_only):
    runs_of = comparison.trials if trials_only else comparison.finals
    chosen = {name: comparison.chosen(name) for name in TRIALS}
    baseline = chosen["triplet, random classes"]
    # the kind whose parts are changed
    hierarchical = [setting for setting in chosen.values() if setting["margin"] is None]
    best = max(hierarchical, key=lambda setting: np.mean(last(comparison.trials(setting))))
    target = np.mean(last(runs_of(baseline)))
    lines = ["On validation classes, all trials", *HEADER]
    aim = np.mean(last(comparison.trials(baseline)))
    for name, settings in TRIALS.items():
        lines += [row(name, setting, comparison.trials(setting), aim) for setting in settings]
    if not trials_only:
        lines += ["", "On the test classes, chosen settings", *HEADER]
        lines += [row(name, value, runs_of(value), target) for name, value in chosen.items()]
    lines += ["", "The chosen hierarchical loss with one part changed", *HEADER]
    for name, change in ABLATION.items():
        if change is None:
            mean = np.mean([run["mean_margin"] for run in runs_of(best)]) + best["beta"] / 2
            change = {"margin": max(round(float(mean), 3), 0.0), "margins": None}
        lines.append(row(name, {**best, **change}, runs_of({**best, **change}), target))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("features", help=".npz file with `features` and `labels`")
    parser.add_argument("--to", default="runs/compare_htl", help="folder of the results")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=2, help="draws of validation classes")
    parser.add_argument("--trials-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.steps < STEPS_PER_EPOCH or arguments.steps % STEPS_PER_EPOCH:
        parser.error(
            f"--steps: expected a multiple of {STEPS_PER_EPOCH}. Received: {arguments.steps}"
        )
    features, labels = read_features(parser, arguments.features)
    comparison = Comparison(features, labels, arguments.to, arguments.steps, arguments.draws)
    text = tables(comparison, arguments.trials_only)
    print(text)
    (Path(arguments.to) / "tables.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
