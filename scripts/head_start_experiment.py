"""The trainings of compare_head_starts.py: heads on the features of one file, done once each."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from comparison import Results, digest, read_features

import keras_ms
from keras_ms.callbacks.interpolate_weights import interpolated
from keras_ms.data.balanced_indices import balanced_indices
from keras_ms.models.head_start import STARTS
from keras_ms.run.choice import MeasuredWeights
from keras_ms.run.head_folds import ALPHAS, RATES, HeadFolds, class_folds

IMAGES_PER_CLASS = 5
STEPS_PER_EXECUTION = 50
RANDOM_STARTS = {
    "orthogonal": keras.initializers.Orthogonal,
    "official": lambda seed: keras.initializers.VarianceScaling(
        2.0, "fan_out", "untruncated_normal", seed
    ),
}
# of what is held out: (classes divided by it, draws of them)
SHARES = {"a fifth": (5, 3), "a tenth": (10, 1)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is tried. `size`, `steps` and `classes` are those that are compared with others."""

    size: int = 512
    steps: int = 600
    classes: int = 16
    seeds: tuple = (0, 1, 2)
    all_steps: tuple = (200, 600, 2000)
    sizes: tuple = (64, 128, 256, 512, 1024)


class FeatureSet:
    """The features of one file: training classes, test classes.

    Args:
        name: what the tables call it.
        features: float32 (N, channels).
        labels: class ids (N,).
        is_test: bool (N,).
    """

    def __init__(self, name, features, labels, is_test):
        self.name, self.features, self.is_test = name, features, is_test
        self.labels = np.unique(labels, return_inverse=True)[1].reshape(-1)
        self.digest = digest(features, labels, is_test)
        self.train = features[~is_test], self.labels[~is_test]
        self._starts = {}

    @classmethod
    def read(cls, parser, path):
        features, labels = read_features(parser, path)
        with np.load(path, allow_pickle=False) as arrays:
            if "split" in arrays:
                is_test = arrays["split"] == "test"
            else:
                is_test = labels >= (labels.max() + 1) // 2
        if is_test.all() or not is_test.any():
            parser.error(f"expected training and test classes, by `split`: {path}")
        return cls(Path(path).stem, features, labels, is_test)

    def start(self, key, function):
        """What `function()` returns: axes are computed once for all learning rates and steps."""
        if key not in self._starts:
            self._starts[key] = function()
        return self._starts[key]


class Heads(HeadFolds):
    """`HeadFolds` whose starts are kept, and which also searches among the images trained on.

    Its steps are compiled by XLA, and fifty are one call: the same steps up to rounding, sooner.
    """

    def __init__(self, feature_set, features, labels, folds, *, seed, size, steps, classes):
        self._set = feature_set
        self._among = None
        channels = features.shape[1]

        def batches(rows, ids):
            stream = balanced_indices(
                ids, min(classes, len(np.unique(ids))), IMAGES_PER_CLASS, seed=seed
            )
            indices = np.stack([next(stream) for _ in range(steps)])
            on_device = tf.constant(rows), tf.constant(ids)
            dataset = tf.data.Dataset.from_tensor_slices(indices)
            return dataset.map(lambda row: tuple(tf.gather(a, row) for a in on_device)).repeat()

        super().__init__(
            features[None],
            labels,
            folds,
            embedding_size=size,
            loss=keras_ms.MultiSimilarityLoss(),
            normalize=True,
            optimizer=keras_ms.GroupedAdam,
            schedule=keras.optimizers.schedules.CosineDecay(1.0, steps),
            batches=batches,
            steps=steps,
            starts=STARTS,
            rates=RATES,
            alphas=ALPHAS,
            random_start=lambda start: keras.ops.convert_to_numpy(
                RANDOM_STARTS[start](seed=seed)((channels, size))
            ),
            ks=(1,),
        )
        self._model.compile(
            self._model.optimizer,
            self._model.loss,
            jit_compile=True,
            steps_per_execution=math.gcd(steps, STEPS_PER_EXECUTION),
        )
        self._kind = seed, size

    def run(self, fold, start, rate, among_all):
        """A training as a line of the results: Recall@1 at each alpha."""
        measured: dict[str, Any] = {
            "recall": [recall[1] for _, recall in self.measure(fold, start, rate)]
        }
        held_out = self.folds[fold]
        measured["images"] = int(held_out.sum())
        if among_all:
            begin, features, end = self._start(start, ~held_out), self.features[0], self._weights()
            measured["among_all"] = []
            for alpha in ALPHAS:
                kernel, bias = (interpolated(s, e, alpha) for s, e in zip(begin, end))
                embeddings = features @ kernel + bias
                recalls = keras_ms.recall_at_k(
                    embeddings[held_out], self.labels[held_out], (1,), embeddings, self.labels,
                    query_positions=np.flatnonzero(held_out),
                )  # fmt: skip
                measured["among_all"].append(recalls[1])
        return measured

    def _weights(self):
        return tuple(keras.ops.convert_to_numpy(v) for v in (self._layer.kernel, self._layer.bias))

    def _start(self, start, rows):
        key = (start, *self._kind, rows.tobytes())
        return self._set.start(key, lambda: super(Heads, self)._start(start, rows))


