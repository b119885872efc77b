"""The cross-batch memory as a Keras model: precision, saved and resumed, exported, refusals."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from small_memory import RATE, data, embedder, memory_model

import keras_ms
from keras_ms.losses.multi_similarity import MultiSimilarityLoss
from keras_ms.losses.pair_loss import PairLoss
from keras_ms.models.cross_batch_memory import CrossBatchMemory


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


@pytest.mark.slow
@pytest.mark.release
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


@pytest.mark.slow
@pytest.mark.release
def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path):
    inputs, labels = data(40)

    def run(model, epochs, first=0, callbacks=()):
        model.fit(
            inputs, labels, batch_size=15, shuffle=False, verbose=0,
            epochs=epochs, initial_epoch=first, callbacks=list(callbacks),
        )  # fmt: skip

    def build():
        model = CrossBatchMemory(embedder(3), MultiSimilarityLoss(), 25, warm_up_steps=4)
        model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
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
    loaded.run_eagerly = True
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


@pytest.mark.slow
@pytest.mark.release
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
