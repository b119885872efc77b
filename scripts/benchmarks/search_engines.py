"""Compares engines of nearest-neighbour search: exactness, crash safety, two processes, speed.

    python scripts/benchmarks/search_engines.py lancedb milvus faiss qdrant usearch

Each engine needs its package: pymilvus and milvus-lite, lancedb, faiss-cpu, qdrant-client, usearch.
Vectors are random and of unit length, the queries too; a tenth of the items is there twice.
"""

import argparse
import importlib.metadata
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

K = 10
# the table of the engines' own languages: a key is the path of a picture
FIRST = "photos/000000.jpg"


class LanceDB:
    packages = ("lancedb",)

    def __init__(self, path, dimension):
        import lancedb
        import pyarrow as pa

        self.pa = pa
        database = lancedb.connect(path)
        vector = pa.list_(pa.float32(), dimension)
        schema = pa.schema([("path", pa.string()), ("vector", vector)])
        self.table = database.create_table("pictures", schema=schema, exist_ok=True)

    def add(self, keys, vectors):
        pa = self.pa
        flat = pa.array(vectors.reshape(-1))
        columns = [pa.array(keys), pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])]
        rows = pa.Table.from_arrays(columns, schema=self.table.schema)
        (
            self.table.merge_insert("path")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute(rows)
        )

    def remove(self, keys):
        self.table.delete(f"path in ({', '.join(map(repr, keys))})")

    def search(self, query, filtered=False):
        search: Any = self.table.search(query)
        found = search.distance_type("dot").bypass_vector_index().limit(K)
        if filtered:
            found = found.where(f"path != '{FIRST}'", prefilter=True)
        found = found.select(["path", "_distance"]).to_arrow()
        return found["path"].to_pylist(), 1 - found["_distance"].to_numpy()

    def count(self):
        return self.table.count_rows()

    def finish(self):
        pass

    def close(self):
        pass


class Milvus:
    packages = ("pymilvus", "milvus-lite")

    def __init__(self, path, dimension):
        from pymilvus import DataType, MilvusClient

        self.client = MilvusClient(path + ".db")
        if not self.client.has_collection("pictures"):
            schema = MilvusClient.create_schema()
            schema.add_field("path", DataType.VARCHAR, is_primary=True, max_length=4096)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
            index = MilvusClient.prepare_index_params()
            index.add_index("vector", index_type="FLAT", metric_type="IP")
            self.client.create_collection("pictures", schema=schema, index_params=index)
        self.client.load_collection("pictures")

    def add(self, keys, vectors):
        rows = [{"path": key, "vector": vector} for key, vector in zip(keys, vectors)]
        self.client.upsert("pictures", rows)

    def remove(self, keys):
        self.client.delete("pictures", ids=list(keys))

    def search(self, query, filtered=False):
        found = self.client.search(
            "pictures", [query], limit=K, filter=f'path != "{FIRST}"' if filtered else ""
        )[0]
        return [hit["path"] for hit in found], np.array([hit["distance"] for hit in found])

    def count(self):
        return self.client.query("pictures", output_fields=["count(*)"])[0]["count(*)"]

    def finish(self):
        # from the log into segments, whose search is not a loop over rows
        self.client.flush("pictures")

    def close(self):
        self.client.close()


class Qdrant:
    packages = ("qdrant-client",)

    def __init__(self, path, dimension):
        from qdrant_client import QdrantClient, models

        self.models, self.client = models, QdrantClient(path=path)
        if not self.client.collection_exists("pictures"):
            self.client.create_collection(
                "pictures",
                vectors_config=models.VectorParams(size=dimension, distance=models.Distance.DOT),
            )

    def _ids(self, keys):
        import uuid

        return [str(uuid.uuid5(uuid.NAMESPACE_URL, key)) for key in keys]

    def add(self, keys, vectors):
        payloads = [{"path": key} for key in keys]
        batch = self.models.Batch(ids=self._ids(keys), vectors=vectors.tolist(), payloads=payloads)
        self.client.upsert("pictures", batch)

    def remove(self, keys):
        self.client.delete("pictures", self._ids(keys))

    def search(self, query, filtered=False):
        models, chosen = self.models, None
        if filtered:
            is_first = models.FieldCondition(key="path", match=models.MatchValue(value=FIRST))
            chosen = models.Filter(must_not=[is_first])
        found = self.client.query_points(
            "pictures", query, limit=K, query_filter=chosen, with_payload=True
        ).points
        return [hit.payload["path"] for hit in found], np.array([hit.score for hit in found])

    def count(self):
        return self.client.count("pictures").count

    def finish(self):
        pass

    def close(self):
        self.client.close()


