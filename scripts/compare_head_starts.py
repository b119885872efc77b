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
- few: untrained heads of few training classes and images, of the plan's size and
  of every dimension, beside the features: on other training classes, and on test classes.

Every finished training is a line of results.jsonl in the folder, and is not repeated: an
interrupted comparison goes on where it was.
"""

import argparse
import dataclasses
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from comparison import mean_and_spread
from head_start_experiment import RANDOM_STARTS, SHARES, Comparison, FeatureSet, Plan

from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.models.head_start import STARTS, head_axes
from keras_ms.run.choice import best_of
from keras_ms.run.head_folds import ALPHAS, RATES

QUICK = Plan(size=8, steps=20, classes=4, seeds=(0, 1), all_steps=(10, 20), sizes=(4, 8))


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


FEW = ((2, 10), (3, 10), (6, 5), (10, 5), (10, 10), (20, 10), (20, 20), (30, 30), (60, 30))
DRAWS, HELD_OUT = 5, 20


def few(comparison):
    size = comparison.plan.size
    heads = [f"{start} {dimensions}" for dimensions in (size, "all") for start in STARTS]
    columns = [
        f"{where}: {name}" for where in ("held out", "test") for name in ("features", *heads)
    ]
    yield "| set | classes | images of each | " + " | ".join(columns) + " |"
    yield "|---|---|---" + "|---" * len(columns) + "|"
    for feature_set in comparison.sets:
        features, labels = feature_set.train
        for num_classes, images_each in FEW:
            if num_classes + HELD_OUT > len(np.unique(labels)):
                continue
            rows = [
                _few_heads(feature_set, num_classes, images_each, size, draw)
                for draw in range(DRAWS)
            ]
            cells = [percent(value) for value in np.mean(rows, axis=0)]
            yield (f"| {feature_set.name} | {num_classes} | {images_each} | {' | '.join(cells)} |")


def _few_heads(feature_set, num_classes, images_each, size, draw):
    """Recall@1 of the features and of the heads of one draw, on held-out and on test classes."""
    features, labels = feature_set.train
    random = np.random.default_rng(draw)
    classes = random.permutation(np.unique(labels))
    held_out, drawn = classes[:HELD_OUT], classes[HELD_OUT:][:num_classes]
    rows = np.concatenate(
        [random.permutation(np.flatnonzero(labels == label))[:images_each] for label in drawn]
    )
    is_test, tested = feature_set.is_test, np.unique(feature_set.labels[feature_set.is_test])
    some = np.isin(feature_set.labels, random.permutation(tested)[:HELD_OUT]) & is_test
    found = []
    for queries, ids in (
        (features[np.isin(labels, held_out)], labels[np.isin(labels, held_out)]),
        (feature_set.features[some], feature_set.labels[some]),
    ):
        found.append(recall_at_k(queries, ids, (1,))[1])
        for dimensions in (size, features.shape[1]):
            for start in STARTS:
                kernel, bias = head_axes(features[rows], labels[rows], dimensions, start)
                found.append(recall_at_k(queries @ kernel + bias, ids, (1,))[1])
    return found


PARTS = {
    "acceptance": acceptance,
    "starts": starts,
    "protocols": protocols,
    "sizes": sizes,
    "others": others,
    "few": few,
}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
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
        (Path(arguments.to) / f"{part}.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
