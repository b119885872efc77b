"""Dividing noisy classes by density: time and peak memory at the size of the authors' own test.

26,000 features of 1,024 dimensions in 10 classes. Half of each class lies around its centre, the
others ever farther from it. Cost: half a minute a setting on 2 cores that others used as well.

    python scripts/benchmarks/curriculum.py
    python scripts/benchmarks/curriculum.py --images 100000 --classes 1 --dimension 256

Each setting runs in a process of its own, so that peak memory is its own. The second figure is what
the run adds to the process with its features loaded.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

SETTINGS = {
    "count, k-means": {},
    "count, distance": {"method": "distance"},
    "gaussian, k-means": {"density": "gaussian"},
    "count, k-means, all dimensions": {"max_dimension": None},
}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=26_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--setting", choices=SETTINGS, help="only this one")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        return measure(options)
    for setting in [options.setting] if options.setting else SETTINGS:
        given = [sys.executable, __file__, "--here", "--setting", setting]
        for name in ("images", "classes", "dimension", "workers"):
            given += [f"--{name}", str(getattr(options, name))]
        subprocess.run(given, check=True)


def measure(options):
    from keras_ms.curriculum.subsets import curriculum_subsets

    rng = np.random.default_rng(0)
    labels = rng.integers(0, options.classes, options.images)
    features = rng.standard_normal((options.images, options.dimension), dtype=np.float32)
    # from the middle of the class on, farther and farther out
    features *= np.maximum(1, 4 * rng.random((options.images, 1), dtype=np.float32) - 1)
    features += rng.standard_normal((options.classes, options.dimension), np.float32)[labels]
    before = peak()
    start = time.perf_counter()
    curriculum = curriculum_subsets(
        features, labels, workers=options.workers, **SETTINGS[options.setting]
    )
    seconds = time.perf_counter() - start
    counts = ", ".join(f"{count:,}" for count in np.bincount(curriculum.subset))
    print(
        f"{options.setting}: {seconds:.1f} s, peak {peak():,.0f} MiB in all, {peak() - before:,.0f}"
        f" MiB added; clean to highly noisy {counts}",
        flush=True,
    )


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
