"""Each file of a run folder cut in half, emptied, or with another file's content."""

import random
import shutil

from tortures.processes import (
    command,
    contents,
    difference,
    left_over,
    train_words,
    write_pictures,
)

# of the commands that read a file; resuming and the report read most
_COMMANDS = {
    "settings.json": ("resume", "report", "evaluate", "curriculum"),
    "embedder.keras": ("resume", "report", "evaluate", "export", "curriculum"),
    "class_tree.png": ("report",),
}
_TREES = ("--loss", "hierarchical_triplet", "--tree-margins", "first")


def cases(place, seed, short):
    """Every file, damage and command that reads it; a sample of them where it is to be short."""
    pictures = write_pictures(place / "pictures")
    kinds = {"plain": (), "folds": ("--freeze-backbone",), "tree": _TREES}
    if short:
        kinds = {"tree": _TREES}
    every = []
    for kind, more in kinds.items():
        out = place / kind
        words = [*train_words(pictures, out, *more), "--seed", seed]
        done = command(words, place)
        if fault := done.fault():
            yield f"{kind} run", lambda fault=fault: (1, fault)
            continue
        run = out / "runs" / "run"
        expected = contents(run)
        for file in sorted(path.name for path in run.iterdir() if path.name[0] != "."):
            if kind != "plain" and not short and file not in _own(kind):
                continue
            for damage in ("cut", "emptied", "swapped"):
                for what in _COMMANDS.get(file, ("resume", "report")):
                    if what == "resume" or damage == "cut":
                        every.append((kind, file, damage, what, run, expected))
    if short:
        every = random.Random(seed).sample(every, 3)
    for kind, file, damage, what, run, expected in every:
        yield (
            f"{kind}: {file} {damage}, {what}",
            lambda a=(pictures, run, file, damage, what, expected): (1, _case(*a)),
        )


def _own(kind):
    return {
        "folds": ("folds.json", "choice.json", "start.weights.h5", "summary.json", "state.npz"),
        "tree": ("class_tree.npz", "first_class_tree.npz", "class_tree.png"),
    }[kind]


def _case(pictures, whole, file, damage, what, expected):
    run = whole.parent / "damaged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    path = run / file
    content = path.read_bytes()
    other = run / ("curves.png" if file != "curves.png" else "state.npz")
    path.write_bytes({"cut": content[: len(content) // 2], "emptied": b"",
                      "swapped": other.read_bytes()}[damage])  # fmt: skip
    model, resume = run / "embedder.keras", ["train", "--resume", run]
    words = {
        "resume": resume,
        "report": ["report", run],
        "evaluate": ["evaluate", model, "--config", run / "settings.json"],
        "export": ["export", model, "--to", run.parent / "exported", "--formats", "saved_model"],
        "curriculum": ["curriculum", model, "--config", run / "settings.json", "--to",
                       run.parent / "table.csv"],
    }  # fmt: skip
    done = command(words[what], run.parent)
    if done.code == 1:
        fault = done.fault((1,), "error: ", file)
        if not fault and "Delete it" in done.output:
            # the advice is followed
            path.unlink()
            if "Delete it and state.npz" in done.output:
                (run / "state.npz").unlink()
            fault = command(resume, run.parent).fault()
            if not fault and what != "resume":
                fault = command(words[what], run.parent).fault()
    else:
        fault = done.fault()
    ended = done.code == 0 and what == "resume" or "Delete it" in done.output
    if not fault and ended:
        left = contents(run)
        left.pop("report.html", None)
        if file == "class_tree.npz":  # of the last epoch: a run that has ended goes without it
            left = {file: b""} | left
        fault = difference(left, expected)
    return fault or ", ".join(left_over(run))
