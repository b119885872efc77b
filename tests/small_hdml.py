"""HDML on a few random features, compiled with small rates."""

import keras
import numpy as np
from small_fits import eagerly_unless

import keras_ms
from keras_ms.hdml.model import HDML
from keras_ms.hdml.tuples import NPairTuples, PairTuples, TripletTuples

CHANNELS, DIMENSION = 5, 3


def head(dtype="float32", seed=0, channels=CHANNELS, **options):
    """As `split_embedder` gives it."""
    features = keras.Input((channels,), name="features", dtype=dtype)
    initializer = keras.initializers.RandomNormal(stddev=0.6, seed=seed)
    linear = keras.layers.Dense(
        DIMENSION, kernel_initializer=initializer, dtype=dtype, name="embedding", **options
    )
    return keras.Model(
        features, keras.layers.UnitNormalization(dtype=dtype, name="l2")(linear(features))
    )


def data(per_class=2, classes=4, seed=0, dtype="float32"):
    return data_of(np.repeat(np.arange(classes), per_class), seed, dtype)


def data_of(labels, seed=0, dtype="float32"):
    """Features and the labels, in another order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(labels)
    centres = rng.normal(size=(labels.max() + 1, CHANNELS))
    return (centres[labels] + 0.7 * rng.normal(size=(labels.size, CHANNELS))).astype(dtype), labels


TUPLES = {
    "n_pair": (lambda: NPairTuples(0.05), {"regularization": 0.05}),
    "triplet": (lambda: TripletTuples(0.7), {"margin": 0.7}),
    "pairs": (
        lambda: PairTuples(keras_ms.MultiSimilarityLoss(dtype="float64"), 3),
        {"negatives_per_anchor": 3},
    ),
}


def model_of(kind="n_pair", mode="paper", dtype="float32", rate=0.05, seed=0, **options):
    keras.utils.set_random_seed(seed)
    ways = ("jit_compile", "run_eagerly")
    compile_options = eagerly_unless({way: options.pop(way) for way in ways if way in options})
    model = HDML(head(dtype), 4, TUPLES[kind][0](), mode, **{"beta": 50.0, **options})
    model.compile(
        keras.optimizers.SGD(rate),
        generator_optimizer=keras.optimizers.SGD(rate * 1e-3),
        classifier_optimizer=keras.optimizers.SGD(rate),
        **compile_options,
    )
    return model
