"""Slow, literal NumPy float64 versions of the losses made of triplets or of the whole batch, and
batches to try them on. They share no code with keras_ms: each loop reads like its equation.

All take a similarity matrix and the two masks, and return one value per anchor.
"""

import math

import numpy as np
import oracles
import pytest
import tensorflow as tf


def masks(labels):
    labels = np.asarray(labels)
    same = labels[:, None] == labels[None, :]
    return same & ~np.eye(len(labels), dtype=bool), ~same


def sides(positive, negative, i):
    return np.flatnonzero(positive[i]), np.flatnonzero(negative[i])


def triplet_all(similarity, positive, negative, margin):
    rows = np.zeros(len(similarity))
    for i, s in enumerate(similarity):
        positives, negatives = sides(positive, negative, i)
        losses = [max(s[n] - s[p] + margin, 0) for p in positives for n in negatives]
        rows[i] = sum(losses) / max(len(losses), 1)
    return rows


def triplet_hard(similarity, positive, negative, margin):
    rows = np.zeros(len(similarity))
    for i, s in enumerate(similarity):
        positives, negatives = sides(positive, negative, i)
        if len(positives) and len(negatives):
            rows[i] = max(max(s[n] for n in negatives) - min(s[p] for p in positives) + margin, 0)
    return rows


def semi_hard_choice(s, p, negatives):
    below = [n for n in negatives if s[n] < s[p]]
    if below:
        return max(below, key=lambda n: s[n])
    return min(negatives, key=lambda n: s[n])


def triplet_semi_hard(similarity, positive, negative, margin):
    rows = np.zeros(len(similarity))
    for i, s in enumerate(similarity):
        positives, negatives = sides(positive, negative, i)
        if len(positives) and len(negatives):
            chosen = [s[semi_hard_choice(s, p, negatives)] for p in positives]
            losses = [max(n - s[p] + margin, 0) for p, n in zip(positives, chosen, strict=True)]
            rows[i] = sum(losses) / len(positives)
    return rows


def mine_hard(similarity, positive, negative):
    """Kept pairs (anchor, candidate) of each kind."""
    kept = set(), set()
    for i, s in enumerate(similarity):
        positives, negatives = sides(positive, negative, i)
        if len(positives) and len(negatives):
            kept[0].add((i, min(positives, key=lambda p: (s[p], p))))
            kept[1].add((i, min(negatives, key=lambda n: (-s[n], n))))
    return kept


def mine_semi_hard(similarity, positive, negative, margin):
    kept = set(), set()
    for i, s in enumerate(similarity):
        positives, negatives = sides(positive, negative, i)
        for p in positives if len(negatives) else []:
            n = semi_hard_choice(s, p, negatives)
            if s[n] - s[p] + margin > 0:
                kept[0].add((i, p))
                kept[1].add((i, n))
    return kept


def n_pair(similarity, positive, negative, regularization):
    rows = np.zeros(len(similarity))
    for i, s in enumerate(similarity):
        positives, negatives = sides(positive, negative, i)
        if not (len(positives) and len(negatives)):
            continue
        for p in positives:
            largest = max(0, max(s[n] - s[p] for n in negatives))
            total = sum(math.exp(s[n] - s[p] - largest) for n in negatives)
            loss = largest + math.log(math.exp(-largest) + total)
            norms = similarity[i, i] + similarity[p, p]
            rows[i] += (loss + 0.25 * regularization * norms) / len(positives)
    return rows


def angular(similarity, positive, negative, angle):
    squared = math.tan(math.radians(angle)) ** 2
    rows = np.zeros(len(similarity))
    for a in range(len(similarity)):
        positives, negatives = sides(positive, negative, a)
        for p in positives:
            total = 0
            for n in negatives:
                near = 4 * squared * (similarity[a, n] + similarity[p, n])
                total += math.exp(near - 2 * (1 + squared) * similarity[a, p])
            rows[a] += math.log1p(total) / len(positives)
    return rows


