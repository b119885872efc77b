"""Short trainings on a few random rows, which the tests of callbacks watch.

What is compiled here without a word on how runs eagerly: tracing its step takes longer than all of
its steps. Tests of the other ways to run give the option.
"""

import keras
import numpy as np

NUM_CLASSES = 8


def rows(num_rows=80, seed=0):
    """Rows whose class shows in few of the directions: a linear map can learn to see it."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) % NUM_CLASSES
    centres = np.random.default_rng(99).standard_normal((NUM_CLASSES, 4))
    images = rng.standard_normal((num_rows, 24)).astype(np.float32)
    images[:, :4] = 0.4 * images[:, :4] + centres[labels]
    return images, labels


IMAGES, LABELS = rows()


def pull_together(y_true, y_pred):
    """Per-anchor loss: softmax over the batch of the similarity to one's own class."""
    unit = keras.ops.normalize(keras.ops.cast(y_pred, "float32"), axis=-1)
    similarity = 8.0 * keras.ops.matmul(unit, keras.ops.transpose(unit))
    labels = keras.ops.reshape(y_true, (-1,))
    same = keras.ops.cast(labels[:, None] == labels[None, :], "float32")
    likelihood = similarity - keras.ops.logsumexp(similarity, axis=1, keepdims=True)
    return -keras.ops.sum(same * likelihood, axis=1) / keras.ops.sum(same, axis=1)


def eagerly_unless(options):
    """The options of `compile`, with run_eagerly=True where they say nothing of it."""
    ways = {"run_eagerly", "jit_compile", "steps_per_execution"}
    return options if ways & set(options) else {**options, "run_eagerly": True}


def embedder(seed=1, **compile_options):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((24,)), keras.layers.Dropout(0.5), keras.layers.Dense(6)])
    compile_options.setdefault("optimizer", keras.optimizers.Adam(0.02))
    model.compile(loss=pull_together, **eagerly_unless(compile_options))
    return model


def fit(model, callbacks, epochs=3, **options):
    return model.fit(
        IMAGES, LABELS, batch_size=16, epochs=epochs, callbacks=callbacks, verbose=0, **options
    ).history
