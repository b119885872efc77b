"""Time of the pair-based losses with their gradient, beside other libraries'.

    python scripts/benchmarks/loss_step.py --peer-python PYTHON
    python scripts/benchmarks/loss_step.py --peer-python PYTHON --similarity-python OTHER
    python scripts/benchmarks/loss_step.py --peer-python PYTHON --losses all --rounds 7

PYTHON is an interpreter that has torch and pytorch-metric-learning, by default this one; OTHER one
that has tensorflow-similarity with the TensorFlow it needs (2.15), left out by default. The
libraries take the same arrays and the same number of threads, and take turns, one step each, so
that a busy machine slows all alike. Prints a Markdown table per batch size: medians, and in
brackets the fastest tenth. Two programs of two threads each do badly on two cores that a third
program uses (torch's threads then wait for each other), so measure on an idle machine, or with
--threads 1, which waits for no other thread; with --cpu-time it counts what a step takes of a
processor, which other programs hardly change. The product is X Xᵀ of all pairs, left in memory.

A step of a peer that fails is written as such; one that takes long gets fewer rounds.
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from loss_peers import CPU_TIME, PEER, PEER_STEPS, SIMILARITY, Peer, seconds
from record import add_record_option, record

SIZES = "80x512,1024x512,4096x128"
IMAGES_PER_CLASS = 5
ONE_CALL_FROM, FEW_ROUNDS_FROM, FEW_ROUNDS = 20.0, 2.0, 3  # seconds of the peer's first step

XLA, GRAPH, NO_XLA = "keras_ms, step under XLA", "keras_ms, default in a graph", "keras_ms, no XLA"
PRODUCT = "product written out"

# row of the table -> name in keras_ms.losses.catalogue and settings. Binomial deviance
# has no counterpart in pytorch-metric-learning 2.9.
OURS = {
    "multi_similarity": ("multi_similarity", {}),
    "contrastive": ("contrastive", {"threshold": 0.5}),
    "triplet, all": ("triplet", {"mining": "all"}),
    "triplet, hard": ("triplet", {"mining": "hard"}),
    "triplet, semi-hard": ("triplet", {"mining": "semi_hard"}),
    "lifted_structure": ("lifted_structure", {}),
    "lifted_structure, two-sided": ("lifted_structure", {"two_sided": True}),
    # the peer's has no other form
    "n_pair, one pair a class": ("n_pair", {"one_pair_per_class": True}),
    "histogram": ("histogram", {"num_steps": 101}),
    "margin": ("margin", {}),
    "angular": ("angular", {"angle": 45.0}),
    "circle": ("circle", {"margin": 0.25, "gamma": 256.0}),
    "supervised_contrastive": ("supervised_contrastive", {"temperature": 0.1}),
}


def hard_batch(batch_size, dimension, seed=0):
    """Embeddings midway in training: similarities from about -0.2 to 0.9 and most anchors mined."""
    rng = np.random.default_rng(seed)
    labels = np.arange(batch_size) // IMAGES_PER_CLASS
    # classes in groups of four share a direction, so every class has hard negatives
    groups = rng.normal(size=(labels.max() // 4 + 1, dimension))
    classes = rng.normal(size=(labels.max() + 1, dimension))
    noise = rng.normal(size=(batch_size, dimension)) * rng.uniform(0.3, 1.2, (batch_size, 1))
    embeddings = groups[labels // 4] + 0.7 * classes[labels] + noise
    return embeddings.astype(np.float32), labels


def keras_step(loss, embeddings, labels, jit_compile):
    """A function that runs one step and returns the loss and its gradient as numpy arrays."""
    import tensorflow as tf

    embeddings, labels = tf.constant(embeddings), tf.constant(labels)

    @tf.function(jit_compile=jit_compile)
    def step(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(labels, embeddings)
        return value, tape.gradient(value, embeddings)

    return lambda: [part.numpy() for part in step(labels, embeddings)]


def keras_steps(row, embeddings, labels, without_xla):
    """name -> function that runs one step and waits for its result."""
    from keras_ms.run.losses import named_loss

    name, settings = OURS[row]

    def step(compiled_step, jit_compile):
        loss = named_loss(name, jit_compile=jit_compile, **settings)
        return keras_step(loss, embeddings, labels, compiled_step)

    steps = {XLA: step(True, "auto"), GRAPH: step(False, "auto")}
    if without_xla:
        steps[NO_XLA] = step(False, False)
    return {**steps, PRODUCT: product_step(embeddings)}


def product_step(embeddings):
    import tensorflow as tf

    embeddings = tf.constant(embeddings)
    product = tf.function(lambda x: tf.matmul(x, x, transpose_b=True))
    # in memory when it returns; not copied to NumPy, which would take as long again
    return lambda: product(embeddings)


def measure(steps, askers, rounds):
    """name -> list of seconds, or a text where a peer gave no time.

    Args:
        steps: name -> function that runs one step of ours.
        askers: name of a peer -> function that gives the seconds of one of its steps, or a text.
        rounds: how many of each; fewer of a slow peer.
    """
    for step in steps.values():  # compile and warm up
        step()
        step()
    times: dict[str, Any] = {name: [] for name in steps}
    peer_rounds = dict.fromkeys(askers, 0)
    for name, ask in askers.items():
        first = ask()
        times[name] = [] if isinstance(first, float) else first
        if isinstance(first, float) and first > ONE_CALL_FROM:
            times[name] = f"{first:.0f} s, one call"
        elif isinstance(first, float):
            peer_rounds[name] = min(rounds, FEW_ROUNDS) if first > FEW_ROUNDS_FROM else rounds
    for done in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
        for name, ask in askers.items():
            if done < peer_rounds[name] and isinstance(times[name], list):
                answer = ask()
                times[name] = [*times[name], answer] if isinstance(answer, float) else answer
    return times


def cells(times):
    """The columns of a row: the times, then each peer's as a multiple of each of ours."""
    texts, ratios = [], []
    for name, values in times.items():
        if isinstance(values, str):
            texts.append(values)
            continue
        # the fastest tenth: what a step takes when no other program holds a core
        texts.append(f"{1e3 * np.median(values):.2f} ({1e3 * np.quantile(values, 0.1):.2f})")
    for peer in (peer for peer in PEER_STEPS if peer in times):
        for name in (XLA, GRAPH):
            known = not isinstance(times[peer], str)
            ratio = np.median(times[peer]) / np.median(times[name]) if known else None
            ratios.append(f"{ratio:.2f}" if known else "–")
    return texts + ratios + [f"{products(times, name):.2f}" for name in (XLA, GRAPH)]


