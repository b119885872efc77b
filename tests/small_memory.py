"""A small embedder with a cross-batch memory, and batches for it."""

import keras
import numpy as np
from small_fits import eagerly_unless

from keras_ms.losses.multi_similarity import MultiSimilarityLoss
from keras_ms.models.cross_batch_memory import CrossBatchMemory

RATE = 0.1


def data(size=30, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    return rng.normal(size=(size, 6)).astype(np.float32), labels


def embedder(seed=0, dtype=None, **options):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, dtype=dtype, **options)])


def memory_model(memory_size=25, loss=None, seed=0, warm_up_steps=0, **compile_options):
    model = CrossBatchMemory(
        embedder(seed), loss or MultiSimilarityLoss(), memory_size, warm_up_steps
    )
    model.compile(keras.optimizers.SGD(RATE), **eagerly_unless(compile_options))
    model.optimizer.build(model.trainable_variables)  # else fit traces its step twice
    return model
