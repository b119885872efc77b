"""Steps are batches, whatever the optimizer counts."""

import types

import keras
import pytest
import tensorflow as tf
from small_fits import IMAGES, LABELS, embedder, fit, pull_together

from keras_ms.callbacks import RecallAtK
from keras_ms.callbacks.training_steps import optimizer_steps


def test_counts_batches_where_the_optimizer_is_not_used():
    class OtherOptimizer(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(6)

        def call(self, images):
            return self.dense(images)

        def train_step(self, data):
            return {"loss": keras.ops.mean(self(data[0]))}

    model, recall = OtherOptimizer(), RecallAtK((IMAGES, LABELS), every_steps=3)
    model.compile(run_eagerly=True)
    fit(model, [recall], epochs=3)
    assert [step for step, _ in recall.history] == [0, 3, 6, 9, 12, 15]


def test_steps_of_models_with_optimizers_by_name():
    model = types.SimpleNamespace(optimizers={"a": keras.optimizers.Adam(), "b": None})
    assert optimizer_steps(model) == 0
    model.optimizers["a"].iterations.assign(3)
    assert optimizer_steps(model) == 3


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=4),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)),
    ],
    ids=["accumulated", "scaled loss"],
)
def test_steps_are_batches_whatever_the_optimizer_counts(optimizer):
    model = embedder(optimizer=optimizer())
    recall = RecallAtK((IMAGES, LABELS), every_steps=1)
    fit(model, [recall], epochs=2)  # 5 batches each
    assert [step for step, _ in recall.history] == list(range(11))
    # one that has counted nothing
    model.compile(keras.optimizers.SGD(0.01), pull_together, run_eagerly=True)
    fit(model, [recall], epochs=1)
    assert recall.step == recall.history[-1][0] == 15


def test_steps_rise_where_fit_does_not_know_the_number_of_batches():
    def batches():
        yield from ((IMAGES[start : start + 16], LABELS[start : start + 16])
                    for start in range(0, 80, 16))  # fmt: skip

    data = tf.data.Dataset.from_generator(
        batches, output_signature=(tf.TensorSpec((16, 24)), tf.TensorSpec((16,), tf.int64))
    )
    recall = RecallAtK((IMAGES, LABELS))
    embedder(jit_compile=False).fit(data, epochs=2, callbacks=[recall], verbose=0)
    first, second, third = (step for step, _ in recall.history)
    # the optimizer tells them, and may count the step that found no batch
    assert (first, second) in ((0, 5), (0, 6)) and third > second