def products(times, name):
    """The median of a step in products written out."""
    return np.median(times[name]) / np.median(times[PRODUCT])


def report(size, rows, arguments, peers, batch):
    rounds = arguments.rounds
    embeddings, labels = batch
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    some = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)][:1_000_000]
    low, high = np.quantile(some, [0.001, 0.999])
    print(
        f"\nBatch {size}, {IMAGES_PER_CLASS} images a class, similarities {low:.2f} to {high:.2f};"
    )
    print(
        f"{rounds} rounds, {arguments.threads} threads, medians in ms (fastest tenth)"
        f"{' of processor time' if arguments.cpu_time else ''}\n"
    )
    columns = [XLA, GRAPH, *([NO_XLA] if arguments.without_xla else []), PRODUCT]
    columns += peers
    for name in peers:
        columns += [f"{name} / ours under XLA", f"{name} / ours in a graph"]
    columns += ["ours under XLA / product", "ours in a graph / product"]
    print("| loss |", " | ".join(columns), "|")
    print("|---" * (1 + len(columns)) + "|", flush=True)
    figures = {}
    for row in rows:
        steps = keras_steps(row, embeddings, labels, arguments.without_xla)
        askers = {name: partial(peer.ask, row, size) for name, peer in peers.items()}
        figures[row] = measure(steps, askers, rounds)
        print(f"| {row} |", " | ".join(cells(figures[row])), "|", flush=True)
    return figures


