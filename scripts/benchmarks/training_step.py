"""Training step of BN-Inception in images per second, beside the same network in PyTorch.

    python scripts/benchmarks/training_step.py --peer-python PYTHON

PYTHON is an interpreter that has torch and pytorch-metric-learning, by default this one. A step is
what training runs: forward, global pooling, a 512-d head, Multi-Similarity loss with its mining,
backward, Adam. Every variant is a process of its own with the same batch and number of threads;
they take turns, a step each, so that a busy machine slows all alike. Two programs of two threads
each do badly on two cores that a third program uses (torch's threads then wait for each other), so
measure on an idle machine, or with --threads 1, by processor time. PyTorch's network is
tests/torch_bn_inception.py, written from the same description and tested to give the same
features. Prints a Markdown table: medians, and in brackets the fastest step; ratios are medians of
the rounds' own ratios, by the clock and by processor time (all threads).
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from answering_process import AnsweringProcess
from record import add_record_option, record

KERAS, KERAS_BFLOAT16 = "keras_ms", "keras_ms, mixed_bfloat16"
# row of the table -> (memory format, whether under autocast to bfloat16)
PEERS = {
    "PyTorch, channels last": ("channels_last", False),
    "PyTorch, contiguous": ("contiguous_format", False),
    "PyTorch, channels last, bfloat16": ("channels_last", True),
    "PyTorch, contiguous, bfloat16": ("contiguous_format", True),
}
IMAGES_PER_CLASS = 4
LEARNING_RATE = 3e-5  # the official recipe's; the time does not depend on it


def pictures(batch_size, image_size):
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (batch_size, image_size, image_size, 3)).astype("float32")
    return images, np.arange(batch_size) // IMAGES_PER_CLASS


def keras_step(options):
    """A function that runs one training step, as `fit` runs it, and returns its loss."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    import keras_ms

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    if options.variant == KERAS_BFLOAT16:
        keras.config.set_dtype_policy("mixed_bfloat16")
    embedder = keras_ms.build_embedder(
        "bn_inception",
        embedding_size=512,
        image_size=options.image_size,
        frozen_batch_norm=options.batch_norm == "frozen",
    )
    embedder.compile(
        keras_ms.GroupedAdam(LEARNING_RATE),
        loss=keras_ms.MultiSimilarityLoss(),
        jit_compile=False,  # XLA for the whole network is slower on processors
    )
    batch = pictures(options.batch_size, options.image_size)
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    embedder.make_train_function()
    return lambda: float(embedder.train_function(batches)["loss"])


def torch_step(options):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    import torch
    from pytorch_metric_learning import losses, miners
    from torch_bn_inception import BNInception

    torch.set_num_threads(options.threads)
    layout, bfloat16 = PEERS[options.variant]
    layout = getattr(torch, layout)
    network = BNInception(classifier=False).to(memory_format=layout).train()
    if options.batch_norm == "frozen":
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    head = torch.nn.Linear(1024, 512)
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=LEARNING_RATE)
    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    loss_of = losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
    images, labels = pictures(options.batch_size, options.image_size)
    images = images.transpose(0, 3, 1, 2) - np.array([104, 117, 128], "float32")[:, None, None]
    images = torch.from_numpy(images).contiguous(memory_format=layout)
    labels = torch.from_numpy(labels)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            features = network(images)
        embeddings = torch.nn.functional.normalize(head(features.float().mean((2, 3))))
        loss = loss_of(embeddings, labels, miner(embeddings, labels))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def work(options):
    """One variant: a step for every line of input, answered by its seconds."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    step = torch_step(options) if options.variant in PEERS else keras_step(options)
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        loss = step()
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        print(json.dumps([*seconds, loss]), file=answers, flush=True)


class Worker:
    """The process of a variant."""

    def __init__(self, variant, arguments):
        python = arguments.peer_python if variant in PEERS else sys.executable
        options = ("batch_size", "image_size", "threads", "batch_norm")
        command = [python, __file__, "--variant", variant]
        for name in options:
            command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        self.variant = variant
        self._process = AnsweringProcess(command, env=environment)

    def step(self):
        self._process.send("")
        line = self._process.answer()
        if not line:
            raise RuntimeError(f"{self.variant} ended with code {self._process.close()}")
        *seconds, loss = json.loads(line)
        if not np.isfinite(loss):
            raise RuntimeError(f"{self.variant}: the loss is {loss}")
        return seconds  # by the clock, of the processor

    def close(self):
        self._process.close()


def measure(arguments):
    variants = [KERAS, *list(PEERS)[:2]]
    if arguments.bfloat16:
        variants += [KERAS_BFLOAT16, *list(PEERS)[2:]]
    workers = [Worker(variant, arguments) for variant in variants]
    try:
        for worker in workers:
            for _ in range(arguments.warm_up):
                worker.step()
        times = np.array([[worker.step() for worker in workers] for _ in range(arguments.rounds)])
    finally:
        for worker in workers:
            worker.close()
    print_table(variants, times, arguments)


def print_table(variants, times, arguments):
    batch_norm = "frozen statistics" if arguments.batch_norm == "frozen" else "batch statistics"
    print(
        f"\nBatch of {arguments.batch_size} at {arguments.image_size} px, {batch_norm}, "
        f"{arguments.threads} threads, {arguments.rounds} rounds\n"
    )
    print("| | images/s | CPU ms/image | keras_ms is faster by | by CPU time |")
    print("|---|---|---|---|---|")
    rows = {}
    for column, variant in enumerate(variants):
        ours = KERAS_BFLOAT16 if "bfloat16" in variant else KERAS
        wall, processor = np.median(times[:, column] / times[:, variants.index(ours)], axis=0)
        rates = arguments.batch_size / times[:, column, 0]
        busy = 1e3 * np.median(times[:, column, 1]) / arguments.batch_size
        rows[variant] = {
            "images/s": round(float(np.median(rates)), 1),
            "CPU ms/image": round(float(busy)),
            "keras_ms is faster by": round(float(wall), 2),
            "by CPU time": round(float(processor), 2),
        }
        print(
            f"| {variant} | {np.median(rates):.1f} ({rates.max():.1f}) | {busy:.1f} "
            f"| {wall:.2f} | {processor:.2f} |"
        )
    if arguments.record:
        record(
            "training-step" if arguments.threads == 1 else "training-step-two-threads",
            rows,
            sizes=f"batches of {arguments.batch_size} at {arguments.image_size} px, {batch_norm}",
            threads=arguments.threads,
            rounds=arguments.rounds,
            ratios=["keras_ms is faster by", "by CPU time"],
        )


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--batch-size", type=int, default=32, help="a multiple of 4")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument(
        "--batch-norm",
        choices=("frozen", "batch"),
        default="frozen",
        help="whether batch normalisation uses its running statistics, as the official recipe does",
    )
    parser.add_argument("--bfloat16", action="store_true", help="mixed precision too")
    add_record_option(parser)
    parser.add_argument("--variant", help=argparse.SUPPRESS)  # for the processes that measure
    arguments = parser.parse_args()
    work(arguments) if arguments.variant else measure(arguments)


if __name__ == "__main__":
    main()
