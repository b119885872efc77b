"""The losses whose anchors stand apart, and the two-sided lifted structure loss, as Keras losses:
values and embedding gradients against literal oracles, in fit, under XLA, saved and restored."""

import doctest
from types import SimpleNamespace

import keras
import numpy as np
import oracles
import oracles_row_losses as literal
import pytest
import tensorflow as tf
from gradients import value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ms.losses import (
    binomial_deviance,
    circle,
    contrastive,
    lifted_structure,
    margin,
    supervised_contrastive,
)
from keras_ms.pairs.labels import label_keys
from keras_ms.pairs.pairs import Pairs, pair_masks

CLASSES = {
    "contrastive": contrastive.ContrastiveLoss,
    "binomial_deviance": binomial_deviance.BinomialDevianceLoss,
    "lifted_structure": lifted_structure.LiftedStructureLoss,
    "two_sided": lifted_structure.LiftedStructureLoss,
    "circle": circle.CircleLoss,
    "supervised_contrastive": supervised_contrastive.SupervisedContrastiveLoss,
    "margin": margin.MarginLoss,
}
DEFAULTS = {
    "contrastive": {"threshold": 0.5},
    "binomial_deviance": {"alpha": 2.0, "beta": 50.0, "threshold": 0.5},
    "lifted_structure": {"threshold": 1.0},
    "two_sided": {"two_sided": True, "margin": 1.0},
    "circle": {"margin": 0.25, "gamma": 256.0},
    "supervised_contrastive": {"temperature": 0.1},
    "margin": {"margin": 0.2, "boundary": 1.2, "cutoff": 1.4},
}
OTHERS = {
    "contrastive": {"threshold": 0.0},
    "binomial_deviance": {"alpha": 1.0, "beta": 10.0, "threshold": 0.2},
    "lifted_structure": {"threshold": -2.5},
    "two_sided": {"two_sided": True, "margin": -1.5},
    "circle": {"margin": 0.4, "gamma": 80.0},
    "supervised_contrastive": {"temperature": 0.5},
    "margin": {"margin": 0.3, "boundary": 0.9, "cutoff": None},
}
# A similarity is rounded to about 1e-7 in float32, and circle multiplies it by up to 2 gamma = 512.
FLOAT32 = {name: 3e-5 if name == "circle" else 1e-5 for name in CLASSES}


def rows(name, similarity, labels, dimension, chosen):
    """The literal forward, (anchors,) float64."""
    if name == "two_sided":
        return literal.two_sided_forward(similarity, labels, chosen["margin"])
    chosen = {**chosen, "dimension": dimension} if name == "margin" else chosen
    return literal.forward(name, similarity, labels, **chosen)


def loops(name, embeddings, labels, chosen):
    """The value by the NumPy loops."""
    similarity = oracles.similarities(embeddings)
    if name == "two_sided":
        return literal.two_sided_lifted_structure(similarity, labels, chosen["margin"])
    dimension = {"dimension": embeddings.shape[1]} if name == "margin" else {}
    return literal.rows(name, similarity, labels, **chosen, **dimension).mean()


def expected_of(name, labels, embeddings, chosen, sample_weight=1.0):
    """Value and embedding gradient of the literal forward in float64."""
    embeddings = tf.constant(np.asarray(embeddings, np.float64))
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        unit = embeddings / tf.norm(embeddings, axis=1, keepdims=True)
        similarity = tf.matmul(unit, unit, transpose_b=True)
        anchors = rows(name, similarity, labels, embeddings.shape[1], chosen)
        value = tf.reduce_mean(sample_weight * anchors)
    gradient = tape.gradient(value, embeddings, unconnected_gradients="zero")
    return float(value), gradient.numpy()


