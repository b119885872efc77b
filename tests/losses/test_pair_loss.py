"""The losses inside Keras: fit in every mode, masks, weights, saved models, wrong inputs."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

import keras_ms  # noqa: F401  (registers the losses)
from keras_ms.losses.multi_similarity import PRESETS, MultiSimilarityLoss

OFFICIAL = PRESETS["official"]


def data(size=30, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    return rng.normal(size=(size, 6)).astype(np.float32), labels


def model(dtype=None):
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, dtype=dtype)])


def compiled(weights=None, dtype=None, **options):
    built = model(dtype)
    if weights is not None:
        built.set_weights(weights)
    built.compile(keras.optimizers.SGD(0.1), loss=MultiSimilarityLoss(), **options)
    built.optimizer.build(built.trainable_variables)  # else fit traces its step twice
    return built


@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]
)
def test_fit_takes_the_oracles_step_in_every_mode(options):
    inputs, labels = data()
    trained = compiled(**options)
    kernel, bias = trained.get_weights()
    _, gradient = oracles.multi_similarity(inputs @ kernel + bias, labels, **OFFICIAL)
    trained.fit(inputs, labels, batch_size=30, epochs=1, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        trained.get_weights()[0], kernel - 0.1 * inputs.T @ gradient, atol=2e-6
    )


def test_fit_with_a_partial_last_batch_and_validation():
    inputs, labels = data(size=45)
    trained = compiled(jit_compile=True)
    history = trained.fit(
        inputs, labels[:, None], batch_size=25, validation_data=data(20), epochs=2, verbose=0
    ).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["val_loss"]).all()
    assert history["loss"][1] != history["loss"][0]


def test_class_weight_weighs_anchors():
    inputs, labels = data()
    trained = compiled()
    kernel, bias = trained.get_weights()
    class_weight = {0: 0.0, 1: 2.0, 2: 1.0, 3: 0.5, 4: 3.0}
    weights = np.array([class_weight[label] for label in labels])
    value, gradient = oracles.multi_similarity(
        inputs @ kernel + bias, labels, **OFFICIAL, anchor_weights=weights
    )
    history = trained.fit(
        inputs, labels, batch_size=30, class_weight=class_weight, shuffle=False, verbose=0
    ).history
    assert history["loss"][0] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(
        trained.get_weights()[0], kernel - 0.1 * inputs.T @ gradient, atol=3e-6
    )


@pytest.mark.parametrize(
    "policy, jit_compile",
    [("mixed_float16", True), ("mixed_float16", False), ("mixed_bfloat16", True)],
)
def test_fit_in_mixed_precision(policy, jit_compile):
    inputs, labels = data()
    trained = compiled(dtype=policy, jit_compile=jit_compile)
    kernel, bias = trained.get_weights()
    expected, _ = oracles.multi_similarity(inputs @ kernel + bias, labels, **OFFICIAL)
    losses = trained.fit(inputs, labels, batch_size=30, epochs=5, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(expected, rel=0.02)
    assert losses[-1] < losses[0]


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class SkipZeroRows(keras.layers.Layer):
    """Masks the items whose first feature is 0."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True

    def call(self, inputs):
        return inputs

    def compute_mask(self, inputs, mask=None):
        return keras.ops.not_equal(inputs[:, 0], 0.0)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_masked_items_take_no_part(jit_compile):
    inputs, labels = data()
    padded = np.concatenate([inputs, np.zeros((7, 6), np.float32)])[np.r_[30:33, :30, 33:37]]
    padded_labels = np.concatenate([labels, np.zeros(7, int)])[np.r_[30:33, :30, 33:37]]

    source = keras.Input((6,))
    masked = keras.Model(source, keras.layers.Dense(4)(SkipZeroRows()(source)))
    masked.layers[-1].supports_masking = True
    kernel, bias = masked.get_weights()
    masked.compile(keras.optimizers.SGD(0.1), MultiSimilarityLoss(), jit_compile=jit_compile)

    value, gradient = oracles.multi_similarity(inputs @ kernel + bias, labels, **OFFICIAL)
    history = masked.fit(padded, padded_labels, batch_size=37, shuffle=False, verbose=0).history
    assert history["loss"][0] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(
        masked.get_weights()[0], kernel - 0.1 * inputs.T @ gradient, atol=2e-6
    )


