"""What is done to the commands and losses so that they break, and how many times they do not.

    python scripts/torture.py                  all parts
    python scripts/torture.py --short          a sample of every part: 3 processor minutes
    python scripts/torture.py --jobs 4         parts beside each other (default: 2)
    python scripts/torture.py --part kills     one of losses, kills, disks, folders, files, indexes,
                                               streams
    python scripts/torture.py --seed 1         other batches, other moments
    python scripts/torture.py --part folders --only state.npz   cases whose name holds the words

Prints a table of what was tried and what survived, and every case that did not with its output;
exits with 1 if there is one. What surviving means, part by part, is in docs/reliability.md. Works
in a temporary folder; the disks that are full are mounted where that is allowed, else a limit on
the size of files stands for them.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# TensorFlow reads it when it is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PARTS = {
    "losses": "batches through every loss",
    "kills": "kill -9 in a command, then the command again",
    "disks": "full disks, without blocks or without inodes",
    "folders": "files of a run folder cut, emptied, swapped",
    "files": "hostile files of every kind",
    "indexes": "kill -9 while an index is changed",
    "streams": "closed outputs, broken pipes, signals, locales",
}

HEADER = f"{'':<48}{'tried':>8}{'survived':>10}"


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--short", action="store_true", help="a sample of every part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose name holds them")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="parts at a time")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts = options.part or list(PARTS)
    if len(parts) > 1:
        with ThreadPoolExecutor(options.jobs) as pool:
            rows = [row for part in pool.map(lambda p: apart(p, options), parts) for row in part]
    else:
        rows = [tried(parts[0], options)]
    print(f"\n{HEADER}")
    for part, tries, survived, seconds in rows:
        print(f"{PARTS[part]:<48}{tries:>8,}{survived:>10,}{seconds:>7.0f} s")
    tries = [row[1] for row in rows]
    if not (any(tries) if options.only else all(tries)):
        print("Nothing was tried: no case of a part, or none whose name holds the words of --only")
        return 2
    return 0 if all(row[1] == row[2] for row in rows) else 1


def apart(part, options):
    """The rows of a part in a process of its own; what broke is printed as it ends."""
    with tempfile.TemporaryDirectory(prefix="torture-rows-") as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--part", part, "--seed", str(options.seed)]
        command += ["--rows", str(file), "--only", options.only] + ["--short"] * options.short
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        faults = done.stdout.partition(HEADER)[0].strip()
        if faults or not file.is_file():
            print(faults, "" if file.is_file() else done.stderr[-2000:], flush=True)
        return (
            json.loads(file.read_text(encoding="utf-8")) if file.is_file() else [[part, 1, 0, 0.0]]
        )


def tried(part, options):
    """(part, cases tried, cases survived, seconds)."""
    import keras_ms  # noqa: F401, before TensorFlow, whose first lines it drops

    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        started, tries, survived = time.monotonic(), 0, 0
        module = importlib.import_module(f"tortures.{part}")
        for name, case in module.cases(Path(folder), options.seed, options.short):
            if options.only not in name:
                continue
            count, fault = case()
            tries, survived = tries + count, survived + (0 if fault else count)
            if fault:
                print(f"\n{part}, {name}: {fault[:2000]}", flush=True)
        row = part, tries, survived, time.monotonic() - started
    if options.rows:
        options.rows.write_text(json.dumps([row]), encoding="utf-8")
    return row


if __name__ == "__main__":
    sys.exit(main())
