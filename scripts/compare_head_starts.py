"""Compares starts of a head on pretrained features, and ways to choose among them.

    OMP_NUM_THREADS=1 python scripts/compare_head_starts.py cub.npz cars.npz --to runs/compare_heads

Each file is a set: `features` (N, channels), `labels` (N,) and, where there is one, `split` (N,),
whose "test" are the test classes; without it, the second half of the classes. What is trained is
what `scripts/train.py --freeze-backbone` trains, piece by piece: `HeadFolds`, Multi-Similarity,
Adam, cosine, 16 x 5. The parts, each with a table:

- acceptance: the whole procedure from several seeds. Start, learning rate and alpha are chosen by 3
  folds over the training classes, then a head is trained on all of them and measured on the test
  classes, beside the features themselves.
- starts: start, learning rate, steps and alpha on the test classes. A picture, nothing is chosen.
- protocols: what is chosen by folds, each searched among itself or among all training images, and
  by a fifth or a tenth of the training classes; and how their figures go with the test classes.
- sizes: dimensions of the embedding, at the learning rate and alpha that the folds chose.
- others: other learning rates, steps and batches, by the folds alone; no test class is looked at.

Every finished training is a line of results.jsonl in the folder, and is not repeated: an
interrupted comparison goes on where it was.
"""

import argparse
import dataclasses
import math
import os
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from comparison import Results, digest, mean_and_spread, read_features

import keras_ms
from keras_ms.callbacks.interpolate_weights import between
from keras_ms.data.balanced_indices import balanced_indices
from keras_ms.models.head_start import STARTS
from keras_ms.run.choice import MeasuredWeights, best_of
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