def random_batch(rng):
    size = int(rng.choice([2, 3, 5, 8, 13]))
    labels = rng.integers(rng.integers(1, 9), size=size)
    embeddings = rng.normal(size=(9, 6))[labels] + rng.choice([0.3, 1.0]) * rng.normal(
        size=(size, 6)
    )
    embeddings *= 10 ** rng.uniform(-1, 1, size=(size, 1))
    # exact duplicates, within and across classes
    if rng.random() < 0.4 and size > 4:
        embeddings[: size // 3] = embeddings[rng.integers(size, size=size // 3)]
    return labels, embeddings.astype(np.float32)


@pytest.mark.filterwarnings("ignore:.*No anchor of this batch")
@pytest.mark.parametrize(
    "count, more_than",
    [(10, 3), pytest.param(50, 20, marks=[pytest.mark.slow, pytest.mark.release])],
)
@pytest.mark.parametrize("name", CLASSES)
def test_value_and_gradient_equal_the_oracles_on_random_batches(name, count, more_than):
    rng = np.random.default_rng(0)
    built = {
        dtype: [
            CLASSES[name](**chosen, dtype=dtype, jit_compile=False)
            for chosen in (DEFAULTS[name], OTHERS[name])
        ]
        for dtype in ("float32", "float64")
    }
    worst = {"float32": [0.0, 0.0], "float64": [0.0, 0.0]}
    with_loss = 0
    for number in range(count):
        labels, embeddings = random_batch(rng)
        chosen = (DEFAULTS, OTHERS)[number % 2][name]
        expected, expected_gradient = expected_of(name, labels, embeddings, chosen)
        assert expected == pytest.approx(loops(name, embeddings, labels, chosen), rel=1e-9)
        with_loss += expected > 0
        for dtype, losses in built.items():
            value, gradient = value_and_gradient(
                losses[number % 2], labels, embeddings.astype(dtype)
            )
            # of a loss near 0 float32 keeps the absolute error of its similarities
            off = abs(value - expected) / max(expected, 1e-2)
            # An embedding's gradient goes as one over its norm. Where the pairs' parts cancel,
            # their own rounding is left.
            norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
            scale = max(np.abs(expected_gradient * norms).max(), 0.1)
            gradient_off = np.abs((gradient - expected_gradient) * norms).max() / scale
            worst[dtype] = np.maximum(worst[dtype], [off, gradient_off])
    print(name, worst)
    assert with_loss > more_than
    assert (worst["float64"] <= 1e-9).all()
    assert (worst["float32"] <= FLOAT32[name]).all()


DEGENERATE = {
    "one class": ([3] * 6, np.random.default_rng(0).normal(size=(6, 4))),
    "all singletons": (range(6), np.random.default_rng(0).normal(size=(6, 4))),
    "one image": ([0], np.ones((1, 4))),
    "collapsed": ([0] * 4 + [1] * 4, np.ones((8, 4))),
    "zero vectors": ([0, 0, 1, 1], np.zeros((4, 4))),
    "one positive and one negative pair": ([0, 0, 1], [[1, 0], [0, 1], [0.6, 0.8]]),
    "opposite": ([0, 0, 1, 1], [[1, 0], [-1, 0], [1, 0], [-1, 0]]),
    "huge norms": ([0, 0, 1], np.array([[1, 0], [0, 1], [0.6, 0.8]]) * 1e30),
    "tiny norms": ([0, 0, 1], np.array([[1, 0], [0, 1], [0.6, 0.8]]) * 1e-30),
}
# the losses of which an anchor has a part without positives, and without negatives
WITHOUT_POSITIVES = {"contrastive", "binomial_deviance", "margin"}
WITHOUT_NEGATIVES = WITHOUT_POSITIVES | {"supervised_contrastive"}


@pytest.mark.filterwarnings("ignore:.*No anchor of this batch")
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", CLASSES)
def test_degenerate_batches(name, case):
    labels, embeddings = DEGENERATE[case]
    labels, embeddings = np.array(labels), np.asarray(embeddings, np.float32)
    value, gradient = value_and_gradient(
        CLASSES[name](**DEFAULTS[name], jit_compile=False), labels, embeddings
    )
    assert np.isfinite(gradient).all()
    if case == "zero vectors":  # similarities as between the axes
        embeddings = np.eye(4)
    expected = loops(name, embeddings, labels, DEFAULTS[name])
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    if case == "all singletons" and name not in WITHOUT_POSITIVES:
        assert value == 0 and not gradient.any()
    if case == "one class":
        assert (value > 0) == (name in WITHOUT_NEGATIVES)
        assert gradient.any() == (name in WITHOUT_NEGATIVES)
    if case == "one image":
        assert value == 0 and not gradient.any()
    if case == "one positive and one negative pair":
        assert value > 0 and gradient.any()


# all under XLA: test_every_loss.py
@pytest.mark.parametrize(
    "name, way",
    [
        *((name, "run_eagerly") for name in CLASSES),
        ("circle", None), ("circle", "jit_compile"), ("two_sided", "jit_compile"),
    ],
)  # fmt: skip
def test_fit_takes_the_oracles_step(name, way):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(14, 6)).astype(np.float32), rng.integers(4, size=14)
    sample_weight = rng.uniform(0.1, 2, size=14).astype(np.float32)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    loss = CLASSES[name](**DEFAULTS[name])
    model.compile(keras.optimizers.SGD(0.01), loss=loss, **({way: True} if way else {}))
    kernel, bias = model.get_weights()
    value, gradient = expected_of(
        name, labels, inputs @ kernel + bias, DEFAULTS[name], sample_weight
    )
    step = 0.01 * inputs.T @ gradient
    history = model.fit(
        inputs, labels, batch_size=14, shuffle=False, verbose=0, sample_weight=sample_weight
    ).history
    assert history["loss"][0] == pytest.approx(value, rel=3e-5)
    assert np.abs(step).max() > 1e-4
    np.testing.assert_allclose(
        model.get_weights()[0], kernel - step, rtol=0, atol=1e-4 * np.abs(step).max() + 1e-7
    )


