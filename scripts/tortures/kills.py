"""Commands killed at seeded moments; the same command then leaves what an unkilled one leaves."""

import importlib.util
import json
import random
import shutil

import numpy as np
from tortures.processes import (
    Process,
    command,
    contents,
    difference,
    left_over,
    train_words,
    write_pictures,
)

# kills of each command; training is the one that takes long
_KILLS = {"train": 16, "folds": 6, "export": 8, "report": 10, "evaluate": 10, "embed": 10}
_SHORT = {"train": 1, "evaluate": 1}


def cases(place, seed, short):
    pictures = write_pictures(place / "pictures")
    moments = random.Random(seed)
    whole = place / "whole"
    expected, seconds = {}, {}
    kills = dict(_SHORT if short else _KILLS)
    if importlib.util.find_spec("pyarrow") is None:  # of the extra search
        kills.pop("embed", None)
    # in the order in which one needs what the other left
    for name in kills:
        done = command(_words(name, pictures, whole), place)
        if fault := done.fault():
            yield f"unkilled {name}", lambda fault=fault: (1, fault)
            return
        expected[name], seconds[name] = _left(name, whole), done.seconds
    for name, count in kills.items():
        for number in range(count):
            # after the end too: nothing may be lost then
            after = moments.uniform(0.0, 1.05) * seconds[name]
            yield (
                f"{name} after {after:.2f} s",
                lambda a=(name, pictures, whole, place / "killed", after, expected[name]): (
                    1,
                    _case(*a),
                ),
            )


def _words(name, pictures, out):
    run = out / "runs" / "run"
    if name == "folds":
        out = out / "folds"
        # one start of the head, so two heads a fold
        more = "--freeze-backbone", "--head-initializer", "pca"
        return [str(w) for w in train_words(pictures, out, *more)]
    words = {
        "train": train_words(pictures, out),
        "export": ["export", run / "embedder.keras", "--to", out / "exported"],
        "report": ["report", run],
        "evaluate": ["evaluate", run / "embedder.keras", pictures, "--to", out / "found.json",
                     "--save-embeddings", out / "rows.npz"],
        "embed": ["embed", run / "embedder.keras", pictures, "--to", out / "shards",
                  "--shard-size", "2"],
    }[name]  # fmt: skip
    return [str(word) for word in words]


def _left(name, out):
    """What the command leaves, by name."""
    if name in ("train", "folds"):
        run = (out / "folds" if name == "folds" else out) / "runs" / "run"
        return {key: value for key, value in contents(run).items() if key != "report.html"}
    if name == "export":
        files = sorted((out / "exported").rglob("*"))
        return {str(path.relative_to(out)): "" for path in files if path.is_file()}
    if name == "report":
        return {"report": (out / "runs" / "run" / "report.html").stat().st_size > 10_000}
    if name == "embed":
        return {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    with np.load(out / "rows.npz") as rows:
        arrays = {key: rows[key].tobytes() for key in rows.files if key not in ("paths", "data")}
    return arrays | {
        "values": json.loads((out / "found.json").read_text(encoding="utf-8"))["values"]
    }


def _case(name, pictures, whole, out, after, expected):
    shutil.rmtree(out, ignore_errors=True)
    if name in ("train", "folds"):
        out.mkdir()
    else:
        shutil.copytree(whole, out)
        for path in (out / "exported", out / "shards", out / "found.json", out / "rows.npz"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (out / "runs" / "run" / "report.html").unlink(missing_ok=True)
    words = _words(name, pictures, out)
    Process(words, out).kill(after)
    again = words
    if name in ("train", "folds"):
        run = (out / "folds" if name == "folds" else out) / "runs" / "run"
        if (run / "settings.json").exists():
            again = ["train", "--resume", str(run)]
    fault = command(again, out).fault()
    if fault:
        return fault
    left = left_over(out)
    return difference(_left(name, out), expected) or f"left: {left}" * bool(left)
