"""Disks that are full, or have no inodes left, at one write after another."""

import contextlib
import resource
import shutil
import subprocess

from tortures.processes import (
    command,
    contents,
    difference,
    left_over,
    train_words,
    write_pictures,
)


def cases(place, seed, short):
    pictures = write_pictures(place / "pictures")
    words = [*train_words(pictures, place / "whole"), "--seed", seed]
    done = command(words, place)
    if fault := done.fault():
        yield "whole run", lambda: (1, fault)
        return
    whole = place / "whole" / "runs" / "run"
    expected = contents(whole)
    sizes = {path.stat().st_size for path in whole.rglob("*") if path.is_file()}
    # just too small for each file of the run in turn
    limits = [size - 1 for size in sorted(sizes) if size]
    for limit in limits[len(limits) // 2 :][:1] if short else limits:
        yield f"files of at most {limit} bytes", lambda limit=limit: (
            1, _limited(pictures, place / "limited", limit, expected, seed)
        )  # fmt: skip
    model = whole / "embedder.keras"
    for name, more in {
        "export": ["export", model, "--to", "{}/out"],
        "report": ["report", whole, "--to", "{}/out/page.html"],
        "evaluate": ["evaluate", model, pictures, "--to", "{}/out/found.json",
                     "--save-embeddings", "{}/out/rows.npz"],
        "curriculum": ["curriculum", model, "--data-dir", pictures, "--to", "{}/out/table.csv"],
        "weights": ["weights", "--to", "{}/out/weights.png"],
    }.items():  # fmt: skip
        if short and name != "weights":
            continue
        yield f"{name}, files of at most 100 bytes", lambda name=name, more=more: (
            1, _other(more, place / name, 100)
        )  # fmt: skip
    for kind in ("size=1m", "size=4m", "nr_inodes=4", "nr_inodes=9", "nr_inodes=14", "ro"):
        if short and kind != "nr_inodes=9":
            continue
        yield (
            f"disk of {kind}",
            lambda kind=kind: _mounted(pictures, place / "mounted", kind, expected, seed),
        )


def _limit(size):
    # Python ignores the signal that goes with it: writing is an error
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def _limited(pictures, out, limit, expected, seed):
    shutil.rmtree(out, ignore_errors=True)
    words = [*train_words(pictures, out), "--seed", seed]
    done = command(words, out.parent, before=lambda: _limit(limit))
    return _after(done, words, out, expected)


def _after(done, words, out, expected):
    """The command has failed with words; with room it goes on."""
    fault = done.fault((1,), "error: ", str(out)) or ", ".join(left_over(out))
    if fault:
        return fault
    run = out / "runs" / "run"
    resumes = (run / "settings.json").exists()
    again = command(["train", "--resume", run] if resumes else words, out.parent)
    return again.fault() or difference(contents(run), expected)


def _other(words, folder, limit):
    (folder / "out").mkdir(parents=True)
    words = [str(word).format(folder) for word in words]
    done = command(words, folder, before=lambda: _limit(limit))
    fault = done.fault((1,), "error: ", str(folder)) or ", ".join(left_over(folder))
    there = [path.name for path in (folder / "out").rglob("*") if path.is_file()]
    return fault or f"written all the same: {there}" * bool(there)


def _mounted(pictures, out, kind, expected, seed):
    out.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", kind, "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True).returncode:
        return 0, ""  # not allowed here
    try:
        words = [*train_words(pictures, out), "--seed", seed]
        done = command(words, out.parent)
        subprocess.run(["mount", "-o", "remount,rw,size=64m,nr_inodes=999", str(out)], check=True)
        return 1, _after(done, words, out, expected)
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "-l", str(out)], check=True)
