"""Runs the numerical tests with the kernels of other processors, and compares the answers.

    python tests/other_processors.py

One machine can pretend to be another: OpenBLAS (NumPy's products), oneDNN (TensorFlow's) and NumPy
itself choose their kernels when they start, and can be told to take those of an older processor.
Each line of KERNELS is such a choice; the fast numerical tests run under it, and, where it is one
of NumPy's, difficult embeddings are evaluated. All ranks, scores, clusters and class trees must be
the same arrays.

About five minutes of processor time, half of that on two cores. The exit status is 0 if every test
passes and all answers agree.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent

# what this NumPy would use beyond the least of its processors
NUMPY_FEATURES = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])

EVALUATION = [
    "evaluation/test_retrieval.py", "evaluation/test_average_precision.py",
    "evaluation/test_clustering.py", "htl/test_class_tree.py",
    "-k", "not accelerator and not memory and not rounding and not 1000 and not 1279 and "
    "(oracle or collapsed or bound or unit or tie or hand or nearest or order or k_means)",
]  # fmt: skip
LOSSES = [
    "losses/test_multi_similarity.py", "losses/test_triplet_losses.py", "pairs/test_pairs.py",
    "-k", "(oracle or literal or gradient or definition or equal) and not 200 and not True",
]  # fmt: skip

# (environment, what the processor must have, tests)
KERNELS = [
    ({}, None, EVALUATION),
    ({"OPENBLAS_CORETYPE": "Sandybridge"}, "avx", EVALUATION),
    ({"OPENBLAS_CORETYPE": "Haswell"}, "avx2", EVALUATION),
    ({"OPENBLAS_CORETYPE": "SkylakeX"}, "avx512bw", EVALUATION),
    ({"NPY_DISABLE_CPU_FEATURES": " ".join(NUMPY_FEATURES)}, None, EVALUATION),
    ({"OMP_NUM_THREADS": "1"}, None, EVALUATION),
    ({"OMP_NUM_THREADS": "4"}, None, EVALUATION),
    ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx2", LOSSES),
    ({"TF_ENABLE_ONEDNN_OPTS": "0"}, None, LOSSES),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=2, help="environments at a time")
    parser.add_argument("--answers", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answers:
        return write_answers(options.answers)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        files = [Path(folder) / f"{number}.npz" for number in range(len(KERNELS))]
        rows = list(pool.map(run_with, KERNELS, files))
        return report(rows, files)


def run_with(row, answers):
    """(what was set, what NumPy's products ran on, what became of the tests, is all well?)"""
    settings, needed, tests = row
    name = " ".join(f"{key}={value}" for key, value in settings.items()) or "as it is"
    if needed and needed not in processor_flags():
        return name, "", f"skipped: this processor has no {needed}", True
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(TESTS.parent)}
    # as users have it: conftest.py gives flags only where there are none
    environment.setdefault("XLA_FLAGS", "")
    environment |= settings
    start = time.monotonic()
    kernels, passed = "", True
    if tests is EVALUATION:
        written = subprocess.run(
            [sys.executable, __file__, "--answers", answers],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        kernels, passed = written.stdout.strip(), written.returncode == 0
        print(written.stderr[-3000:] if not passed else "", end="")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--durations=0", "-p", "no:cacheprovider", *tests],
        cwd=TESTS, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if tested.returncode:
        print(f"== {name}", tested.stdout[-3000:], sep="\n")
    counts = re.findall(r"\d+ (?:passed|failed|errors?)", tested.stdout)
    seconds = f"{time.monotonic() - start:.0f} s"
    passed = passed and tested.returncode == 0
    return name, kernels, f"{', '.join(counts)} in {seconds}", passed


def processor_flags():
    """Words of /proc/cpuinfo, such as avx2; none where that is not an x86 processor's."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return set()
    return set(flags) if platform.machine() == "x86_64" else set()


def write_answers(path):
    """Evaluates difficult embeddings, and prints which kernels NumPy's products ran on."""
    from difficult_embeddings import DIFFICULT, difficult

    from keras_ms import ClassTree
    from keras_ms.evaluation import best_positive_ranks, cluster_embeddings, precision_at_r

    answers = {}
    for number, kind in enumerate(DIFFICULT):
        embeddings, labels = difficult(kind, number, num_rows=1500, dimension=513)
        tree = ClassTree.build(embeddings, labels)
        scores = precision_at_r(embeddings, labels)
        answers |= {
            f"{kind}, ranks": best_positive_ranks(embeddings, labels),
            f"{kind}, R-Precision": scores.r_precision,
            f"{kind}, average precision": scores.average_precision,
            f"{kind}, tree": tree.nodes,
            f"{kind}, nearest classes": tree.nearest(2),
        }
        try:
            answers[f"{kind}, clusters"] = cluster_embeddings(embeddings[:600], 20)
        except ImportError:  # scikit-learn is optional
            pass
    np.savez(path, **answers)
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return 0
    found = {
        f"{library.get('architecture')}, {library['num_threads']} threads"
        for library in threadpool_info()
        if library["internal_api"] == "openblas" and "numpy" in library["filepath"]
    }
    print(", ".join(sorted(found)))
    return 0


def report(rows, files):
    answers = [dict(np.load(file)) if file.exists() else None for file in files]
    first = next((found for found in answers if found), {})
    status = 0
    print("| environment | OpenBLAS | tests | other answers than the first |\n|---|---|---|---|")
    for (name, kernels, tests, passed), found in zip(rows, answers):
        other = [key for key in found or () if not np.array_equal(found[key], first[key], True)]
        print(f"| {name} | {kernels} | {tests} | {'; '.join(other) or ('none' if found else '')} |")
        status |= bool(other) or not passed
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
