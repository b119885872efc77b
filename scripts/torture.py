"""What is done to the commands and losses so that they break, and how many times they do not.

    python scripts/torture.py                  all parts; not yet timed as a whole
    python scripts/torture.py --short          a sample of every part: 3 processor minutes
    python scripts/torture.py --part kills     one of losses, kills, disks, folders, files, streams
    python scripts/torture.py --seed 1         other batches, other moments
    python scripts/torture.py --part folders --only state.npz   cases whose name holds the words

Prints a table of what was tried and what survived, and every case that did not with its output;
exits with 1 if there is one. What surviving means, part by part, is in docs/reliability.md. Works
in a temporary folder; the disks that are full are mounted where that is allowed, else a limit on
the size of files stands for them.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

# TensorFlow reads it when it is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PARTS = {
    "losses": "batches through every loss",
    "kills": "kill -9 in a command, then the command again",
    "disks": "full disks, without blocks or without inodes",
    "folders": "files of a run folder cut, emptied, swapped",
    "files": "hostile files of every kind",
    "streams": "closed outputs, broken pipes, signals, locales",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--short", action="store_true", help="a sample of every part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose name holds them")
    options = parser.parse_args()
    import keras_ms  # noqa: F401, before TensorFlow, whose first lines it drops

    rows, broken = [], 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        for part in options.part or PARTS:
            started, tried, survived = time.monotonic(), 0, 0
            place = Path(folder) / part
            place.mkdir()
            module = importlib.import_module(f"tortures.{part}")
            for name, case in module.cases(place, options.seed, options.short):
                if options.only not in name:
                    continue
                count, fault = case()
                tried, survived = tried + count, survived + (0 if fault else count)
                if fault:
                    print(f"\n{part}, {name}: {fault[:2000]}", flush=True)
            seconds = time.monotonic() - started
            rows.append(f"{PARTS[part]:<48}{tried:>8,}{survived:>10,}{seconds:>7.0f} s")
            broken += tried - survived
    print(f"\n{'':<48}{'tried':>8}{'survived':>10}")
    print("\n".join(rows))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
