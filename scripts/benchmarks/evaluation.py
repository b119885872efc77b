"""Recall@{1,10,100,1000}, exact: time beside the bare product's and beside faiss's; MAP@R.

Cost on 2 cores: about 2 minutes for 20,000 x 512, and 2 to 3 minutes a round for `--size sop`, the
60,502 x 512 of Stanford Online Products' test half. All contenders get the same arrays and the same
number of threads, take turns, and are compared by their medians. Each runs in a process of its own,
so that peak memory is its own too; the figure is what the run adds to the process with its data
loaded.

    python scripts/benchmarks/evaluation.py --threads 2
    python scripts/benchmarks/evaluation.py --threads 2 --size sop --repeats 3

faiss is timed if it can be imported (`pip install faiss-cpu`) here or by `--peer-python`.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from answering_process import AnsweringProcess
from record import add_record_option, record

KS = (1, 10, 100, 1000)
# images and classes; 5 images a class, as in Stanford Online Products
SIZES = {"small": (20_000, 4000), "sop": (60_502, 11_316)}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--images", type=int, help="another number than that of --size")
    parser.add_argument("--classes", type=int, help="another number than that of --size")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has faiss")
    add_record_option(parser)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    images, classes = SIZES[options.size]
    options.images, options.classes = options.images or images, options.classes or classes
    if options.contender:
        return serve(CONTENDERS[options.contender], options)
    with tempfile.TemporaryDirectory() as folder:
        options.data = str(Path(folder) / "data.npz")
        np.savez(options.data, **draw_data(options))
        compare(options)


def draw_data(options):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, options.classes, options.images)
    # class centres so weak that ranks spread over 1 .. 1000, as on a hard test set
    centres = rng.standard_normal((options.classes, options.dimension), dtype=np.float32)
    embeddings = rng.standard_normal((options.images, options.dimension), dtype=np.float32)
    embeddings += 0.35 * centres[labels]
    return {
        "embeddings": embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        "labels": labels,
    }


def recall_at_k_run(embeddings, labels, threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    from keras_ms import recall_at_k

    return lambda: recall_at_k(embeddings, labels, KS)


def precision_at_r_run(embeddings, labels, threads):
    from keras_ms.evaluation import precision_at_r

    def run():
        scores = precision_at_r(embeddings, labels)
        r_precision = float(np.nanmean(scores.r_precision))
        return {"r_precision": r_precision, "map@r": float(np.nanmean(scores.average_precision))}

    return run


def tensorflow_product(embeddings, labels, threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    gallery = tf.constant(embeddings)

    def run():
        for start in range(0, len(embeddings), 1024):
            tf.matmul(gallery[start : start + 1024], gallery, transpose_b=True)

    return run


def numpy_product(embeddings, labels, threads):
    tile = np.empty((1024, len(embeddings)), np.float32)

    def run():
        for start in range(0, len(embeddings), 1024):
            queries = embeddings[start : start + 1024]
            np.matmul(queries, embeddings.T, out=tile[: len(queries)])

    return run


def faiss_search(embeddings, labels, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings)

    def run():
        # one more than the largest K: the query finds itself
        neighbours = index.search(embeddings, max(KS) + 1)[1]
        others = neighbours != np.arange(len(labels))[:, None]
        # without self, or without the last one where self was not found
        others[others.all(axis=1), -1] = False
        neighbours = neighbours[others].reshape(len(labels), max(KS))
        relevant = labels[neighbours] == labels[:, None]
        scored = np.bincount(labels)[labels] > 1
        return {k: float(relevant[scored, :k].any(axis=1).mean()) for k in KS}

    return run


CONTENDERS = {
    "numpy product": numpy_product,
    "TensorFlow product": tensorflow_product,
    "keras_ms recall_at_k": recall_at_k_run,
    "keras_ms precision_at_r": precision_at_r_run,
    "faiss IndexFlatIP, k=1001": faiss_search,
}


def serve(contender, options):
    """Runs once for each line of standard input and prints seconds by the clock and of the
    processor, peak MiB and the result."""
    with np.load(options.data) as data:
        embeddings, labels = data["embeddings"], data["labels"]
    try:
        run = contender(embeddings, labels, options.threads)
    except ImportError as error:
        print(f"missing {error}", flush=True)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # compiles and starts the threads: not timed, but its memory counts
    contender(embeddings[:3000], labels[:3000], options.threads)()
    print("ready", flush=True)
    for _ in sys.stdin:
        start, busy = time.perf_counter(), time.process_time()
        result = run()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(seconds, busy, added, result, sep="\t", flush=True)


def compare(options):
    servers = {name: started(name, options) for name in CONTENDERS}
    servers = {name: server for name, server in servers.items() if server is not None}
    rounds = {name: [] for name in servers}
    for _ in range(options.repeats):
        for name, server in servers.items():
            server.send("run")
            rounds[name].append(server.answer().split("\t"))
    for server in servers.values():
        server.close()
    report(rounds, options)


def started(name, options):
    threads = str(options.threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, threads) | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    python = options.peer_python if name.startswith("faiss") else sys.executable
    server = AnsweringProcess(
        [python, __file__, "--contender", name, "--data", options.data, "--threads", threads],
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    answer = server.answer().strip()
    if answer == "ready":
        return server
    print(f"not timed: {name} ({answer or 'did not start'})")
    return None


def report(rounds, options):
    seconds = {name: [float(answer[0]) for answer in answers] for name, answers in rounds.items()}
    busy = {name: [float(answer[1]) for answer in answers] for name, answers in rounds.items()}
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    product = min((name for name in medians if name.endswith("product")), key=medians.__getitem__)
    # other work on the machine slows the contenders of one round alike: ratios within rounds
    ratios, of_processor = (
        {name: float(np.median(np.divide(values, kind[product]))) for name, values in kind.items()}
        for kind in (seconds, busy)
    )
    print(
        f"{options.images:,} x {options.dimension}, {options.classes:,} classes, "
        f"{options.threads} threads, {options.repeats} rounds\n\n"
        "| | median s | of the faster product | in each round | by processor time "
        "| peak MiB added |\n|---|---|---|---|---|---|"
    )
    for name, answers in rounds.items():
        peak = max(float(answer[2]) for answer in answers)
        print(
            f"| {name} | {medians[name]:.2f} | {medians[name] / medians[product]:.2f} "
            f"| {ratios[name]:.2f} | {of_processor[name]:.2f} | {peak:.0f} |"
        )
    for name, answers in rounds.items():
        if not name.endswith("product"):
            print(f"\n{name}: {answers[-1][3]}")
    if options.record:
        rows = {
            name: {
                "median s": round(medians[name], 2),
                "of the faster product": round(medians[name] / medians[product], 2),
                "in each round": round(ratios[name], 2),
                "by processor time": round(of_processor[name], 2),
                "peak MiB added": round(max(float(answer[2]) for answer in answers)),
            }
            for name, answers in rounds.items()
        }
        record(
            f"recall-at-k-{options.size}",
            rows,
            sizes=f"{options.images:,} × {options.dimension}, {options.classes:,} classes",
            threads=options.threads,
            rounds=options.repeats,
            ratios=["of the faster product", "in each round", "by processor time"],
        )


if __name__ == "__main__":
    main()