class Training(NamedTuple):
    """What tells one training from another.

    Attributes:
        division: "folds", a key of SHARES, or "test": trained on all training classes.
        seed: of the division and of the batches.
        fold: which part of the division is held out.
        start, rate, steps, size: of the head.
        classes: in a batch.
    """

    division: str
    seed: int
    fold: int
    start: str
    rate: float
    steps: int
    size: int
    classes: int


class Comparison:
    """Trains what is not yet in results.jsonl.

    Args:
        sets: list of `FeatureSet`.
        folder: of results.jsonl.
        plan: `Plan`.
    """

    def __init__(self, sets, folder, plan):
        self.sets, self.plan = sets, plan
        names = ("features", *Training._fields)
        self.results = Results(folder, lambda run: [run[name] for name in names])
        self._heads: Any = None, None

    def size(self, feature_set):
        """Dimensions that are compared with others, as many as there are features at most."""
        return min(self.plan.size, feature_set.features.shape[1])

    def run(self, feature_set, division, start, rate, *, seed=0, fold=0, **changes):
        """A training of the plan, or one with some `changes`."""
        kind = {
            "steps": self.plan.steps, "size": self.size(feature_set), "classes": self.plan.classes,
            **changes,
        }  # fmt: skip
        training = Training(division, seed, fold, start, rate, **kind)
        what = {"set": feature_set.name, "features": feature_set.digest, **training._asdict()}
        # a search among all costs as much as a training of a small set
        among_all = division == "folds" and seed == 0 and not changes
        return self.results.find_or_run(
            what,
            lambda: self._heads_of(feature_set, division, seed, kind).run(
                fold, start, rate, among_all
            ),
        )

    def folds(self, feature_set, start, rate, **options):
        """The trainings of all folds."""
        folds = class_folds(feature_set.train[1], options.get("seed", 0))
        return [
            self.run(feature_set, "folds", start, rate, fold=fold, **options)
            for fold in range(len(folds))
        ]

    def by_folds(self, feature_set, rates=RATES, starts=STARTS, **options):
        """`MeasuredWeights`s by the folds, as `HeadFolds.choice` has them."""
        return self.candidates(
            {
                (start, rate): self.folds(feature_set, start, rate, **options)
                for start in starts
                for rate in rates
            }
        )

    def on_test(self, feature_set, starts=STARTS, rates=RATES, **options):
        """`MeasuredWeights`s trained on all training classes, measured on the test classes."""
        return self.candidates(
            {
                (start, rate): [self.run(feature_set, "test", start, rate, **options)]
                for start in starts
                for rate in rates
            }
        )

    def candidates(self, trainings, searched="recall"):
        """{(start, rate): runs} as a list of `MeasuredWeights`, the mean over the runs' images."""
        candidates = []
        for (start, rate), runs in trainings.items():
            images = [run["images"] for run in runs]
            values = np.average([run[searched] for run in runs], axis=0, weights=images)
            candidates += [
                MeasuredWeights(runs[0]["steps"], alpha, {1: float(value)}, start, rate)
                for alpha, value in zip(ALPHAS, values)
            ]
        return candidates

    def frozen(self, feature_set):
        """Recall@1 of the features themselves on the test classes."""
        held_out = feature_set.is_test
        return keras_ms.recall_at_k(
            feature_set.features[held_out], feature_set.labels[held_out], (1,)
        )[1]

    def _heads_of(self, feature_set, division, seed, kind):
        key = feature_set.digest, division, seed, *kind.values()
        if self._heads[0] != key:
            if division == "test":
                features, labels = feature_set.features, feature_set.labels
                folds = [feature_set.is_test]
            else:
                features, labels = feature_set.train
                folds = divisions(division, labels, seed)
            self._heads = key, Heads(feature_set, features, labels, folds, seed=seed, **kind)
        return self._heads[1]


def divisions(division, labels, seed):
    """List of bool arrays (N,): the images held out in each fold."""
    if division == "folds":
        return class_folds(labels, seed)
    classes = np.random.default_rng(seed).permutation(np.unique(labels))
    # two classes at least, or everything that is found is right
    number = max(2, len(classes) // SHARES[division][0])
    return [np.isin(labels, classes[:number])]
