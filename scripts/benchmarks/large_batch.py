"""Time and memory of the exact Multi-Similarity loss on a batch of tens of thousands.

    python scripts/benchmarks/large_batch.py --peer-python PYTHON

From 1024 items on the loss goes in tiles of pairs, which beyond 8192 items are not kept, so that
memory grows with the batch and not with its square; nothing is approximated. Measured in processes
of their own: two steps (the first traces and compiles), and the growth of the peak resident memory
(ru_maxrss) over a baseline taken after the imports, the inputs and a batch of 300. Beside it, the
same for pytorch-metric-learning under PYTHON, with a limit on its memory. Also compares loss and
gradient in tiles and in blocks of 256 anchors with those of all pairs at once. A few minutes on 2
cores; Linux only. With LOSS_STEP_CPU_TIME=1 in the environment it is processor time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

import numpy as np
from loss_peers import failure, limit_memory, peer_step, seconds
from loss_step import hard_batch, keras_step
from record import add_record_option, record

TINY = 300
BLOCK = 256
PEER_GIB = 18
SECONDS = 300  # a process that takes longer is given up


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth(step):
    """Seconds of a first and a second step and by how many MiB they raised the peak."""
    before = peak_mib()
    first, second = seconds(step), seconds(step)
    return {"first": first, "second": second, "mib": peak_mib() - before}


def measure_ours(size, dimension, block_size):
    from keras_ms import MultiSimilarityLoss

    def step(size):
        loss = MultiSimilarityLoss(block_size=block_size)
        return keras_step(loss, *hard_batch(size, dimension), jit_compile=False)

    large = step(size)
    step(TINY)()
    return growth(large)


def measure_peer(size, dimension):
    limit_memory(PEER_GIB)
    try:
        large = peer_step("multi_similarity", *hard_batch(size, dimension))
        peer_step("multi_similarity", *hard_batch(TINY, dimension))()
        return growth(large)
    except (RuntimeError, MemoryError) as error:
        return failure(error, PEER_GIB)


def measure_equality(size, dimension):
    """Largest differences of loss and gradient in tiles, then in blocks, from those of all pairs at
    once, of the largest value of each."""
    from keras_ms import MultiSimilarityLoss

    batch = hard_batch(size, dimension)
    whole, *others = (
        keras_step(MultiSimilarityLoss(block_size=block_size), *batch, jit_compile=False)()
        for block_size in (None, "auto", BLOCK)
    )
    return [
        [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(whole, other)]
        for other in others
    ]


def in_its_own_process(python, *task):
    """The answer to a task, or a text that says why there is none."""
    # this process stays small: a child's ru_maxrss starts from its parent's
    try:
        done = subprocess.run(
            [python, __file__, "--measure", json.dumps(task)],
            check=False,
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "2"},
        )
    except subprocess.TimeoutExpired:
        return f"> {SECONDS} s"
    if done.returncode:
        return f"the process ended with code {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1])


def print_row(name, size, answer):
    if isinstance(answer, str):
        print(f"| {name} | {size:,} | {answer} | – | – |", flush=True)
    else:
        times = f"{answer['first']:.2f} | {answer['second']:.2f}"
        print(f"| {name} | {size:,} | {times} | {answer['mib']:,.0f} |", flush=True)


def recorded(answer):
    """Columns of the table that is kept."""
    if isinstance(answer, str):
        return {"second step, s": answer, "peak memory above the inputs, MiB": None}
    return {
        "second step, s": float(f"{answer['second']:.3g}"),
        "peak memory above the inputs, MiB": round(answer["mib"]),
    }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--batch-size", type=int, default=32_768)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--smaller", default="2048,4096", help="further sizes, commas between")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out")
    add_record_option(parser)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        task, *values = json.loads(arguments.measure)
        tasks = {"ours": measure_ours, "peer": measure_peer, "equality": measure_equality}
        return print(json.dumps(tasks[task](*values)))

    sizes = [int(size) for size in arguments.smaller.split(",") if size]
    dimension = arguments.dimension
    print(f"Multi-Similarity loss and gradient, {dimension} dimensions\n")
    print("| | batch | first step, s | second step, s | peak memory above inputs, MiB |")
    print("|---|---|---|---|---|", flush=True)
    rows = {}
    for size in [*sizes, arguments.batch_size]:
        ours = in_its_own_process(sys.executable, "ours", size, dimension, "auto")
        print_row("keras_ms", size, ours)
        rows[f"keras_ms, {size:,}"] = recorded(ours)
        if not arguments.no_peer:
            peer = in_its_own_process(arguments.peer_python, "peer", size, dimension)
            print_row("pytorch-metric-learning", size, peer)
            rows[f"pytorch-metric-learning, {size:,}"] = recorded(peer)
    if arguments.record:
        sizes = f"Multi-Similarity loss and gradient, {dimension} dimensions"
        record("large-batch", rows, sizes=sizes, threads=2, rounds=1)
    answer = in_its_own_process(sys.executable, "equality", 2048, dimension)
    if isinstance(answer, str):
        print(f"\nAgainst all pairs at once: {answer}")
    else:
        print("\nAgainst all pairs at once, batch 2048, largest relative differences:")
        for name, (loss, gradient) in zip(("tiles", f"blocks of {BLOCK}"), answer):
            print(f"{name}: loss {loss:.1e}, gradient {gradient:.1e}")


if __name__ == "__main__":
    main()
