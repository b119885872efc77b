"""Batches of random and degenerate shapes, labels, values and dtypes through every loss."""

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tortures.processes import apart

import keras_ms
from keras_ms.losses.proxies import Proxies
from keras_ms.run.losses import named_loss, pair_loss_names

# few shapes: TensorFlow compiles for each
_BATCHES, _DIMENSIONS = (1, 2, 3, 6, 16), (1, 2, 8)
_LABELS = (
    "random", "one class", "all different", "pairs", "negative", "huge", "unsigned", "column",
)  # fmt: skip
_VALUES = (
    "random", "unit", "equal", "opposite", "zero", "one zero row", "tiny", "large", "collinear",
    "nan", "infinite",
)  # fmt: skip
_DTYPES = ("float32", "float32", "float32", "float64", "float16", "bfloat16")


def cases(place, seed, short):
    warnings.filterwarnings("ignore", category=UserWarning)  # of a loss of 0, as is expected here
    count, size = (500, 500) if short else (10_000, 1000)
    for first in range(0, count, size):
        yield (
            f"batches {first:,} to {first + size:,}",
            lambda first=first: apart(_group, size, seed, first),
        )
    for name in ("ProxyNCALoss", "ProxyAnchorLoss"):
        number = 10 if short else 100
        yield (
            name,
            lambda name=name, number=number: apart(_proxies, getattr(keras_ms, name), number, seed),
        )


def _group(size, seed, first):
    losses = {name: named_loss(name, jit_compile=False) for name in pair_loss_names()}
    rng, pick = np.random.default_rng([seed, first]), random.Random(f"{seed} {first}")
    for _ in range(size):
        choices: list[Sequence[Any]] = [
            list(losses),
            _LABELS,
            _VALUES,
            _DTYPES,
            _BATCHES,
            _DIMENSIONS,
        ]
        drawn = name, labels, values, dtype, rows, columns = [pick.choice(each) for each in choices]
        embeddings = tf.cast(_embeddings(values, rng, rows, columns), dtype)
        fault = _fault(losses[name], _ids(labels, rng, rows), embeddings)
        if fault:
            return size, f"{drawn}: {fault}"
    return size, ""


def _fault(loss, ids, embeddings):
    finite = bool(np.isfinite(np.asarray(tf.cast(embeddings, "float64"))).all())
    try:
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(ids, embeddings)
        gradient = tape.gradient(value, embeddings)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if not finite:
        # what is broken stays visible
        return "" if not np.isfinite(float(value)) else f"{float(value)} of embeddings of NaN"
    if not np.isfinite(float(value)):
        return f"a loss of {float(value)}"
    gradient = np.zeros(1) if gradient is None else np.asarray(tf.cast(gradient, "float64"))
    return "" if np.isfinite(gradient).all() else "a gradient that is not finite"


def _ids(kind, rng, rows):
    ids = {
        "random": rng.integers(0, 4, rows),
        "one class": np.full(rows, 7),
        "all different": np.arange(rows),
        "pairs": np.arange(rows) // 2,
        "negative": -rng.integers(0, 3, rows),
        "huge": 2**62 + rng.integers(0, 3, rows),
        "unsigned": rng.integers(0, 3, rows).astype("uint8"),
        "column": rng.integers(0, 3, (rows, 1)),
    }
    return ids[kind]


def _embeddings(kind, rng, rows, columns):
    embeddings = rng.normal(size=(rows, columns))
    if kind == "unit":
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    elif kind in ("equal", "opposite", "collinear"):
        factors = {"equal": np.ones(rows), "opposite": (-1.0) ** np.arange(rows),
                   "collinear": rng.normal(size=rows)}[kind]  # fmt: skip
        embeddings = embeddings[:1] * factors[:, None]
    elif kind in ("zero", "tiny", "large"):
        embeddings *= {"zero": 0.0, "tiny": 1e-4, "large": 1e3}[kind]
    elif kind != "random":
        value = {"one zero row": 0, "nan": np.nan, "infinite": np.inf}[kind]
        embeddings[rng.integers(rows)] = value
    return embeddings


def _proxies(kind, number, seed):
    rng = np.random.default_rng(seed)
    loss, proxies = kind(), Proxies(4)
    for _ in range(number):
        values = _VALUES[rng.integers(len(_VALUES))]
        rows = int(rng.choice(_BATCHES))
        embeddings = tf.cast(_embeddings(values, rng, rows, 8), "float32")
        ids = rng.integers(0, 4, rows)
        fault = _fault(lambda y, x: loss(y, proxies(x)), ids, embeddings)
        if fault:
            return number, f"{values}, {rows} rows: {fault}"
    return number, ""
