"""Cross-batch memory: what is compared, what is remembered, in every mode, saved and resumed."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_ms
from keras_ms.losses.multi_similarity import MultiSimilarityLoss
from keras_ms.losses.pair_loss import PairLoss
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
    model.compile(keras.optimizers.SGD(RATE), **compile_options)
    return model


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
    "options", [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]
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


def test_regularisation_and_metrics_as_in_any_model():
    inputs, labels = data(10)
    regularizer = keras.regularizers.L2(0.5)

    def mean_norm(y_true, y_pred):
        return ops.norm(y_pred, axis=-1) + 0.0 * ops.cast(ops.reshape(y_true, (-1,)), y_pred.dtype)

    model = CrossBatchMemory(embedder(kernel_regularizer=regularizer), MultiSimilarityLoss(), 20)
    model.compile(keras.optimizers.SGD(0.0), metrics=[mean_norm])
    history = model.fit(inputs, labels, batch_size=10, verbose=0).history
    embeddings = model.predict(inputs, verbose=0)
    own = float(MultiSimilarityLoss()(labels, embeddings))
    kernel = model.embedder.layers[-1].kernel.numpy()
    assert history["loss"][0] == pytest.approx(own + 0.5 * np.sum(kernel**2), rel=1e-5)
    norms = np.linalg.norm(embeddings, axis=1)
    assert history["mean_norm"][0] == pytest.approx(norms.mean(), rel=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_remembers_in_float32(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = CrossBatchMemory(
            embedder(dtype="float32"), MultiSimilarityLoss(), 25, warm_up_steps=1
        )
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.SGD(RATE), jit_compile=True)
    inputs, labels = data(30)
    inputs *= 1e5  # beyond float16: the memory model must not cast the embedder's inputs
    history = model.fit(inputs, labels, batch_size=10, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.memory_embeddings.dtype == "float32"
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )


def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path):
    inputs, labels = data(40)

    def run(model, epochs, first=0, callbacks=()):
        model.fit(
            inputs, labels, batch_size=15, shuffle=False, verbose=0,
            epochs=epochs, initial_epoch=first, callbacks=list(callbacks),
        )  # fmt: skip

    def build():
        model = CrossBatchMemory(embedder(3), MultiSimilarityLoss(), 25, warm_up_steps=4)
        model.compile(keras.optimizers.Adam(0.01))
        return model

    whole = build()
    run(whole, 4)

    class Interrupted(RuntimeError):
        pass

    def interrupt(epoch, logs):
        if epoch == 2:
            raise Interrupted

    stop = keras.callbacks.LambdaCallback(on_epoch_end=interrupt)
    with pytest.raises(Interrupted):
        run(build(), 4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "a"), stop])
    resumed = build()
    run(resumed, 4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "a")])

    half = build()
    run(half, 2)
    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert (loaded.memory_size, loaded.warm_up_steps, loaded.loss.beta) == (25, 4, 40.0)
    run(loaded, 4, first=2)

    half.save_weights(tmp_path / "half.weights.h5")
    weights = build()
    weights.load_weights(tmp_path / "half.weights.h5")
    for a, b in zip(half.get_weights(), weights.get_weights()):
        np.testing.assert_array_equal(a, b)

    for model in (resumed, loaded):
        for a, b in zip(whole.get_weights(), model.get_weights()):
            np.testing.assert_array_equal(a, b)


def test_reset_memory():
    inputs, labels = data(20)
    model = memory_model(25)
    model.fit(inputs, labels, batch_size=10, verbose=0)
    model.reset_memory()
    assert not model.memory_embeddings.numpy().any() and not model.memory_keys.numpy().any()
    embeddings = ops.array(model.predict(inputs, verbose=0))
    value = model.compute_loss(inputs, labels, embeddings)
    assert float(value) == pytest.approx(float(MultiSimilarityLoss()(labels, embeddings)), rel=1e-5)


def test_exports_are_the_embedders(tmp_path):
    inputs, labels = data(20)
    model = memory_model(500)
    model.fit(inputs, labels, batch_size=10, verbose=0)
    expected = model.embedder.predict(inputs, verbose=0)
    assert keras_ms.export_saved_model(model, tmp_path / "by_keras_ms") == 0
    model.export(tmp_path / "by_keras", verbose=False)
    for folder in ("by_keras_ms", "by_keras"):
        served = tf.saved_model.load(str(tmp_path / folder)).signatures["serving_default"]
        (given,) = served.structured_input_signature[1]
        (output,) = served(**{given: tf.constant(inputs)}).values()
        np.testing.assert_allclose(output, expected, atol=1e-6)
    assert model.output_shape == (None, 4) and model.compute_output_shape((7, 6)) == (7, 4)


def test_uint8_images_reach_the_embedder_as_they_are():
    source = keras.Input((6,), dtype="uint8")
    inner = keras.Model(source, keras.layers.Dense(4)(keras.layers.Rescaling(1 / 255)(source)))
    model = CrossBatchMemory(inner, MultiSimilarityLoss(), 10)
    images = np.arange(12, dtype=np.uint8).reshape(2, 6)
    np.testing.assert_array_equal(model(images), inner(images))
    assert model.inputs[0].dtype == "uint8"


def test_recall_is_measured_on_its_embeddings():
    inputs, labels = data(20)
    model = memory_model(25)
    recall = keras_ms.RecallAtK((inputs, labels), ks=(1,))
    history = model.fit(inputs, labels, batch_size=10, callbacks=[recall], verbose=0).history
    expected = keras_ms.recall_at_k(model.embedder.predict(inputs, verbose=0), labels, (1,))
    assert history["val_recall@1"] == [expected[1]]


def two_outputs():
    source = keras.Input((6,))
    return keras.Model(source, [keras.layers.Dense(4)(source), keras.layers.Dense(4)(source)])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"memory_size": 0}, "`memory_size` of at least 1, a whole number. Received: 0"),
        ({"memory_size": 2.5}, "Received: 2.5"),
        ({"memory_size": True}, "Received: True"),
        ({"warm_up_steps": -1}, "`warm_up_steps` of at least 0, a whole number"),
        ({"loss": "mse"}, "pair-based loss of keras_ms.*Received: 'mse'"),
        ({"loss": keras.losses.MeanSquaredError()}, "pair-based loss of keras_ms"),
        ({"loss": PairLoss(None, None, whole_batch=True)}, "separable by anchor"),
        ({"loss": MultiSimilarityLoss(reduction=None)}, "reduction=None"),
        ({"loss": MultiSimilarityLoss(block_size=8)}, "without `block_size`.*block_size=8"),
        ({"embedder": "embedder"}, "keras.Model as `embedder`. Received: 'embedder'"),
        ({"embedder": keras.Sequential([keras.layers.Dense(4)])}, "Give the embedder an input"),
        ({"embedder": two_outputs()}, r"one output \(batch, dimension\)"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    good = {"embedder": embedder(), "loss": MultiSimilarityLoss(), "memory_size": 10}
    with pytest.raises(ValueError, match=message):
        CrossBatchMemory(**{**good, **arguments})


def test_a_second_loss_is_refused():
    model = CrossBatchMemory(embedder(), MultiSimilarityLoss(), 10)
    with pytest.raises(ValueError, match="leave it out of `compile`"):
        model.compile("adam", "mse")


def test_several_replicas_are_refused():
    code = """
        import keras, keras_ms, numpy, tensorflow as tf
        from keras_ms.models.cross_batch_memory import CrossBatchMemory
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)

        def build():
            inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
            model = CrossBatchMemory(inner, keras_ms.MultiSimilarityLoss(), 10)
            model.compile("sgd")
            return model

        def refused(function, *arguments):
            try:
                function(*arguments)
            except ValueError as error:
                return "works on one replica" in str(error)

        def step(model):
            rows = tf.ones((4, 4)) * tf.range(1.0, 5.0)[:, None]
            return model.compute_loss(None, tf.constant([0, 0, 1, 1]), rows)

        built_outside = build()
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            print(refused(build), refused(strategy.run, step, (built_outside,)))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=1800
    )
    assert done.stdout.strip().endswith("True True"), done.stderr[-2000:]