QUICK = Plan(size=8, steps=20, classes=4, seeds=(0, 1), all_steps=(10, 20), sizes=(4, 8))


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
        measured = {"recall": [recall[1] for _, recall in self.measure(fold, start, rate)]}
        held = self.folds[fold]
        measured["images"] = int(held.sum())
        if among_all:
            begin, features, end = self._start(start, ~held), self.features[0], self._weights()
            measured["among_all"] = []
            for alpha in ALPHAS:
                kernel, bias = (between(s, e, alpha) for s, e in zip(begin, end))
                embeddings = features @ kernel + bias
                recalls = keras_ms.recall_at_k(
                    embeddings[held], self.labels[held], (1,), embeddings, self.labels,
                    query_positions=np.flatnonzero(held),
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
        self._heads = None, None

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
        held = feature_set.is_test
        return keras_ms.recall_at_k(feature_set.features[held], feature_set.labels[held], (1,))[1]

    def _heads_of(self, feature_set, division, seed, kind):
        key = feature_set.digest, division, seed, *kind.values()
        if self._heads[0] != key:
            if division == "test":
                arrays, folds = (feature_set.features, feature_set.labels), [feature_set.is_test]
            else:
                arrays = feature_set.train
                folds = divisions(division, arrays[1], seed)
            self._heads = key, Heads(feature_set, *arrays, folds, seed=seed, **kind)
        return self._heads[1]


def divisions(division, labels, seed):
    """List of bool arrays (N,): the images held out in each fold."""
    if division == "folds":
        return class_folds(labels, seed)
    classes = np.random.default_rng(seed).permutation(np.unique(labels))
    # two classes at least, or everything that is found is right
    number = max(2, len(classes) // SHARES[division][0])
    return [np.isin(labels, classes[:number])]


def same(candidates, chosen):
    """The candidate of the same start, rate and alpha."""
    kind = chosen.start, chosen.learning_rate, chosen.alpha
    return next(c for c in candidates if (c.start, c.learning_rate, c.alpha) == kind)


def correlation(candidates, tested):
    """Of the figures with those of the same candidates on the test classes; NaN if all equal."""
    values = [(c.recall[1], same(tested, c).recall[1]) for c in candidates]
    left, right = np.transpose(values)
    return np.corrcoef(left, right)[0, 1] if left.std() and right.std() else float("nan")


def in_words(chosen):
    return f"{chosen.start} {chosen.learning_rate:g} α {chosen.alpha:g}"


def percent(value):
    return f"{100 * value:.1f}"


def acceptance(comparison):
    yield "| set | classes | features | untrained pca, whitened | chosen | test | gain | worst |"
    yield "|---|---|---|---|---|---|---|---|"
    for feature_set in comparison.sets:
        frozen = comparison.frozen(feature_set)
        chosen = {
            seed: best_of(comparison.by_folds(feature_set, seed=seed))
            for seed in comparison.plan.seeds
        }
        tested, untrained = [], []
        for seed, choice in chosen.items():
            candidates = comparison.on_test(
                feature_set, (choice.start,), (choice.learning_rate,), seed=seed
            )
            tested.append(same(candidates, choice).recall[1])
        for start in STARTS:
            # any training tells what its start reaches
            untrained.append(comparison.on_test(feature_set, (start,), RATES[:1])[0].recall[1])
        gains = np.subtract(tested, frozen)
        yield (
            f"| {feature_set.name} | {len(np.unique(feature_set.train[1]))} | {percent(frozen)} "
            f"| {', '.join(map(percent, untrained))} "
            f"| {'; '.join(in_words(choice) for choice in chosen.values())} "
            f"| {mean_and_spread(100 * np.array(tested))} | {100 * gains.mean():+.1f} "
            f"| {100 * gains.min():+.1f} |"
        )


def starts(comparison):
    quarters = [alpha for alpha in ALPHAS if 4 * alpha % 1 == 0]
    yield "| set | start | rate | steps | " + " | ".join(f"α {a:g}" for a in quarters) + " |"
    yield "|---|---|---|---" + "|---" * len(quarters) + "|"
    for feature_set in comparison.sets:
        for start in (*RANDOM_STARTS, *STARTS):
            # a random start has to be trained long; others are shown at all lengths
            lengths = comparison.plan.all_steps if start in STARTS else (comparison.plan.steps,)
            for steps in lengths:
                for rate in RATES:
                    tested = comparison.on_test(feature_set, (start,), (rate,), steps=steps)
                    cells = [percent(c.recall[1]) for c in tested if c.alpha in quarters]
                    yield (
                        f"| {feature_set.name} | {start} | {rate:g} | {steps} "
                        f"| {' | '.join(cells)} |"
                    )


def protocols(comparison):
    yield "| set | chosen by | chosen | test | best of all on test | correlation with test |"
    yield "|---|---|---|---|---|---|"
    for feature_set in comparison.sets:
        tested = comparison.on_test(feature_set)
        best = best_of(tested)
        trainings = {
            (start, rate): comparison.folds(feature_set, start, rate)
            for start in STARTS
            for rate in RATES
        }
        by_protocol = {
            "3 folds, among themselves": [comparison.candidates(trainings)],
            "3 folds, among all": [comparison.candidates(trainings, "among_all")],
        }
        for share, (_, draws) in SHARES.items():
            by_protocol[share] = [
                comparison.candidates(
                    {
                        (start, rate): [comparison.run(feature_set, share, start, rate, seed=draw)]
                        for start in STARTS
                        for rate in RATES
                    }
                )
                for draw in range(draws)
            ]
        for name, lists in by_protocol.items():
            chosen = [best_of(candidates) for candidates in lists]
            reached = [same(tested, choice).recall[1] for choice in chosen]
            with_test = [correlation(candidates, tested) for candidates in lists]
            yield (
                f"| {feature_set.name} | {name} | {'; '.join(map(in_words, chosen))} "
                f"| {mean_and_spread(100 * np.array(reached))} | {percent(best.recall[1])} "
                f"| {', '.join(f'{value:.2f}' for value in with_test)} |"
            )


def sizes(comparison):
    plan = comparison.plan
    yield "| set | start | " + " | ".join(map(str, plan.sizes)) + " |"
    yield "|---|---" + "|---" * len(plan.sizes) + "|"
    for feature_set in comparison.sets:
        chosen = best_of(comparison.by_folds(feature_set))
        for start in ("orthogonal", *STARTS):
            cells = []
            for size in plan.sizes:
                if size > feature_set.features.shape[1]:
                    cells.append("–")
                    continue
                rates = (chosen.learning_rate,)
                tested = comparison.on_test(feature_set, (start,), rates, size=size)
                # a random start is nothing to stay near to
                alpha = chosen.alpha if start in STARTS else 1.0
                trained = next(c for c in tested if c.alpha == alpha)
                cells.append(f"{percent(tested[0].recall[1])} → {percent(trained.recall[1])}")
            yield f"| {feature_set.name} | {start} | {' | '.join(cells)} |"


OTHERS = {
    "as it is": {},
    "rates 2e-4, 1e-3": {"rates": (2e-4, 1e-3)},
    "half the steps": {"steps": 0.5},
    "twice the steps": {"steps": 2},
    "twice the classes": {"classes": 2},
}


def others(comparison):
    yield "| set | " + " | ".join(OTHERS) + " |"
    yield "|---" + "|---" * len(OTHERS) + "|"
    for feature_set in comparison.sets:
        cells = []
        for changes in OTHERS.values():
            options = {
                name: value if name == "rates" else round(value * getattr(comparison.plan, name))
                for name, value in changes.items()
            }
            best = best_of(comparison.by_folds(feature_set, starts=STARTS[1:], **options))
            cells.append(f"{100 * best.recall[1]:.2f}, {best.learning_rate:g} α {best.alpha:g}")
        yield f"| {feature_set.name} | {' | '.join(cells)} |"


PARTS = {
    "acceptance": acceptance,
    "starts": starts,
    "protocols": protocols,
    "sizes": sizes,
    "others": others,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("features", nargs="+", help=".npz files with `features`, `labels`, `split`")
    parser.add_argument("--to", default="runs/compare_heads", help="folder of the results")
    parser.add_argument("--parts", default=",".join(PARTS), help="tables, with commas between")
    parser.add_argument("--seeds", type=int, help="seeds of the acceptance: 0, 1, … below it")
    parser.add_argument("--quick", action="store_true", help="a few steps of small heads: a trial")
    arguments = parser.parse_args()
    parts = [part.strip() for part in arguments.parts.split(",")]
    if unknown := sorted(set(parts) - set(PARTS)):
        expected = ", ".join(PARTS)
        parser.error(f"--parts: expected some of {expected}. Received: {', '.join(unknown)}")
    plan = QUICK if arguments.quick else Plan()
    if arguments.seeds is not None:
        if arguments.seeds < 1:
            parser.error(f"--seeds: expected at least 1. Received: {arguments.seeds}")
        plan = dataclasses.replace(plan, seeds=tuple(range(arguments.seeds)))
    sets = [FeatureSet.read(parser, path) for path in arguments.features]
    comparison = Comparison(sets, arguments.to, plan)
    for part in parts:
        text = "\n".join(PARTS[part](comparison))
        print(f"\n{part}\n\n{text}\n", flush=True)
        (Path(arguments.to) / f"{part}.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