def histogram(similarity, positive, negative, num_steps):
    nodes = np.linspace(-1, 1, num_steps)
    step = nodes[1] - nodes[0]

    def estimate(mask):
        # each pair once: the matrix holds it twice
        pairs = [min(max(similarity[i, j], -1), 1) for i, j in np.argwhere(np.triu(mask))]
        shares = [sum(max(0, 1 - abs(s - node) / step) for s in pairs) for node in nodes]
        return np.array(shares) / max(len(pairs), 1)

    of_positives, of_negatives = estimate(positive), estimate(negative)
    loss = sum(of_negatives[r] * sum(of_positives[: r + 1]) for r in range(num_steps))
    return np.where((positive | negative).any(1), loss, 0)


# Forwards in float64 TensorFlow, with every triplet in one cube, to be differentiated.


def plain_cube(similarity, positive, negative):
    """(anchor, positive, negative): S_an - S_ap, and which of them are triplets."""
    cube = similarity[:, None, :] - similarity[:, :, None]
    return cube, positive[:, :, None] & negative[:, None, :]


def plain_triplet_all(similarity, positive, negative, margin):
    cube, exists = plain_cube(similarity, positive, negative)
    losses = tf.nn.relu(cube + margin) * exists
    return tf.reduce_sum(losses, [1, 2]) / np.maximum(exists.sum((1, 2)), 1)


def plain_triplet_hard(similarity, positive, negative, margin):
    most = tf.reduce_max(tf.where(negative, similarity, -9), 1)
    least = tf.reduce_min(tf.where(positive, similarity, 9), 1)
    return tf.nn.relu(most - least + margin)


def plain_triplet_semi_hard(similarity, positive, negative, margin):
    cube, exists = plain_cube(similarity, positive, negative)
    below = exists & (cube < 0)
    hardest_below = tf.reduce_max(tf.where(below, similarity[:, None, :], -9), 2)
    easiest = tf.reduce_min(tf.where(negative, similarity, 9), 1)
    chosen = tf.where(tf.reduce_any(below, 2), hardest_below, easiest[:, None])
    losses = tf.nn.relu(chosen - similarity + margin) * exists.any(2)
    return tf.reduce_sum(losses, 1) / np.maximum(positive.sum(1), 1)


def plain_n_pair(similarity, positive, negative, regularization):
    cube, exists = plain_cube(similarity, positive, negative)
    exponents = tf.where(exists, cube, -1e9)
    exponents = tf.concat([tf.zeros_like(exponents[:, :, :1]), exponents], 2)
    norms = tf.linalg.diag_part(similarity)
    losses = tf.reduce_logsumexp(exponents, 2)
    losses += 0.25 * regularization * (norms[:, None] + norms[None, :])
    losses *= exists.any(2)
    return tf.reduce_sum(losses, 1) / np.maximum(positive.sum(1), 1)


def plain_angular(similarity, positive, negative, angle):
    squared = math.tan(math.radians(angle)) ** 2
    exists = positive[:, :, None] & negative[:, None, :]
    near = 4 * squared * (similarity[:, None, :] + similarity[None, :, :])
    terms = tf.exp(near - 2 * (1 + squared) * similarity[:, :, None]) * exists
    losses = tf.math.log(1 + tf.reduce_sum(terms, 2)) * positive
    return tf.reduce_sum(losses, 1) / np.maximum(positive.sum(1), 1)


def plain_histogram(similarity, positive, negative, num_steps):
    steps = (similarity + 1) * (num_steps - 1) / 2
    node = tf.minimum(tf.floor(steps), num_steps - 2)
    share = (steps - node)[:, :, None]
    here = tf.one_hot(tf.cast(node, "int32"), num_steps, dtype="float64")
    above = tf.one_hot(tf.cast(node, "int32") + 1, num_steps, dtype="float64")
    mass = here * (1 - share) + above * share
    of_positives, of_negatives = (
        tf.reduce_sum(mass * mask[:, :, None], [0, 1]) / max(mask.sum(), 1)
        for mask in (positive, negative)
    )
    loss = tf.reduce_sum(of_negatives * tf.cumsum(of_positives))
    return loss * (positive | negative).any(1)


