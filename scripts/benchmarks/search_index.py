"""Times an index of 100,000 embeddings and compares what it finds with NumPy in float64.

    python scripts/benchmarks/search_index.py
    python scripts/benchmarks/search_index.py --classes 0     random directions, without classes

Embeddings are drawn around the centres of classes, as those of an embedder lie; a tenth of the
queries are in the index.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_ms.search import Index, IndexedModel

_K = 10
_MODEL = IndexedModel("random", "0" * 32)
# Of unit centres and noise of this length beside them, two of a class have a cosine of 0.5.
_NOISE = 1.0
# An index keeps rows of norm 1 in float32; NumPy is given those that were drawn.
_ROUNDING = 2e-7


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--classes", type=int, default=2_000, help="0: none")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32_768, help="embeddings of one addition")
    parser.add_argument("--duplicates", action="store_true", help="look for duplicates as well")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="index-")
    try:
        measure(options, Path(folder) / "an.index")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options, place):
    random = np.random.default_rng(0)
    rows = drawn(random, options.items, options)
    new = drawn(random, options.queries - options.queries // 10, options)
    queries = np.concatenate([rows[: options.queries // 10], new])
    paths = [f"photos/{number:07d}.jpg" for number in range(len(rows))]

    started = time.perf_counter()
    index = Index.create(place, model=_MODEL, dimension=options.dimension)
    for start in range(0, len(rows), options.batch):
        part = slice(start, start + options.batch)
        index.add(paths[part], rows[part], model=_MODEL)
    tell("build", time.perf_counter() - started, "s")
    tell("size on disk", size_of(place), "MB")

    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    seconds = []
    for query in asked[:50]:
        started = time.perf_counter()
        np.argpartition(-(rows @ query), _K)
        seconds.append(time.perf_counter() - started)
    tell("bare product of NumPy and its first ten, median", 1e3 * float(np.median(seconds)), "ms")
    best = np.stack([-np.sort(-(unit @ query))[:_K] for query in asked.astype(np.float64)])
    del unit

    index = Index(place)
    started = time.perf_counter()
    index.search(queries[:1], _K, model=_MODEL)
    tell("first search of a process", 1e3 * (time.perf_counter() - started), "ms")
    measure_queries("exact", index, queries, best)
    started = time.perf_counter()
    index.search(queries, _K, model=_MODEL)
    each = 1e3 * (time.perf_counter() - started) / len(queries)
    tell(f"exact, {len(queries)} queries together, each", each, "ms")

    started = time.perf_counter()
    index.make_approximate()
    tell("prepare approximate search", time.perf_counter() - started, "s")
    tell("size on disk with it", size_of(place), "MB")
    for probes in (20, 60):
        measure_queries(
            f"approximate, {probes} probes", index, queries, best, approximate=True, probes=probes
        )
    started = time.perf_counter()
    index.add(paths[:100], rows[-100:], model=_MODEL)
    tell("replace 100", time.perf_counter() - started, "s")
    started = time.perf_counter()
    index.remove(paths[:100])
    tell("remove 100", time.perf_counter() - started, "s")
    if options.duplicates:
        started = time.perf_counter()
        index.duplicates(0.98)
        tell("duplicates", time.perf_counter() - started, "s")


def measure_queries(name, index, queries, best, **options):
    seconds, hits = [], []
    for query, least in zip(queries, best[:, -1]):
        started = time.perf_counter()
        found = index.search(query[None], _K, model=_MODEL, **options)
        seconds.append(time.perf_counter() - started)
        hits.append(np.mean(found.similarities[0] >= least - _ROUNDING))
    tell(f"{name}, a query, median", 1e3 * float(np.median(seconds)), "ms")
    tell(f"{name}, a query, 99 %", 1e3 * float(np.quantile(seconds, 0.99)), "ms")
    print(f"{name}: recall@{_K} {np.mean(hits):.4f}", flush=True)


def drawn(random, count, options):
    rows = random.standard_normal((count, options.dimension), np.float32)
    if not options.classes:
        return rows
    rows *= _NOISE / np.linalg.norm(rows, axis=1, keepdims=True)
    centres = np.random.default_rng(1).standard_normal((options.classes, options.dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return rows + centres[random.integers(0, options.classes, count)].astype(np.float32)


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def tell(name, value, unit):
    print(f"{name}: {value:,.3g} {unit}", flush=True)


if __name__ == "__main__":
    main()
