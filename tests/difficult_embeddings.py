"""Embeddings whose ranks hang on rounding, and products that round in ways of their own."""

import numpy as np

from keras_ms.evaluation.exact_similarity import rounding_bound

DIFFICULT = ("random", "clustered", "duplicates", "nearly collapsed", "collapsed", "few classes")


def difficult(kind, seed, num_rows=150, dimension=70):
    """(embeddings, labels): float32 (num_rows, dimension) and int64 (num_rows,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3 if kind == "few classes" else num_rows // 6, num_rows)
    noise = rng.standard_normal((num_rows, dimension))
    embeddings = {
        "random": noise,
        "clustered": rng.standard_normal((num_rows, dimension))[labels] + noise,
        "duplicates": noise[rng.integers(0, num_rows // 4, num_rows)],
        # gaps of similarities about the width of a tie, and of float32's rounding
        "nearly collapsed": 1 + 2e-3 * noise,
        "collapsed": np.ones((num_rows, dimension)) * rng.uniform(0.1, 9.0, (num_rows, 1)),
        "few classes": noise,
    }[kind]
    return embeddings.astype(np.float32), labels


def noisy_product(a, b, rng):
    """float32 similarities that are off by up to what a float32 product may be off by."""
    # the rest is left to the last rounding, to float32
    most = rounding_bound(a.shape[1]) - 2.0**-23
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    return (exact + most * rng.choice([-1.0, -0.5, 0.5, 1.0], exact.shape)).astype(np.float32)
