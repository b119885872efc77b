"""Other libraries' pair-based losses for `loss_step.py`, each timed in a process of its own.

A peer works under a limit of memory and of time for each call, and is started again after it was
given up. `python loss_peers.py NAME FOLDER` is that process: it reads rows of the table and sizes,
a line each, and answers with the seconds of one step, or with a text that says why there are none.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
from answering_process import AnsweringProcess

PEER, SIMILARITY = "pytorch-metric-learning", "TensorFlow Similarity"
PEER_GIB = 14
PEER_SECONDS = 60  # a call of the peer that takes longer is given up
CPU_TIME = "LOSS_STEP_CPU_TIME"  # tells the peers' processes too
_FAILURES = (RuntimeError, MemoryError, ValueError, TypeError, AssertionError, ImportError)


def peer_loss(row):
    """The peer's loss and miner (or None) for a row of the table, with the settings of ours."""
    from pytorch_metric_learning import losses, miners
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.regularizers import LpRegularizer

    def cosine():
        return CosineSimilarity()

    def triplet():
        return losses.TripletMarginLoss(margin=0.1, distance=cosine())

    rows = {
        "multi_similarity": lambda: (
            losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5),
            miners.MultiSimilarityMiner(epsilon=0.1),
        ),
        "contrastive": lambda: (
            losses.ContrastiveLoss(pos_margin=1, neg_margin=0.5, distance=cosine()),
            None,
        ),
        "triplet, all": lambda: (triplet(), None),
        "triplet, hard": lambda: (triplet(), miners.BatchHardMiner(distance=cosine())),
        "triplet, semi-hard": lambda: (
            triplet(),
            miners.TripletMarginMiner(margin=0.1, type_of_triplets="semihard", distance=cosine()),
        ),
        "lifted_structure": lambda: (
            losses.GeneralizedLiftedStructureLoss(neg_margin=1, distance=cosine()),
            None,
        ),
        "lifted_structure, two-sided": lambda: (losses.LiftedStructureLoss(neg_margin=1), None),
        "n_pair, one pair a class": lambda: (
            losses.NPairsLoss(
                embedding_regularizer=LpRegularizer(power=2), embedding_reg_weight=0.002
            ),
            None,
        ),
        "histogram": lambda: (losses.HistogramLoss(n_bins=100), None),
        "margin": lambda: (
            losses.MarginLoss(margin=0.2, beta=1.2),
            miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4),
        ),
        "angular": lambda: (losses.AngularLoss(alpha=45), None),
        "circle": lambda: (losses.CircleLoss(m=0.25, gamma=256), None),
        "supervised_contrastive": lambda: (losses.SupConLoss(temperature=0.1), None),
    }
    return rows[row]()


def similarity_loss(row):
    """TensorFlow Similarity's loss for a row of the table, or None where it has none. Its triplet
    mining and its circle loss are not ours, but take the same pairs."""
    from tensorflow_similarity import losses

    def triplet(negatives):
        return losses.TripletLoss(
            distance="cosine",
            positive_mining_strategy="hard",
            negative_mining_strategy=negatives,
            margin=0.1,
        )

    rows = {
        "multi_similarity": lambda: losses.MultiSimilarityLoss(
            distance="cosine", alpha=2, beta=40, epsilon=0.1, lmda=0.5
        ),
        "triplet, hard": lambda: triplet("hard"),
        "triplet, semi-hard": lambda: triplet("semi-hard"),
        "circle": lambda: losses.CircleLoss(distance="cosine", gamma=256, margin=0.25),
    }
    return rows[row]() if row in rows else None


def peer_step(row, embeddings, labels):
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    embeddings = torch.tensor(embeddings, requires_grad=True)
    labels = torch.tensor(labels)
    loss, miner = peer_loss(row)

    def gradient():
        return embeddings.grad.numpy()

    def step():
        embeddings.grad = None
        mined = miner(embeddings, labels) if miner else None
        loss(embeddings, labels, mined).backward()
        return gradient()

    return step


def similarity_step(row, embeddings, labels):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["OMP_NUM_THREADS"]))
    loss = similarity_loss(row)
    if loss is None:
        raise ValueError("none")
    embeddings, labels = tf.constant(embeddings), tf.constant(labels)

    @tf.function
    def step():
        # as the last layer of its models does
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(labels, tf.math.l2_normalize(embeddings, axis=1))
        return tf.convert_to_tensor(tape.gradient(value, embeddings))

    step()  # traced
    return lambda: step().numpy()


PEER_STEPS = {PEER: peer_step, SIMILARITY: similarity_step}


def seconds(step):
    clock = time.process_time if os.environ.get(CPU_TIME) else time.perf_counter
    start = clock()
    step()
    return clock() - start


def limit_memory(gib):
    """Lets allocations of this process beyond so many GiB of addresses fail."""
    resource.setrlimit(resource.RLIMIT_AS, (gib << 30, gib << 30))


def failure(error, gib):
    """An exception of the peer in a few words."""
    text = str(error)
    if isinstance(error, MemoryError) or "alloc" in text:
        return f"out of memory beyond {gib} GiB"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:120]


def serve_peer(name, folder):
    """Runs one step of a peer for every row and size read from the standard input."""
    limit_memory(PEER_GIB)
    current, step = None, None
    for line in sys.stdin:
        row, size = json.loads(line)
        try:
            if current != (row, size):
                step = None  # frees the last one's gradient first
                arrays = np.load(Path(folder) / f"{size}.npz")
                step = PEER_STEPS[name](row, arrays["embeddings"], arrays["labels"])
                current = (row, size)
            answer = seconds(step)
        except _FAILURES as error:
            current, answer = None, failure(error, PEER_GIB)
        print(json.dumps(answer), flush=True)


class Peer:
    """A peer in a process of its own, started again after it was given up."""

    def __init__(self, name, python, folder, threads):
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._command = [python, __file__, name, str(folder)]
        self._process = None

    def ask(self, row, size):
        """The seconds of one step, or a text that says why there are none."""
        if self._process is None:
            self._process = AnsweringProcess(self._command, env=self._environment)
        self._process.send(json.dumps([row, size]))
        if not self._process.answers_within(PEER_SECONDS):
            self.stop()
            return f"> {PEER_SECONDS} s"
        answer = self._process.answer()
        if not answer:
            self.stop()
            return "the process died"
        return json.loads(answer)

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process = None


if __name__ == "__main__":
    serve_peer(*sys.argv[1:])
