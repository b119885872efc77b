"""Cross-batch memory: what is compared and what is remembered, in every mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from small_memory import RATE, data, memory_model

import keras_ms
from keras_ms.losses.multi_similarity import MultiSimilarityLoss
from keras_ms.models.cross_batch_memory import CrossBatchMemory

SEPARABLE = (
    "BinomialDevianceLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "SupervisedContrastiveLoss",
    "TripletLoss",
)


def dense_rows(loss, labels, embeddings, size):
    """The first `size` anchors' values within one batch of all."""
    values = loss.per_anchor(loss.label_keys(labels, embeddings), embeddings)
    return ops.convert_to_numpy(values)[:size]


class Literal:
    """Training with a list as the memory and the plain loss on batch and memory put together."""

    def __init__(self, kernel, bias, memory_size, loss=None):
        self.kernel, self.bias = tf.Variable(kernel), tf.Variable(bias)
        self.memory_size, self.loss, self.memory = memory_size, loss or MultiSimilarityLoss(), []

    def step(self, inputs, labels, sample_weight=None, use_memory=True):
        past = self.memory if use_memory else []
        with tf.GradientTape() as tape:
            own = inputs @ self.kernel + self.bias
            rows = tf.concat([own, *[row[None] for row, _ in past]], axis=0)
            ids = np.array([*labels, *[label for _, label in past]])
            values = self.loss.per_anchor(self.loss.label_keys(ids, rows), rows)[: len(labels)]
            weights = 1.0 if sample_weight is None else sample_weight
            value = tf.reduce_sum(values * weights) / len(labels)
        for variable, gradient in zip(
            (self.kernel, self.bias), tape.gradient(value, (self.kernel, self.bias))
        ):
            variable.assign_sub(RATE * gradient)
        self.memory = (self.memory + list(zip(own, labels)))[-self.memory_size :]
        return float(value)

    def stored(self):
        return np.array([row for row, _ in self.memory])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"jit_compile": True}, marks=[pytest.mark.slow, pytest.mark.release]),
        {"jit_compile": False},
        pytest.param({"run_eagerly": True}, marks=[pytest.mark.slow, pytest.mark.release]),
    ],
)
def test_fit_takes_the_literal_steps_in_every_mode(options):
    """Batches of 12, 12 and 8, then 12, 12 and 8 again, with a memory of 25: it fills, moves on by
    odd numbers of items, and the gradient sees it as a constant."""
    inputs, labels = data(32)
    weights = np.linspace(0, 2, 32).astype(np.float32)
    model = memory_model(25, **options)
    literal = Literal(*model.get_weights()[3:], memory_size=25)
    for _ in range(2):
        history = model.fit(
            inputs, labels, batch_size=12, sample_weight=weights, shuffle=False, verbose=0
        ).history
        parts = [slice(0, 12), slice(12, 24), slice(24, 32)]
        values = [literal.step(inputs[p], labels[p], weights[p]) for p in parts]
        mean = np.average(values, weights=[12, 12, 8])
        assert history["loss"][0] == pytest.approx(mean, rel=1e-5)
    np.testing.assert_allclose(model.get_weights()[3], literal.kernel, atol=2e-6)
    np.testing.assert_allclose(model.memory_embeddings, literal.stored(), atol=5e-6)
    assert model.memory_keys[:, -1].numpy().all() and int(model.steps.numpy()) == 6


@pytest.mark.parametrize("name", SEPARABLE)
def test_values_are_the_anchors_rows_of_the_dense_loss(name):
    loss = getattr(keras_ms, name)()
    inputs, labels = data(60)
    model = memory_model(40, loss=loss)
    model.optimizer.learning_rate = 0.0
    model.fit(inputs, labels, batch_size=20, shuffle=False, verbose=0)
    embeddings = model.predict(inputs, verbose=0)
    batch = slice(20, 30)
    rows = np.concatenate([embeddings[batch], embeddings[20:]])  # the memory holds the last 40
    expected = dense_rows(loss, np.concatenate([labels[batch], labels[20:]]), rows, 10)
    value = model.compute_loss(inputs[batch], labels[batch], ops.array(embeddings[batch]))
    assert float(value) == pytest.approx(expected.mean(), rel=1e-5)
    alone = float(loss(labels[batch], embeddings[batch]))
    assert abs(float(value) - alone) > 1e-4  # the memory does matter


def test_no_image_meets_its_own_copy():
    """In the first step there is nothing but the batch; a single image has no pair at all."""
    model = memory_model(10)
    inputs, labels = data(1)
    value = model.compute_loss(inputs, labels, ops.array(model.predict(inputs, verbose=0)))
    assert float(value) == 0.0
    assert model.memory_keys.numpy()[:, -1].tolist() == [0.0] * 9 + [1.0]


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_batch_larger_than_the_memory_leaves_its_last_items(jit_compile):
    inputs, labels = data(20)
    model = memory_model(7, jit_compile=jit_compile)
    before = model.predict(inputs, verbose=0)
    model.fit(inputs, labels, batch_size=20, shuffle=False, verbose=0)
    np.testing.assert_allclose(model.memory_embeddings, before[-7:], atol=1e-6)
    assert model.memory_keys.numpy()[:, 0].tolist() == labels[-7:].tolist()