def by_similarity(plain, similarity, positive, negative, upstream=None, **settings):
    """Rows of a forward, and the derivative of their (weighted) sum by each similarity."""
    similarity = tf.constant(similarity)
    with tf.GradientTape() as tape:
        tape.watch(similarity)
        rows = plain(similarity, positive, negative, **settings)
        total = tf.reduce_sum(rows if upstream is None else rows * upstream)
    gradient = tape.gradient(total, similarity, unconnected_gradients="zero")
    return rows.numpy(), gradient.numpy()


def by_embeddings(plain, embeddings, labels, normalize, upstream=None, **settings):
    """Value of a loss, a mean over anchors, and its derivative by the embeddings."""
    embeddings = tf.constant(embeddings, "float64")
    upstream = np.ones(len(labels)) if upstream is None else upstream
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        rows = embeddings
        if normalize:
            rows = rows / tf.sqrt(tf.reduce_sum(rows**2, 1, keepdims=True))
        similarity = tf.matmul(rows, rows, transpose_b=True)
        value = tf.reduce_mean(plain(similarity, *masks(labels), **settings) * upstream)
    gradient = tape.gradient(value, embeddings, unconnected_gradients="zero")
    return float(value), gradient.numpy()


def traced(loss, dtype):
    """`value_and_gradient` of a loss as one graph for batches of all sizes, of 6 dimensions."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], "int64"),
            tf.TensorSpec([None, 6], dtype),
            tf.TensorSpec([None], dtype),
        ]
    )
    def step(labels, embeddings, sample_weight):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(labels, embeddings, sample_weight)
        return value, tape.gradient(value, embeddings)

    def evaluated(labels, embeddings, sample_weight):
        value, gradient = step(labels, embeddings.astype(dtype), sample_weight.astype(dtype))
        return float(value), gradient.numpy().astype("float64")

    return evaluated


def random_batch(rng):
    """Labels and embeddings of 2 to 20 items, some of them exact duplicates within and across
    classes."""
    size = int(rng.choice([2, 4, 7, 10, 15, 20]))
    labels = rng.integers(rng.integers(1, 3 + size // 3), size=size)
    embeddings = rng.normal(size=(9, 6))[labels] + rng.normal(size=(size, 6))
    if rng.random() < 0.4 and size > 5:
        embeddings[: size // 3] = embeddings[rng.integers(size, size=size // 3)]
    return labels, embeddings


def over_duplicates(embeddings, gradient):
    """The gradient summed over rows of equal embeddings: which of two exact duplicates a maximum
    picks is a matter of rounding."""
    _, group = np.unique(embeddings, axis=0, return_inverse=True)
    total = np.zeros_like(gradient)
    np.add.at(total, group.reshape(-1), gradient)
    return total


def random_pairs(rng, tied=False):
    """A symmetric matrix of similarities with its masks; `tied` on a grid of 0.2, most of them
    equal to others."""
    labels, embeddings = random_batch(rng)
    similarity = oracles.similarities(embeddings)
    similarity = np.clip((similarity + similarity.T) / 2, -1, 1)
    return (np.round(similarity * 5) / 5 if tied else similarity), *masks(labels)


ONES = np.ones((8, 4))
RANDOM = np.random.default_rng(0).normal(size=(8, 4))
# labels, embeddings
DEGENERATE = {
    "one class": ([3] * 6, RANDOM[:6]),
    "all singletons": (range(6), RANDOM[:6]),
    "one image": ([0], ONES[:1]),
    "one image each": ([0, 1], RANDOM[:2]),
    "collapsed": ([0] * 4 + [1] * 4, ONES / 2),
    "zero vectors": ([0] * 4 + [1] * 4, ONES * 0),
    "one pair of each kind": ([0, 0, 1], RANDOM[:3]),
    "opposite duplicates": ([0, 0, 1, 1], [[1.0, 0], [-1, 0], [1, 0], [-1, 0]]),
}
# XLA compiles a program for each shape: of those, two
degenerate_compiled_or_not = pytest.mark.parametrize(
    "name, compiled",
    [
        *((name, False) for name in DEGENERATE),
        *((name, True) for name in ("one image", "collapsed", "zero vectors")),
    ],
)