@given(st.integers(0, 10**6), st.sampled_from(sorted(CLASSES)))
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(seed, name):
    rng = np.random.default_rng(seed)
    labels, embeddings = rng.integers(5, size=20), rng.normal(size=(20, 8))
    order = rng.permutation(20)
    loss = CLASSES[name](**DEFAULTS[name], jit_compile=False, dtype="float64")
    value, gradient = value_and_gradient(loss, labels, embeddings)
    moved_value, moved_gradient = value_and_gradient(loss, labels[order], embeddings[order])
    assert moved_value == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(moved_gradient, gradient[order], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", CLASSES)
def test_masked_items_take_no_part(name):
    rng = np.random.default_rng(0)
    labels, embeddings = rng.integers(4, size=16), rng.normal(size=(16, 5))
    valid = np.arange(16) % 4 != 1
    expected = loops(name, embeddings[valid], labels[valid], DEFAULTS[name])
    embeddings[~valid] = np.nan
    masked = tf.constant(embeddings)
    masked._keras_mask = tf.constant(valid)
    loss = CLASSES[name](**DEFAULTS[name], jit_compile=False, dtype="float64")
    assert float(loss(labels, masked)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("block_size", [7, 64])
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "two_sided"])
def test_block_by_block_is_the_same(name, block_size):
    rng = np.random.default_rng(0)
    labels, embeddings = rng.integers(5, size=20), rng.normal(size=(20, 6))
    weights = rng.uniform(0.1, 2, size=20)
    results = [
        value_and_gradient(
            CLASSES[name](**DEFAULTS[name], block_size=size, jit_compile=False, dtype="float64"),
            labels,
            embeddings,
            weights,
        )
        for size in (None, block_size)
    ]
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-9)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-9, atol=1e-12)


def test_two_sided_takes_the_batch_as_a_whole():
    loss = CLASSES["two_sided"](two_sided=True, block_size=4)
    with pytest.raises(ValueError, match="takes no `block_size`"):
        loss([0, 0, 1], np.eye(3))


def test_exponents_beyond_float32():
    """The exponents of the circle loss are up to 1008 for positives; e^88 overflows."""
    embeddings = np.array([[1, 0.1], [-1, 0.2], [0.1, 1], [0.3, -1]], np.float32)
    loss, labels = CLASSES["circle"](jit_compile=False), [0, 0, 1, 1]
    value, gradient = value_and_gradient(loss, labels, embeddings)
    expected, expected_gradient = expected_of("circle", labels, embeddings, DEFAULTS["circle"])
    assert expected > 800 and np.abs(expected_gradient).max() > 10
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(
        gradient, expected_gradient, rtol=0, atol=1e-4 * np.abs(expected_gradient).max()
    )


