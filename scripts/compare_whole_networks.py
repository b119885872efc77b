"""Compares losses where the whole network is trained: the same network, batches and steps for each.

    python scripts/compare_whole_networks.py --data-dir cub200_2010 --to runs/whole_cub \\
        --backbone mobilenet_v2 --weights mobilenet_v2.weights.h5

Each training is one of `keras-ms train`, with its defaults of fine-tuning: the head starts
whitened, a fifth of the training classes is held out, and what is kept, among the steps and the
weights between the start and the last ones, is what finds most among the held-out classes. For each
loss

1. three settings are trained from seed 0: the best Recall@1 on the held-out classes wins;
2. the winner is trained from seeds 1 and 2 as well; what is kept of each of the three is measured
   on the test classes, the second half of all.

Then Multi-Similarity without its mining, and with embeddings of other sizes, with the setting that
won. (Of its three similarities, binomial deviance has a pair's own alone, lifted structure that
to the other negatives alone, and Multi-Similarity without mining both.) Every finished training
is a line of results.jsonl in the folder, and is not repeated; one that was interrupted is
continued. At the end the tables are printed and written to tables.md. 62 trainings; each
takes minutes on two cores. `--only` and `--losses-only` do fewer.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from comparison import Results, alone_in, file_digest, mean_and_spread, names_of, short

SEEDS = (0, 1, 2)
SIZES = (64, 128, 256)  # of the embedding, beside the 512 of all others
EMBEDDING_SIZE = 512
MEASURED = "val_recall@1"  # in history.csv

# not in the tables: the name of a row says them
NAMED = (
    "loss",
    "loss.mining",
    "hdml",
    "classes_per_batch",
    "images_per_class",
    "neighbour_classes",
)

_HTL = {"loss": "hierarchical_triplet", "neighbour_classes": 4}
_FIRST_TREE = {"tree_margins": "first", "tree_levels": 64}
# HDML's tuples are pairs: as many images of more classes
_PAIRS = {"loss": "n_pair", "classes_per_batch": 40, "images_per_class": 2}
_TRIPLETS = {"loss": "triplet", "loss.mining": "semi_hard"}

# Three settings of each, as options of `keras-ms train`: the default, the published one, and what
# won on a head of fixed features (docs/results.md), or their neighbours.
TRIALS = {
    "multi_similarity": [
        {"loss": "multi_similarity", "loss.beta": 40.0, "loss.threshold": 0.5},
        {"loss": "multi_similarity", "loss.beta": 50.0, "loss.threshold": 1.0},
        {"loss": "multi_similarity", "loss.beta": 50.0, "loss.threshold": 0.5},
    ],
    "triplet, semi-hard": [{**_TRIPLETS, "loss.margin": value} for value in (0.05, 0.1, 0.2)],
    # margins of the latest tree of 16 levels, or of the first one of 64
    "hierarchical triplet": [
        {**_HTL, "loss.beta": -0.1},
        {**_HTL, **_FIRST_TREE, "loss.beta": -0.1},
        {**_HTL, **_FIRST_TREE, "loss.beta": 0.1},
    ],
    "contrastive": [{"loss": "contrastive", "loss.threshold": value} for value in (0.2, 0.35, 0.5)],
    "binomial deviance": [
        {"loss": "binomial_deviance", "loss.beta": beta, "loss.threshold": threshold}
        for beta, threshold in ((25.0, 0.5), (50.0, 0.3), (50.0, 0.5))
    ],
    "lifted structure": [
        {"loss": "lifted_structure", "loss.threshold": value} for value in (1.0, -4.5, -5.5)
    ],
    "n-pair": [{"loss": "n_pair", "loss.regularization": value} for value in (0.0, 0.002, 0.02)],
    "HDML around n-pair": [
        {**_PAIRS, "hdml": "paper", "hdml.alpha": alpha, "hdml.beta": beta}
        for alpha, beta in ((90.0, 1e4), (90.0, 1e3), (1.0, 1e3))
    ],
    "HDML around n-pair, official": [
        {**_PAIRS, "hdml": "official", "hdml.alpha": alpha, "hdml.beta": beta}
        for alpha, beta in ((90.0, 1e4), (90.0, 1e3), (1.0, 1e3))
    ],
    "HDML around triplet": [
        {"loss": "triplet", "hdml": "paper", "hdml.alpha": alpha, "hdml.beta": beta}
        for alpha, beta in ((7.0, 1e4), (7.0, 1e3), (300.0, 1e3))
    ],
}
PARTS = {"whole": {}, "without mining": {"loss.epsilon": None}}


def main() -> None:
    given = parsed()
    comparison = Comparison(given)
    text = "\n".join(tables(comparison, given.only, losses_only=given.losses_only))
    print(text)
    (given.to / "tables.md").write_text(text + "\n", encoding="utf-8")


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder with a folder for each class")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="", help="its .weights.h5 file, or package")
    parser.add_argument("--dataset", default="folder", help="how --data-dir is read")
    parser.add_argument("--output-layer", default="")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--precision", default="float32", help="mixed_bfloat16: quicker where the processor has it"
    )
    parser.add_argument(
        "--epochs", type=int, default=4, help="how often the held-out classes are measured"
    )
    parser.add_argument("--to", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--trainings", type=Path, default=Path("runs/whole_networks"), help="folder of what is made"
    )
    parser.add_argument("--only", default="", help="names of losses, separated by semicolons")
    parser.add_argument("--losses-only", action="store_true", help="no parts and no other sizes")
    given = parser.parse_args(words)
    if given.epochs < 1 or given.steps < given.epochs or given.steps % given.epochs:
        parser.error(
            f"--steps: expected a multiple of --epochs {given.epochs}. Received: {given.steps}"
        )
    given.only = names_of(parser, "--only", given.only, TRIALS)
    return given


class Comparison:
    """Trainings, each of them once.

    Args:
        given: of the command line.
    """

    def __init__(self, given: argparse.Namespace):
        self._given = given
        self._results = Results(
            given.to, lambda run: [run[name] for name in ("network", "setting", "seed")]
        )
        self._network = {
            "data": Path(given.data_dir).name,
            "dataset": given.dataset,
            "backbone": given.backbone,
            "output_layer": given.output_layer,
            "image_size": given.image_size,
            "steps": given.steps,
            "epochs": given.epochs,
            "weights": file_digest(given.weights),
        }
        if given.precision != "float32":
            self._network["precision"] = given.precision

    def trained(self, setting: dict, seed: int, embedding_size: int = EMBEDDING_SIZE) -> dict:
        """A line of the results: Recall@1 of the held-out and of the test classes."""
        setting = {**setting, "embedding_size": embedding_size}
        what = {"network": self._network, "setting": setting, "seed": seed}
        return self._results.find_or_run(what, lambda: self._run(setting, seed))

    def chosen(self, name: str) -> dict:
        """The setting of a loss with the best Recall@1 on held-out classes, the first of equals."""
        recalls = [self.trained(setting, SEEDS[0])["validation"] for setting in TRIALS[name]]
        return TRIALS[name][int(np.argmax(recalls))]

    def words(self, setting: dict, seed: int) -> dict:
        """The options of `keras-ms train` of a training."""
        given = self._given
        return {
            "data_dir": given.data_dir,
            "dataset": given.dataset,
            "backbone": given.backbone,
            **({"weights": given.weights} if given.weights else {}),
            "output_layer": given.output_layer,
            "image_size": given.image_size,
            "steps": given.steps,
            "steps_per_epoch": given.steps // given.epochs,
            "precision": given.precision,
            "seed": seed,
            "export": "",
            "runs_folder": str(given.trainings),
            "run_name": "run",
            **setting,
        }

    def _run(self, setting, seed):
        with alone_in(self._given.trainings):
            return self._trained(self._given.trainings, self.words(setting, seed))

    def _trained(self, folder, words):
        asked = json.dumps(words, sort_keys=True)
        command = [sys.executable, "-m", "keras_ms.cli", "train"]
        mark = folder / "asked.json"
        is_begun = (folder / "run" / "settings.json").is_file()
        if is_begun and mark.is_file() and mark.read_text(encoding="utf-8") == asked:
            command += ["--resume", str(folder / "run")]
        else:
            # the features of the start are the same for all of a seed, and stay
            shutil.rmtree(folder / "run", ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            mark.write_text(asked, encoding="utf-8")
            for name, value in words.items():
                command += [f"--{name.replace('_', '-')}", str(value)]
        with open(folder / "log.txt", "a") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
        summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
        choice = summary["choice"]
        kept = choice["candidates"][choice["chosen"]]
        with open(folder / "run" / "history.csv", encoding="utf-8") as file:
            history = [[int(row["step"]), float(row[MEASURED])] for row in csv.DictReader(file)]
        last = summary["test_recall"]["last"]  # None of weights that diverged
        line = {
            "validation": summary["validation_recall"]["chosen"]["1"],
            "test": summary["test_recall"]["chosen"]["1"],
            "last": last and last["1"],
            "start": summary["test_recall"]["step_0"]["1"],
            "features": summary["test_recall"].get("pooled_features", {}).get("1"),
            "kept": {name: kept[name] for name in ("steps", "alpha")},
            "history": [(step, round(recall, 4)) for step, recall in history],
        }
        shutil.rmtree(folder / "run")
        return line


def tables(comparison: Comparison, names: list[str], *, losses_only: bool) -> list[str]:
    """Markdown lines."""
    lines = ["| loss | setting chosen of three | held-out classes | test classes | last weights |"]
    lines += ["|---|---|---|---|---|"]
    rows = []
    for name in names:
        setting = comparison.chosen(name)
        runs = [comparison.trained(setting, seed) for seed in SEEDS]
        words = short(setting, without=NAMED).replace("loss.", "")
        cells = (in_percent(runs, place) for place in ("validation", "test", "last"))
        mean = np.mean([run["test"] for run in runs])
        rows.append((mean, f"| {name} | {words} | {' | '.join(cells)} |"))
    lines += [line for _, line in sorted(rows, reverse=True)]
    # before a step the losses are the same: the start is that of the seed
    first = [comparison.trained(comparison.chosen(names[0]), seed) for seed in SEEDS]
    start = np.mean([run["start"] for run in first])
    lines += ["", f"Pooled features {percent(first[0]['features'])}, start {percent(start)}."]
    if losses_only:
        return lines
    chosen = comparison.chosen("multi_similarity")
    lines += ["", "| Multi-Similarity | held-out classes | test classes | last weights |"]
    lines += ["|---|---|---|---|"]
    for name, change in PARTS.items():
        runs = [comparison.trained({**chosen, **change}, seed) for seed in SEEDS]
        cells = (in_percent(runs, place) for place in ("validation", "test", "last"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    sizes = (*SIZES, EMBEDDING_SIZE)
    lines += ["", "| embedding size | " + " | ".join(map(str, sizes)) + " |"]
    lines += ["|---" * (len(sizes) + 1) + "|"]
    runs = [[comparison.trained(chosen, seed, size) for seed in SEEDS] for size in sizes]
    for words, place in (("test classes", "test"), ("last weights", "last")):
        cells = (in_percent(of_size, place) for of_size in runs)
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def in_percent(runs, place):
    values = [run[place] for run in runs]
    return "diverged" if None in values else mean_and_spread([100 * value for value in values])


def percent(value):
    return "–" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
