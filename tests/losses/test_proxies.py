"""Proxy losses against literal float64 versions; the layer in fit, in every mode, and saved."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_ms.callbacks import RecallAtK
from keras_ms.losses.proxies import Proxies, ProxyAnchorLoss, ProxyNCALoss
from keras_ms.optimizers import GroupedAdam


def literal_similarities(embeddings, proxies):
    def unit(row):
        norm = math.sqrt(sum(v * v for v in row))
        return [v / norm if norm else 0.0 for v in row]

    embeddings, proxies = np.asarray(embeddings, np.float64), np.asarray(proxies, np.float64)
    rows = [[np.dot(unit(x), unit(p)) for p in proxies] for x in embeddings]
    return np.array(rows)


def literal_proxy_nca(similarity, labels, scale=1.0):
    values = []
    for row, own in zip(similarity, labels):
        distances = [2 - 2 * s for s in row]
        others = sum(math.exp(-scale * d) for c, d in enumerate(distances) if c != own)
        values.append(-math.log(math.exp(-scale * distances[own]) / others))
    return values


def literal_proxy_anchor(similarity, labels, alpha=32.0, margin=0.1):
    """Equation 4: one number for the batch."""
    num_classes = similarity.shape[1]
    present = sorted(set(int(label) for label in labels))
    pull = push = 0.0
    for c in range(num_classes):
        own = [row[c] for row, label in zip(similarity, labels) if label == c]
        others = [row[c] for row, label in zip(similarity, labels) if label != c]
        if c in present:
            pull += math.log(1 + sum(math.exp(-alpha * (s - margin)) for s in own))
        push += math.log(1 + sum(math.exp(alpha * (s + margin)) for s in others))
    return pull / len(present) + push / num_classes


LITERAL = {
    "nca": lambda s, y, **settings: float(np.mean(literal_proxy_nca(s, y, **settings))),
    "anchor": literal_proxy_anchor,
}
LOSSES = {"nca": ProxyNCALoss, "anchor": ProxyAnchorLoss}


def data(size=12, classes=5, dimension=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    embeddings = rng.normal(size=(size, dimension)) * 3
    return embeddings.astype(np.float32), labels, rng.normal(size=(classes, dimension))


BATCHES = {
    "random": lambda labels: labels,
    "one class only": np.zeros_like,
    "each class once or never": lambda labels: np.arange(len(labels)) % 5,
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    "kind, settings",
    [
        ("nca", {}),
        ("nca", {"scale": 12.0}),
        ("anchor", {}),
        ("anchor", {"alpha": 4.0, "margin": 0.3}),
    ],
)
def test_values_are_the_oracles(kind, settings, batch):
    embeddings, labels, proxies = data()
    labels = BATCHES[batch](labels)
    similarity = literal_similarities(embeddings, proxies)
    expected = LITERAL[kind](similarity, labels, **settings)
    loss = LOSSES[kind](**settings)
    assert float(loss(labels, similarity.astype(np.float32))) == pytest.approx(expected, rel=1e-5)
    # large exponents are the same formula
    double = LOSSES[kind](**settings, dtype="float64")
    assert float(double(labels[:, None], similarity)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", LITERAL)
@pytest.mark.parametrize("size", [1, 2, 12])
def test_gradients_are_those_of_finite_differences(kind, size):
    embeddings, labels, proxies = data(size)
    layer = Proxies(5, dtype="float64")
    layer.build((None, 4))
    layer.proxies.assign(proxies)
    given = tf.constant(embeddings, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = LOSSES[kind](dtype="float64")(labels, layer(given))
    by_embedding, by_proxy = tape.gradient(value, [given, layer.proxies.value])

    def literal(embeddings, proxies):
        return LITERAL[kind](literal_similarities(embeddings, proxies), labels)

    step = 1e-6
    for which, gradient in ((0, by_embedding.numpy()), (1, by_proxy.numpy())):
        for index in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [embeddings.astype(np.float64), proxies.copy()]
                moved[which][index] += sign * step
                ends.append(literal(*moved))
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


def test_proxy_nca_weighs_each_image():
    embeddings, labels, proxies = data()
    similarity = literal_similarities(embeddings, proxies)
    weights = np.linspace(0, 3, 12)
    expected = np.mean(weights * literal_proxy_nca(similarity, labels))
    value = ProxyNCALoss()(labels, similarity.astype(np.float32), weights)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_proxy_anchor_weighs_a_class_by_the_mean_of_its_images():
    embeddings, labels, proxies = data()
    similarity = literal_similarities(embeddings, proxies)
    weights = np.linspace(0, 3, 12)
    classes = np.unique(labels)
    without = literal_proxy_anchor(similarity, labels, alpha=32.0)
    pull = {}
    for c in classes:  # the loss minus that of a batch in which the class pulls nothing
        own = similarity[labels == c, c]
        pull[c] = math.log(1 + sum(math.exp(-32 * (s - 0.1)) for s in own))
    push = without - sum(pull.values()) / len(classes)
    expected = np.mean(weights) * push
    expected += sum(weights[labels == c].mean() * pull[c] for c in classes) / len(classes)
    value = ProxyAnchorLoss()(labels, similarity.astype(np.float32), weights)
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", LITERAL)
def test_large_exponents_and_collapsed_embeddings_stay_finite(kind):
    settings = {"nca": {"scale": 500.0}, "anchor": {"alpha": 500.0}}[kind]
    layer = Proxies(5)
    for embeddings in (np.ones((6, 4)), np.zeros((6, 4)), np.full((6, 4), 1e30)):
        given = tf.constant(embeddings, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(given)
            value = LOSSES[kind](**settings)(np.arange(6) % 5, layer(given))
        gradients = tape.gradient(value, [given, layer.proxies.value])
        assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("kind", LITERAL)
def test_a_batch_of_no_image_is_0(kind):
    layer = Proxies(5)
    value = LOSSES[kind]()(np.zeros(0, int), layer(np.zeros((0, 4), "float32")))
    assert value.shape == () and float(value) == 0


def test_one_class_has_nothing_to_push():
    value = ProxyAnchorLoss()([0, 0], [[0.5], [0.7]])
    assert float(value) == pytest.approx(math.log1p(math.exp(-12.8) + math.exp(-19.2)), rel=1e-5)
    with pytest.raises(ValueError, match="needs two at least"):
        ProxyNCALoss()([0, 0], [[0.5], [0.7]])


def images(num_classes=5, size=60, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % num_classes
    centres = rng.normal(size=(num_classes, 8))
    return (centres[labels] + 0.5 * rng.normal(size=(size, 8))).astype(np.float32), labels


def models(seed=1, num_classes=5):
    keras.utils.set_random_seed(seed)
    embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    return embedder, keras.Sequential([embedder, Proxies(num_classes)])


@pytest.mark.parametrize(
    "kind, options",
    [
        pytest.param("nca", {"jit_compile": True}, marks=[pytest.mark.slow, pytest.mark.release]),
        pytest.param("nca", {"jit_compile": False}, marks=[pytest.mark.slow, pytest.mark.release]),
        pytest.param("nca", {"run_eagerly": True}, marks=[pytest.mark.slow, pytest.mark.release]),
        pytest.param(
            "anchor", {"jit_compile": True}, marks=[pytest.mark.slow, pytest.mark.release]
        ),
        ("anchor", {"jit_compile": False}),
        pytest.param(
            "anchor", {"run_eagerly": True}, marks=[pytest.mark.slow, pytest.mark.release]
        ),
    ],
)
def test_fit_trains_embedder_and_proxies_in_every_mode(kind, options):
    inputs, labels = images()
    embedder, model = models()
    before = model.get_weights()
    similarity = model.predict(inputs, verbose=0)
    expected = LITERAL[kind](similarity.astype(np.float64), labels)
    model.compile(keras.optimizers.Adam(0.05), loss=LOSSES[kind](), **options)
    model.optimizer.build(model.trainable_variables)  # else fit traces its step twice
    assert model.evaluate(inputs, labels, batch_size=60, verbose=0) == pytest.approx(
        expected, rel=1e-4
    )
    own = similarity[np.arange(60), labels].mean()
    recall = RecallAtK((inputs, labels), ks=(1,), embedder=embedder)
    history = model.fit(
        inputs, labels, batch_size=25, epochs=20, verbose=0, callbacks=[recall]
    ).history  # the last batch holds 10
    assert history["loss"][-1] < history["loss"][0]
    assert model.predict(inputs, verbose=0)[np.arange(60), labels].mean() > own + 0.1
    assert all((a != b).any() for a, b in zip(before, model.get_weights()))
    assert history["val_recall@1"][-1] > 0.5


def test_the_proxies_own_learning_rate():
    """Adam's first step is the learning rate in every coordinate, whatever the gradient."""
    inputs, labels = images()
    embedder, model = models()
    factors = [1.0] * len(embedder.trainable_variables) + [100.0]
    model.compile(GroupedAdam(1e-4, factors), loss=ProxyAnchorLoss())
    kernel, _, proxies = model.get_weights()
    model.fit(inputs, labels, batch_size=60, verbose=0)
    after_kernel, _, after_proxies = model.get_weights()
    np.testing.assert_allclose(np.abs(after_kernel - kernel), 1e-4, rtol=0.05)
    np.testing.assert_allclose(np.abs(after_proxies - proxies), 1e-2, rtol=0.05)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("mixed_float16", marks=[pytest.mark.slow, pytest.mark.release]),
        "mixed_bfloat16",
    ],
)
def test_mixed_precision_compares_in_float32(policy):
    inputs, labels = images()
    keras.config.set_dtype_policy(policy)
    try:
        embedder, model = models()
        assert embedder.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.Adam(0.05), loss=ProxyAnchorLoss(), jit_compile=True)
    assert model.predict(inputs, verbose=0).dtype == np.float32
    history = model.fit(inputs, labels, batch_size=30, epochs=5, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]