def test_broken_padding_is_harmless():
    embeddings, labels = data(12)
    mask = np.arange(12) < 9
    expected, _ = oracles.multi_similarity(embeddings[:9], labels[:9], **OFFICIAL)
    embeddings[9:] = np.nan
    tensor = keras.ops.convert_to_tensor(embeddings)
    tensor._keras_mask = keras.ops.convert_to_tensor(mask)
    assert float(MultiSimilarityLoss()(labels, tensor)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_padding_does_not_count_whatever_the_dtype(dtype):
    embeddings, labels = data(12)
    mask = keras.ops.convert_to_tensor(np.arange(12) < 9)
    tensor = keras.ops.convert_to_tensor(embeddings, dtype=dtype)
    expected = float(MultiSimilarityLoss()(labels[:9], tensor[:9]))
    tensor._keras_mask = mask
    assert float(MultiSimilarityLoss()(labels, tensor)) == pytest.approx(expected, rel=1e-5)


def in_a_fresh_process(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_compiled_model_reloads_after_importing_keras_ms(tmp_path):
    inputs, labels = data()
    saved = model()
    saved.compile("adam", MultiSimilarityLoss.from_preset("paper", epsilon=0.2))
    expected = saved.evaluate(inputs, labels, batch_size=30, verbose=0)
    saved.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=labels)
    printed = in_a_fresh_process(
        f"""
        import keras, numpy, keras_ms
        data = numpy.load({str(tmp_path / "data.npz")!r})
        model = keras.models.load_model({str(tmp_path / "model.keras")!r})
        assert (model.loss.beta, model.loss.epsilon) == (50.0, 0.2)
        print(repr(model.evaluate(data["inputs"], data["labels"], batch_size=30, verbose=0)))
        """
    )
    assert float(printed) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_low_precision_defaults_leave_the_loss_in_float32(floatx):
    embeddings, labels = data()
    expected = float(MultiSimilarityLoss()(labels, embeddings))
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        loss = MultiSimilarityLoss()
        assert loss.dtype == "float32"
        assert float(loss(labels, embeddings)) == expected
    finally:
        keras.config.set_floatx(before)


EMBEDDINGS = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    "labels, embeddings, message",
    [
        ([0.0, 0.0, 1.0, 1.0], EMBEDDINGS, r"labels of dtype float64 and shape \(4,\)"),
        (np.eye(4), EMBEDDINGS, r"one-hot labels pass argmax"),
        (np.eye(4, dtype=int), EMBEDDINGS, r"shape=\(4, 4\). For one-hot labels"),
        (["a", "a", "b", "b"], EMBEDDINGS, "labels of dtype string"),
        ([True, True, False, False], EMBEDDINGS, "labels of dtype bool"),
        (3, EMBEDDINGS, r"Expected class ids of shape \(batch,\) or \(batch, 1\)"),
        (np.zeros((4, 1, 1), int), EMBEDDINGS, r"shape=\(4, 1, 1\)"),
        ([0, 0, 1], EMBEDDINGS, "3 labels and 4 embeddings"),
        ([0, 0, 1, 1], EMBEDDINGS[None], r"Expected embeddings of shape.*shape=\(1, 4, 4\)"),
        ([0, 0, 1, 1], EMBEDDINGS[0], r"Expected embeddings of shape.*shape=\(4,\)"),
    ],
)
def test_wrong_inputs(labels, embeddings, message):
    with pytest.raises(ValueError, match=message):
        MultiSimilarityLoss()(labels, embeddings)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_an_open_dimension_is_named_by_what_depends_on_it(mode):
    embeddings = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    labels = np.array([0, 0, 1, 1, 2, 2])

    def traced(loss, known=None):
        kinds = [tf.TensorSpec((None, None), tf.float32), tf.TensorSpec((None,), tf.int64)]

        @tf.function(input_signature=kinds, jit_compile=mode == "xla")
        def step(rows, ids):
            rows.set_shape((None, known))
            return loss(ids, rows)

        return float(step(embeddings, labels))

    with pytest.raises(ValueError, match=r"MarginLoss depends.*known dimension.*set_shape"):
        traced(keras_ms.MarginLoss())
    size = embeddings.shape[1]
    for loss, known in ((keras_ms.MarginLoss(), size), (keras_ms.ContrastiveLoss(), None)):
        assert traced(loss, known) == pytest.approx(float(loss(labels, embeddings)), rel=1e-5)


@pytest.mark.parametrize("kind", ["complex64", "complex128"])
def test_complex_embeddings_are_refused(kind):
    rows, labels = np.ones((4, 3), kind), np.array([0, 0, 1, 1])
    losses = keras_ms.MultiSimilarityLoss(), keras_ms.NPairLoss(), keras_ms.ProxyNCALoss()
    for take in (
        *losses,
        keras_ms.MinedAnchors(),
        lambda y, x: keras_ms.Proxies(3)(x),
        lambda y, x: keras_ms.pair_weights(keras_ms.ContrastiveLoss(), x, y),
    ):
        for given in (rows, tf.constant(rows)):
            with pytest.raises(ValueError, match=f"embeddings of real numbers.*{kind}"):
                take(labels, given)
    for loss in losses:
        with pytest.raises(ValueError, match=f"embeddings of real numbers.*{kind}"):
            tf.function(loss)(labels, tf.constant(rows))
    with pytest.raises((ValueError, TypeError)):
        losses[0](labels, rows.tolist())