class Faiss:
    """A flat index; it is saved as a whole, as the library has it, with the keys beside it."""

    packages = ("faiss-cpu",)

    def __init__(self, path, dimension):
        import faiss

        self.faiss: Any = faiss
        self.path = Path(path)
        self.path.mkdir(exist_ok=True)
        if (self.path / "index").exists():
            self.index = faiss.read_index(str(self.path / "index"))
            self.keys = json.loads((self.path / "keys").read_text(encoding="utf-8"))
        else:
            self.index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
            self.keys = []
        self.number = {key: n for n, key in enumerate(self.keys) if key}

    def add(self, keys, vectors):
        self._remove(keys)
        numbers = np.arange(len(self.keys), len(self.keys) + len(keys))
        self.index.add_with_ids(vectors, numbers)
        self.keys += keys
        self.number |= dict(zip(keys, numbers.tolist()))
        self._save()

    def remove(self, keys):
        self._remove(keys)
        self._save()

    def _remove(self, keys):
        gone = [self.number.pop(key) for key in keys if key in self.number]
        if gone:
            self.index.remove_ids(self.faiss.IDSelectorBatch(gone))

    def _save(self):
        self.faiss.write_index(self.index, str(self.path / "index"))
        (self.path / "keys").write_text(json.dumps(self.keys), encoding="utf-8")

    def search(self, query, filtered=False):
        chosen = None
        if filtered:
            first = self.faiss.IDSelectorBatch([self.number[FIRST]])
            chosen = self.faiss.SearchParameters(sel=self.faiss.IDSelectorNot(first))
        similarity, numbers = self.index.search(query[None], K, params=chosen)
        return [self.keys[n] for n in numbers[0]], similarity[0]

    def count(self):
        return self.index.ntotal

    def finish(self):
        pass

    def close(self):
        pass


class Usearch:
    packages = ("usearch",)

    def __init__(self, path, dimension):
        from usearch.index import Index

        self.path = Path(path)
        self.path.mkdir(exist_ok=True)
        self.index, self.keys = Index(ndim=dimension, metric="ip", dtype="f32"), []
        if (self.path / "index").exists():
            self.index.load(str(self.path / "index"))
            self.keys = json.loads((self.path / "keys").read_text(encoding="utf-8"))
        self.number = {key: n for n, key in enumerate(self.keys)}

    def add(self, keys, vectors):
        self._remove(keys)
        numbers = np.arange(len(self.keys), len(self.keys) + len(keys))
        self.index.add(numbers, vectors)
        self.keys += keys
        self.number |= dict(zip(keys, numbers.tolist()))
        self._save()

    def remove(self, keys):
        self._remove(keys)
        self._save()

    def _remove(self, keys):
        for key in keys:
            if key in self.number:
                self.index.remove(self.number.pop(key))

    def _save(self):
        self.index.save(str(self.path / "index"))
        (self.path / "keys").write_text(json.dumps(self.keys), encoding="utf-8")

    def search(self, query, filtered=False):
        if filtered:
            raise NotImplementedError("no filters")
        found = self.index.search(query, K, exact=True)
        return [self.keys[n] for n in found.keys], 1 - found.distances

    def count(self):
        return len(self.index)

    def finish(self):
        pass

    def close(self):
        pass


ENGINES = {
    "lancedb": LanceDB,
    "milvus": Milvus,
    "faiss": Faiss,
    "qdrant": Qdrant,
    "usearch": Usearch,
}


def keys_of(start, stop):
    return [f"photos/{number:06d}.jpg" for number in range(start, stop)]


