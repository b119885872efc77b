"""Time of the Multi-Similarity loss with its gradient, beside pytorch-metric-learning's miner and
loss and beside one product of all embeddings with each other.

    python scripts/benchmarks/loss_step.py --peer-python PYTHON

PYTHON is an interpreter that has torch and pytorch-metric-learning; without it they are imported
from this environment, and left out where they are missing. All programs take the same arrays and
the same number of threads, and take turns, one step each, so that a busy machine slows all alike.
Prints medians as a Markdown table, and the fastest tenth: two programs of two threads each do
badly on two cores that a third program uses (torch's threads then wait for each other), so
measure on an idle machine. About a minute on 2 cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH_SIZES = (80, 1024)
DIMENSION = 512
IMAGES_PER_CLASS = 5
THREADS = 2
PRODUCT, PEER = "one product of all pairs", "pytorch-metric-learning"
OURS = "keras_ms, step under XLA"


def hard_batch(batch_size, seed=0):
    """Embeddings midway in training: similarities from about -0.2 to 0.9 and most anchors mined."""
    rng = np.random.default_rng(seed)
    labels = np.arange(batch_size) // IMAGES_PER_CLASS
    # classes in groups of four share a direction, so every class has hard negatives
    groups = rng.normal(size=(labels.max() // 4 + 1, DIMENSION))
    classes = rng.normal(size=(labels.max() + 1, DIMENSION))
    noise = rng.normal(size=(batch_size, DIMENSION)) * rng.uniform(0.3, 1.2, (batch_size, 1))
    embeddings = groups[labels // 4] + 0.7 * classes[labels] + noise
    return embeddings.astype(np.float32), labels


def keras_steps(embeddings, labels):
    """name -> function that runs one step and waits for its result."""
    import tensorflow as tf

    from keras_ms import MultiSimilarityLoss

    embeddings, labels = tf.constant(embeddings), tf.constant(labels)

    def step_of(loss, jit_compile):
        @tf.function(jit_compile=jit_compile)
        def step(labels, embeddings):
            with tf.GradientTape() as tape:
                tape.watch(embeddings)
                value = loss(labels, embeddings)
            return value, tape.gradient(value, embeddings)

        return lambda: step(labels, embeddings)[1].numpy()

    product = tf.function(lambda x: tf.matmul(x, x, transpose_b=True))
    return {
        PRODUCT: lambda: product(embeddings).numpy(),
        OURS: step_of(MultiSimilarityLoss(), True),
        "keras_ms, pairwise part under XLA": step_of(MultiSimilarityLoss(jit_compile=True), False),
        "keras_ms, no XLA": step_of(MultiSimilarityLoss(jit_compile=False), False),
    }


def peer_step(embeddings, labels):
    import torch
    from pytorch_metric_learning.losses import MultiSimilarityLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    torch.set_num_threads(THREADS)
    embeddings = torch.tensor(embeddings, requires_grad=True)
    labels = torch.tensor(labels)
    miner = MultiSimilarityMiner(epsilon=0.1)
    loss = MultiSimilarityLoss(alpha=2, beta=40, base=0.5)

    def step():
        embeddings.grad = None
        loss(embeddings, labels, miner(embeddings, labels)).backward()
        return embeddings.grad.numpy()

    return step


def seconds(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def serve_peer(folder):
    """Runs one step of the peer for every batch size read from the standard input."""
    steps = {}
    for line in sys.stdin:
        size = int(line)
        if size not in steps:
            arrays = np.load(Path(folder) / f"{size}.npz")
            steps[size] = peer_step(arrays["embeddings"], arrays["labels"])
        print(seconds(steps[size]), flush=True)


def peer_in_its_own_process(peer_python, folder):
    """A function from a batch size to the seconds of one step, or None where it cannot run."""
    process = subprocess.Popen(
        [peer_python, __file__, "--serve", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(THREADS)},
    )

    def ask(size):
        process.stdin.write(f"{size}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{peer_python} could not run pytorch-metric-learning")
        return float(answer)

    return ask


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve_peer(arguments.serve)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        batches = {size: hard_batch(size) for size in BATCH_SIZES}
        for size, (embeddings, labels) in batches.items():
            np.savez(Path(folder) / f"{size}.npz", embeddings=embeddings, labels=labels)
        ask_peer = None
        if not arguments.no_peer:
            ask_peer = peer_in_its_own_process(arguments.peer_python, folder)
        for size, batch in batches.items():
            steps = keras_steps(*batch)
            clocks = {name: lambda step=step: seconds(step) for name, step in steps.items()}
            if ask_peer:
                clocks[PEER] = lambda size=size: ask_peer(size)
            report(size, clocks, batch, arguments.rounds)


def report(size, clocks, batch, rounds):
    for clock in clocks.values():  # compile and warm up
        clock(), clock()
    times = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, clock in clocks.items():
            times[name].append(clock())
    medians = {name: float(np.median(values)) for name, values in times.items()}
    # what a step takes when no other program holds a core
    quiet = {name: float(np.quantile(values, 0.1)) for name, values in times.items()}

    embeddings, labels = batch
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    low, high = np.quantile(similarity[~np.eye(size, dtype=bool)], [0.001, 0.999])
    print(f"\nBatch {size} x {DIMENSION}, {IMAGES_PER_CLASS} images a class, similarities")
    print(f"{low:.2f} to {high:.2f}; {rounds} rounds, {THREADS} threads, medians\n")
    print("| | median ms | of one product | of keras_ms under XLA | fastest tenth, ms |")
    print("|---|---|---|---|---|")
    for name, median in medians.items():
        print(
            f"| {name} | {1e3 * median:.2f} | {median / medians[PRODUCT]:.2f} "
            f"| {median / medians[OURS]:.2f} | {1e3 * quiet[name]:.2f} |"
        )


if __name__ == "__main__":
    main()