@pytest.mark.parametrize(
    "function, weights",
    [
        (lifted_structure.lifted_structure, lifted_structure.lifted_structure_weights),
        (circle.circle, circle.circle_weights),
        (
            supervised_contrastive.supervised_contrastive,
            supervised_contrastive.supervised_contrastive_weights,
        ),
        (margin.margin_loss, margin.margin_weights),
    ],
)
def test_the_functions_alone_can_be_differentiated(function, weights):
    """Also where an anchor has pairs of one kind only, as in a loss of one's own."""
    embeddings = tf.constant(np.random.default_rng(0).normal(size=(5, 3)))
    with tf.GradientTape() as tape:
        unit = tf.math.l2_normalize(embeddings, axis=1)
        similarity = tf.matmul(unit, unit, transpose_b=True)
        tape.watch(similarity)
        pairs = Pairs(similarity, *pair_masks(label_keys(np.array([0, 0, 1, 2, 3]))))
        value = tf.reduce_sum(function(pairs))
    gradient = tape.gradient(value, similarity)
    assert float(value) > 0
    np.testing.assert_allclose(gradient, weights(pairs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_unknown_settings_are_named_with_the_known_ones(name):
    for wrong in ("treshold", "normalize", "whole_batch"):
        with pytest.raises(ValueError, match=f"{wrong}. Expected some of .*, block_size, jit"):
            CLASSES[name](**{wrong: 1})


@pytest.mark.parametrize("chosen", [DEFAULTS, OTHERS])
@pytest.mark.parametrize("name", CLASSES)
def test_config_round_trip(name, chosen):
    options = {"jit_compile": False, "reduction": "sum", "name": "mine", "dtype": "float64"}
    loss = CLASSES[name](**chosen[name], **options)
    config = keras.losses.serialize(loss)
    assert config["registered_name"] == f"keras_ms>{CLASSES[name].__name__}"
    again = keras.losses.deserialize(config)
    assert type(again) is CLASSES[name]
    assert again.get_config() == loss.get_config()
    assert {**chosen[name], **options}.items() <= again.get_config().items()


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "two_sided"])
def test_defaults(name):
    assert DEFAULTS[name].items() <= CLASSES[name]().get_config().items()


@pytest.mark.parametrize(
    "name, given, message",
    [
        (
            "contrastive",
            {"threshold": np.nan},
            "`threshold` as a finite number. Received: threshold=nan",
        ),
        ("binomial_deviance", {"alpha": 0}, "`alpha` > 0, a finite number. Received: alpha=0"),
        ("binomial_deviance", {"beta": -1}, "`beta` > 0, a finite number. Received: beta=-1"),
        ("binomial_deviance", {"threshold": np.inf}, "Received: threshold=inf"),
        (
            "lifted_structure",
            {"threshold": np.inf},
            "`threshold` as a finite number. Received: threshold=inf",
        ),
        ("lifted_structure", {"margin": 1}, "two_sided=False the loss reads `threshold` and not"),
        ("two_sided", {"two_sided": True, "threshold": 1}, "Received: threshold=1"),
        ("two_sided", {"two_sided": True, "margin": np.nan}, "`margin` as a finite number"),
        ("circle", {"margin": -0.1}, "`margin` >= 0, a finite number. Received: margin=-0.1"),
        ("circle", {"gamma": 0}, "`gamma` > 0, a finite number. Received: gamma=0"),
        (
            "supervised_contrastive",
            {"temperature": 0},
            "`temperature` > 0, a finite number. Received",
        ),
        ("margin", {"margin": -1}, "`margin` >= 0, a finite number. Received: margin=-1"),
        ("margin", {"boundary": 0}, "`boundary` > 0, a finite number. Received: boundary=0"),
        (
            "margin",
            {"cutoff": 0},
            "`cutoff` > 0, a finite number: or None to draw from all. Received: cutoff=0",
        ),
        ("circle", {"dtype": "float16"}, "Received: dtype='float16'"),
    ],
)
def test_settings_out_of_range(name, given, message):
    with pytest.raises(ValueError, match=message):
        CLASSES[name](**given)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "two_sided"])
def test_the_example_of_the_docstring(name):
    cls = CLASSES[name]
    names = {"keras_ms": SimpleNamespace(**{cls.__name__: cls})}
    example = doctest.DocTestParser().get_doctest(cls.__doc__, names, cls.__name__, None, 0)
    assert example.examples
    result = doctest.DocTestRunner().run(example)
    assert result.failed == 0