def unit_vectors(count, dimension, seed):
    rows = np.random.default_rng(seed).standard_normal((count, dimension), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def items(count, dimension):
    rows = unit_vectors(count, dimension, 0)
    twice = count // 20
    rows[-twice:] = rows[:twice]
    return rows


def measure(name, folder, count, dimension, batch, num_queries):
    """Figures of one engine, by name."""
    kind, path = ENGINES[name], str(folder / name)
    engine = kind(path, dimension)
    rows, queries = items(count, dimension), unit_vectors(num_queries, dimension, 1)
    started = time.perf_counter()
    for start in range(0, count, batch):
        stop = min(start + batch, count)
        engine.add(keys_of(start, stop), rows[start:stop])
    figures = {}
    engine.finish()
    figures["build s"] = time.perf_counter() - started
    engine.close()
    files = [file for file in folder.rglob("*") if file.is_file()]
    figures["MB"] = sum(file.stat().st_size for file in files) / 1e6
    started = time.perf_counter()
    engine = kind(path, dimension)
    keys, similarities = engine.search(queries[0])
    figures["open and first search s"] = time.perf_counter() - started
    assert engine.count() == count, engine.count()

    exact = queries.astype(np.float64) @ rows.T.astype(np.float64)
    order = np.lexsort((np.broadcast_to(np.arange(count), exact.shape), -exact))[:, :K]
    recall, worst, seconds = [], 0.0, []
    for number, query in enumerate(queries):
        started = time.perf_counter()
        keys, similarities = engine.search(query)
        seconds.append(time.perf_counter() - started)
        found = [int(key[7:13]) for key in keys]
        # a twin in the other's place is as right
        recall.append(np.mean(exact[number, found] >= exact[number, order[number, -1]] - 1e-6))
        best = -np.sort(-exact[number])[:K]
        worst = max(worst, np.abs(np.asarray(similarities) - best).max())
    figures |= {
        "recall@10": float(np.mean(recall)),
        "largest error": float(worst),
        "ms median": 1e3 * float(np.median(seconds)),
        "ms 99 %": 1e3 * float(np.quantile(seconds, 0.99)),
    }
    # ties: of two equal rows, is the one of the lower path first, always?
    twins = [engine.search(rows[number])[0][:2] for number in range(20)]
    figures["lower path of twins first"] = sum(a < b for a, b in twins) / len(twins)
    try:
        keys, _ = engine.search(rows[0], filtered=True)
        figures["filter"] = FIRST not in keys
    except NotImplementedError as error:
        figures["filter"] = str(error)

    others, started = unit_vectors(100, dimension, 3), time.perf_counter()
    engine.add(keys_of(0, 100), others)
    figures["replace 100 s"] = time.perf_counter() - started
    keys, _ = engine.search(others[3])
    figures["replaced"] = engine.count() == count and keys[0] == keys_of(3, 4)[0]
    started = time.perf_counter()
    engine.remove(keys_of(0, 100))
    figures["remove 100 s"] = time.perf_counter() - started
    figures["removed"] = engine.count() == count - 100
    figures["second process"] = second_process(name, path, dimension)
    engine.close()
    return figures


def second_process(name, path, dimension):
    """What another process sees while this one has the index open."""
    words = [sys.executable, __file__, name, "--count-of", path, "--dimension", str(dimension)]
    done = subprocess.run(words, capture_output=True, text=True)
    text = (done.stdout or done.stderr).strip().splitlines()
    return text[-1][:160] if text else "nothing"


def kills(name, folder, dimension, times, seed):
    """How often a killed process lost what it had acknowledged, or left a part of an addition."""
    moments, wrong, acknowledged_in_all = random.Random(seed), [], 0
    size = 500
    for number in range(times):
        path = str(folder / f"killed{number}")
        words = [sys.executable, __file__, name, "--add-to", path, "--dimension", str(dimension)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None  # it was asked for
        process.stdout.readline()
        time.sleep(moments.uniform(0.0, 1.5))
        process.kill()
        told = [int(line) for line in process.stdout.read().split()]
        process.wait()
        acknowledged = max(told, default=0)
        acknowledged_in_all += acknowledged
        words[3] = "--count-of"
        done = subprocess.run(words, capture_output=True, text=True)
        text = done.stdout.strip()
        if not text.isdigit():
            wrong.append(f"{acknowledged} acknowledged, then {done.stderr.strip()[-120:]!r}")
        elif int(text) < acknowledged or int(text) % size:
            wrong.append(f"{acknowledged} acknowledged, {text} found")
    return {"kills": times, "acknowledged": acknowledged_in_all, "wrong": wrong}


def add_until_killed(engine, dimension):
    rows = unit_vectors(500, dimension, 2)
    print("started", flush=True)
    for start in range(0, 10**9, 500):
        engine.add(keys_of(start, start + 500), rows)
        print(start + 500, flush=True)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engines", nargs="+", choices=ENGINES)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--add-to", help=argparse.SUPPRESS)
    parser.add_argument("--count-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    path = options.add_to or options.count_of
    if path:
        engine = ENGINES[options.engines[0]](path, options.dimension)
        if options.add_to:
            add_until_killed(engine, options.dimension)
        print(engine.count())
        engine.close()
        return
    for name in options.engines:
        versions = [f"{p} {importlib.metadata.version(p)}" for p in ENGINES[name].packages]
        print(f"== {', '.join(versions)}", flush=True)
        folder = Path(tempfile.mkdtemp())
        try:
            figures = measure(
                name, folder, options.items, options.dimension, options.batch, options.queries
            )
            for key, value in figures.items():
                print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
            print(kills(name, folder, options.dimension, options.kills, 0), flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