def record_figures(figures, arguments):
    """Writes the table of one loss by sizes, or of several losses under XLA.

    Args:
        figures: size -> loss -> times, as `measure` gives them.
        arguments: of the command.
    """
    shown = {size: size.replace("x", " × ") for size in figures}
    losses = list(next(iter(figures.values())))
    options = {"threads": arguments.threads, "rounds": arguments.rounds}
    if len(losses) == 1:
        rows = {shown[size]: one_loss(of_size[losses[0]]) for size, of_size in figures.items()}
        name = "loss-step" if losses[0] == "multi_similarity" else f"loss-step-{losses[0]}"
        sizes = f"{losses[0].replace('_', ' ')} loss with its gradient"
        ratios = [column for column in next(iter(rows.values())) if "times as fast" in column]
        return record(name, rows, sizes=sizes, ratios=ratios, **options)
    rows = {loss: {} for loss in losses}
    for size, of_size in figures.items():
        for loss, times in of_size.items():
            one = one_loss(times)
            rows[loss][f"{shown[size]}, ms"] = one["under XLA, ms"]
            ratio, peer = one.get("times as fast, under XLA"), times.get(PEER)
            if isinstance(peer, str):  # it gave no time
                ratio = f"peer: {peer}"
            rows[loss][f"{shown[size]}, times as fast"] = ratio
    ratios = [column for column in rows[losses[0]] if "times as fast" in column]
    sizes = "every loss with its gradient, under XLA"
    written = {"multi_similarity": "multi-similarity", "n_pair": "N-pair", "_": " "}
    for name, word in written.items():
        rows = {loss.replace(name, word): row for loss, row in rows.items()}
    return record("loss-step-all", rows, sizes=sizes, ratios=ratios, **options)


def one_loss(times):
    """Columns of one loss at one size: medians, fastest tenths, and ratios to the first peer."""
    row = {}
    for name, words in ((XLA, "under XLA"), (GRAPH, "in a graph")):
        row[f"{words}, ms"] = float(f"{1e3 * np.median(times[name]):.3g}")
        row[f"fastest tenth {words}"] = float(f"{1e3 * np.quantile(times[name], 0.1):.3g}")
    peers = [name for name in PEER_STEPS if name in times]
    for peer in peers[:1]:
        known = not isinstance(times[peer], str)
        milliseconds = float(f"{1e3 * np.median(times[peer]):.3g}") if known else times[peer]
        row[f"{peer}, ms"] = milliseconds
        for name, words in ((XLA, "under XLA"), (GRAPH, "in a graph")):
            ratio = np.median(times[peer]) / np.median(times[name]) if known else None
            row[f"times as fast, {words}"] = None if ratio is None else float(f"{ratio:.3g}")
    for name, words in ((XLA, "under XLA"), (GRAPH, "in a graph")):
        row[f"products, {words}"] = float(f"{products(times, name):.3g}")
    return row


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--similarity-python", help="one that has tensorflow-similarity")
    parser.add_argument("--no-peer", action="store_true", help="leave the peers out")
    parser.add_argument("--losses", default="multi_similarity", help="names with ; between, or all")
    parser.add_argument("--sizes", default=SIZES, help="batch x dimension, with commas between")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2, help="of either library")
    parser.add_argument("--without-xla", action="store_true", help="time that too")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time of each program, not the clock's"
    )
    add_record_option(parser)
    arguments = parser.parse_args()
    rows = list(OURS) if arguments.losses == "all" else arguments.losses.split(";")
    if unknown := sorted(set(rows) - set(OURS)):
        parser.error(f"unknown losses {unknown}; expected some of {list(OURS)}")
    if arguments.record and len(rows) > 1 and rows != list(OURS):
        parser.error("--record writes the table of one loss or of all: --losses NAME or all")
    sizes = arguments.sizes.split(",")
    try:
        shapes = {size: tuple(map(int, size.split("x"))) for size in sizes}
        if any(len(shape) != 2 or min(shape) < 1 for shape in shapes.values()):
            raise ValueError
    except ValueError:
        parser.error(f"--sizes: expected such as {SIZES}. Received: {arguments.sizes}")
    pythons = {PEER: arguments.peer_python, SIMILARITY: arguments.similarity_python}
    if arguments.no_peer:
        pythons = {}

    if arguments.cpu_time:
        os.environ[CPU_TIME] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        peers = {
            name: Peer(name, python, folder, arguments.threads)
            for name, python in pythons.items()
            if python
        }
        figures = {}
        try:
            for size in sizes:
                batch = hard_batch(*shapes[size])
                np.savez(Path(folder) / f"{size}.npz", embeddings=batch[0], labels=batch[1])
                figures[size] = report(size, rows, arguments, peers, batch)
        finally:
            for peer in peers.values():
                peer.stop()
    if arguments.record:
        record_figures(figures, arguments)


if __name__ == "__main__":
    main()