def test_a_compiled_model_reloads(tmp_path):
    inputs, labels = images()
    _, model = models()
    model.compile("adam", loss=ProxyAnchorLoss(alpha=16, margin=0.2, reduction="sum"))
    model.fit(inputs, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(inputs, labels, verbose=0) == pytest.approx(
        model.evaluate(inputs, labels, verbose=0)
    )
    assert loaded.loss.get_config() == model.loss.get_config()


@pytest.mark.parametrize(
    "loss", [ProxyNCALoss(3.0, name="mine", dtype="float64"), ProxyAnchorLoss(8.0, -0.1)]
)
def test_config_round_trip(loss):
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


def test_layer_config_and_shape():
    layer = Proxies(7, initializer=keras.initializers.RandomNormal(seed=3), dtype="float64")
    again = Proxies.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert layer.compute_output_shape((None, 4)) == (None, 7)
    assert keras.Sequential([keras.Input((4,)), layer]).output_shape == (None, 7)


UNKNOWN = [-1, 5, 2**24 + 1, 2**40]


@pytest.mark.parametrize("kind", LITERAL)
def test_an_unknown_label_stops_a_step_that_can_raise_errors(kind):
    inputs, labels = images(size=20)
    _, model = models()
    model.compile(keras.optimizers.SGD(0.1), LOSSES[kind](), jit_compile=False)
    model.fit(inputs, labels, batch_size=20, verbose=0)
    before = model.get_weights()
    for unknown in UNKNOWN:
        labels[7] = unknown
        least, most = labels.min(), labels.max()
        for step in (model.fit, model.evaluate):
            with pytest.raises(tf.errors.InvalidArgumentError) as found:
                step(inputs, labels, batch_size=20, verbose=0)
            assert "from 0 to 4, one for each proxy" in str(found.value)
            assert f"[{least}] [to] [{most}]" in str(found.value)
            assert "np.unique(labels, return_inverse=True)" in str(found.value)
    for after, weights in zip(model.get_weights(), before):
        np.testing.assert_array_equal(after, weights)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("kind", LITERAL)
def test_an_unknown_label_shows_as_nan_where_xla_knows_no_errors(kind):
    inputs, labels = images(size=20)
    labels[7] = 5
    _, model = models()
    model.compile(keras.optimizers.SGD(0.1), LOSSES[kind](), jit_compile=True)
    loss = model.fit(inputs, labels, batch_size=20, verbose=0).history["loss"]
    assert np.isnan(loss).all()
    assert np.isnan(model.evaluate(inputs, labels, batch_size=20, verbose=0))
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


SIMILARITY = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize("loss", [ProxyNCALoss(), ProxyAnchorLoss()])
@pytest.mark.parametrize(
    "labels, similarity, message",
    [
        ([0, 3], SIMILARITY, "from 0 to 2, one for each proxy. Received: ids 0 to 3, .*proxy: 3. "),
        ([-1, 2], SIMILARITY, "Received: ids -1 to 2, without a proxy: -1. "),
        ([0.0, 1.0], SIMILARITY, "Received: labels of dtype float64"),
        ([0, 1, 2], SIMILARITY, "3 labels and 2 embeddings"),
        (np.eye(2, 3), SIMILARITY, "one-hot labels pass argmax"),
        ([0, 1], SIMILARITY[0], r"\(batch, classes\).*shape=\(3,\)"),
    ],
)
def test_wrong_inputs_are_explained(loss, labels, similarity, message):
    with pytest.raises(ValueError, match=message):
        loss(labels, similarity)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Proxies(0), "`num_classes` from 1.*Received: 0"),
        (lambda: Proxies(2.5), "`num_classes` from 1.*Received: 2.5"),
        (lambda: Proxies(2**24 + 1), "from 1 to 16777216"),
        (lambda: Proxies(3, dtype="mixed_float16"), "dtype='mixed_float16'"),
        (lambda: Proxies(3)(ops.zeros((2, 3, 4))), r"shape=\(2, 3, 4\)"),
        (lambda: ProxyNCALoss(scale=0), "`scale` > 0, a finite number. Received: scale=0"),
        (lambda: ProxyAnchorLoss(alpha=math.nan), "`alpha` > 0"),
        (lambda: ProxyAnchorLoss(margin=math.inf), "`margin` as a finite number"),
        (lambda: ProxyAnchorLoss(dtype="float16"), "dtype='float16'"),
    ],
)
def test_wrong_settings_are_explained(build, message):
    with pytest.raises(ValueError, match=message):
        build()


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
MODES = {"eager": None, "graph": False, "xla": True}