@pytest.mark.parametrize("jit_compile", [True, False])
def test_warm_up_fills_the_memory_and_uses_the_batch_alone(jit_compile):
    inputs, labels = data(30)
    model = memory_model(25, warm_up_steps=2, jit_compile=jit_compile)
    literal = Literal(*model.get_weights()[3:], memory_size=25)
    model.fit(inputs, labels, batch_size=10, shuffle=False, verbose=0)
    for step in range(3):
        part = slice(10 * step, 10 * step + 10)
        literal.step(inputs[part], labels[part], use_memory=step >= 2)
    np.testing.assert_allclose(model.get_weights()[3], literal.kernel, atol=2e-6)
    np.testing.assert_allclose(model.memory_embeddings, literal.stored(), atol=5e-6)


def test_evaluation_uses_the_batch_alone_and_changes_nothing():
    inputs, labels = data(40)
    model = memory_model(25)
    model.fit(inputs[:20], labels[:20], batch_size=20, verbose=0)
    before = model.get_weights()
    embeddings = model.predict(inputs[20:], verbose=0)
    value = model.evaluate(inputs[20:], labels[20:], batch_size=20, verbose=0)
    assert value == pytest.approx(float(MultiSimilarityLoss()(labels[20:], embeddings)), rel=1e-5)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("jit_compile", [True, False])
def test_ids_that_float32_confuses_stay_apart_across_steps(jit_compile):
    inputs, labels = data(40)
    losses_of = []
    for first_id in (0, -(2**40)):
        model = memory_model(25, jit_compile=jit_compile)
        history = model.fit(
            inputs, labels + first_id, batch_size=10, shuffle=False, verbose=0, epochs=2
        ).history
        losses_of.append(history["loss"])
    assert losses_of[0] == losses_of[1]


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_broken_embedding_does_not_enter(jit_compile):
    model = memory_model(25)
    step = tf.function(model.compute_loss, jit_compile=jit_compile)
    inputs, labels = data(20)
    embeddings = model.predict(inputs, verbose=0)
    embeddings[3], embeddings[5, 0] = np.nan, np.inf
    assert np.isnan(step(None, labels[:10], tf.constant(embeddings[:10])))
    valid = np.array([i not in (3, 5) for i in range(10)])
    assert np.isfinite(model.memory_embeddings.numpy()).all()
    assert model.memory_keys.numpy()[-10:, -1].tolist() == valid.tolist()
    # the next step is that of a memory without them
    rows = np.concatenate([embeddings[10:], embeddings[:10][valid]])
    ids = np.concatenate([labels[10:], labels[:10][valid]])
    expected = dense_rows(MultiSimilarityLoss(), ids, rows, 10).mean()
    with tf.GradientTape() as tape:
        own = tf.constant(embeddings[10:])
        tape.watch(own)
        value = step(None, labels[10:], own)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(tape.gradient(value, own)).all()


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class SkipZeros(keras.layers.Layer):
    """Masks the items whose first feature is 0."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True

    def call(self, inputs):
        return inputs

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs[:, 0], 0.0)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_masked_items_enter_as_invalid(jit_compile):
    inputs, labels = data(12)
    inputs[[2, 7]] = 0.0
    source = keras.Input((6,))
    dense = keras.layers.Dense(4)
    dense.supports_masking = True
    model = CrossBatchMemory(
        keras.Model(source, dense(SkipZeros()(source))), MultiSimilarityLoss(), 20
    )
    model.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    history = model.fit(inputs, labels, batch_size=12, shuffle=False, verbose=0).history
    kept = np.delete(np.arange(12), [2, 7])
    embeddings = inputs[kept] @ dense.kernel.numpy()
    expected = float(MultiSimilarityLoss()(labels[kept], embeddings))
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert np.flatnonzero(model.memory_keys.numpy()[-12:, -1]).tolist() == kept.tolist()


@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
def test_reductions_are_those_of_the_loss(reduction):
    inputs, labels = data(20)
    weights = np.linspace(0.1, 2, 20).astype(np.float32)
    model = memory_model(10, loss=MultiSimilarityLoss(reduction=reduction))
    embeddings = ops.array(model.predict(inputs, verbose=0))
    value = model.compute_loss(inputs, labels, embeddings, weights)  # the memory is empty yet
    expected = MultiSimilarityLoss(reduction=reduction)(labels, embeddings, weights)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)


def test_reset_memory():
    inputs, labels = data(20)
    model = memory_model(25)
    model.fit(inputs, labels, batch_size=10, verbose=0)
    model.reset_memory()
    assert not model.memory_embeddings.numpy().any() and not model.memory_keys.numpy().any()
    embeddings = ops.array(model.predict(inputs, verbose=0))
    value = model.compute_loss(inputs, labels, embeddings)
    assert float(value) == pytest.approx(float(MultiSimilarityLoss()(labels, embeddings)), rel=1e-5)