def in_mode(loss, mode):
    """The loss as a function; labels are not known when it is traced."""
    return loss if mode == "eager" else tf.function(loss, jit_compile=MODES[mode])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_ids_at_the_ends_of_narrow_integers_have_their_proxies(dtype, mode):
    loss = in_mode(ProxyNCALoss(), mode)
    for classes in (2**7, 2**8, 2**15, 2**16):
        labels = np.array([0, 1, min(classes - 1, np.iinfo(dtype).max)])
        similarity = np.random.default_rng(0).uniform(-1, 1, (3, classes))
        distances = 2 - 2 * similarity
        own = distances[np.arange(3), labels]
        others = np.exp(-distances).sum(axis=1) - np.exp(-own)
        expected = np.mean(own + np.log(others))
        value = loss(tf.constant(labels.astype(dtype)), tf.constant(similarity, "float32"))
        assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_ids_just_beyond_the_proxies_are_refused_in_every_dtype(dtype, mode):
    limits = np.iinfo(dtype)
    wrong = [(classes, classes) for classes in (2, 2**7, 2**8, 2**15, 2**16)]
    wrong += [(5, limits.max), (2**8, limits.min), (2**7, -1)]
    for classes, label in wrong:
        if not limits.min <= label <= limits.max or 0 <= label < classes:
            continue
        labels = tf.constant(np.array([0, label], dtype))
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="one for each prox"):
            in_mode(ProxyNCALoss(), mode)(labels, tf.zeros((2, classes)))
