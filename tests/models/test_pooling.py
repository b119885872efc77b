"""Pooling: the generalised mean and tokens against literal versions, and what fits which rank."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ms.models.pooling import GeneralizedMean, TokenPooling, checked_pooling, pooled

RANDOM = np.random.default_rng(0)
MAPS = RANDOM.gamma(0.5, 4.0, (3, 5, 4, 6)).astype("float32") - 0.5  # some below 0


def generalized_mean(maps, p):
    """A place and a channel at a time, in float64."""
    rows = []
    for image in maps.astype("float64"):
        row = []
        for channel in range(image.shape[-1]):
            values = [max(value, 1e-6) for value in image[..., channel].ravel()]
            row.append((sum(value**p for value in values) / len(values)) ** (1 / p))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("p", [1.0, 3.0, 7.5])
def test_the_generalised_mean_is_that_of_its_formula(p):
    values = GeneralizedMean(p)(MAPS)
    np.testing.assert_allclose(values, generalized_mean(MAPS, p), rtol=2e-5)


def test_its_gradients_are_those_of_the_formula():
    layer = GeneralizedMean()
    maps = tf.Variable(MAPS)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(maps) ** 2)
    by_maps, by_p = tape.gradient(loss, [maps, layer.p.value])

    def literal(changed, p=3.0):
        return (generalized_mean(changed, p) ** 2).sum()

    step = 1e-4
    numeric = (literal(MAPS, 3 + step) - literal(MAPS, 3 - step)) / (2 * step)
    np.testing.assert_allclose(by_p, numeric, rtol=1e-4)
    for place in [(0, 0, 0, 0), (2, 4, 3, 5), (1, 2, 3, 4)]:
        up, down = MAPS.astype("float64"), MAPS.astype("float64")
        up[place] += step
        down[place] -= step
        numeric = (literal(up) - literal(down)) / (2 * step)
        np.testing.assert_allclose(by_maps[place], numeric, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("p", [3.0, 100.0])
def test_it_stays_finite_on_what_overflows_a_power(p):
    layer = GeneralizedMean(p)
    maps = tf.Variable(np.stack([np.zeros((4, 4, 2)), np.full((4, 4, 2), 3e4)]).astype("float32"))
    with tf.GradientTape() as tape:
        values = layer(maps)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[1], 3e4, rtol=1e-5)
    assert all(np.isfinite(one).all() for one in tape.gradient(values, [maps, layer.p.value]))


def test_p_is_kept_above_the_average():
    layer = GeneralizedMean()
    layer.build(MAPS.shape)
    layer.p.assign(-2.0)
    np.testing.assert_allclose(layer(MAPS), generalized_mean(MAPS, 1.0), rtol=2e-5)
    with pytest.raises(ValueError, match="`p` >= 1 and <= 100.*Received: p=0.5"):
        GeneralizedMean(0.5)


def test_it_is_float32_in_any_precision():
    outputs = GeneralizedMean()(MAPS.astype("float16"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"


TOKENS = RANDOM.normal(size=(2, 9, 4)).astype("float32")


@pytest.mark.parametrize(
    "tokens, prefix, expected",
    [
        ("cls", 3, TOKENS[:, 0]),
        ("patches", 3, TOKENS[:, 3:].mean(axis=1)),
        ("patches", 0, TOKENS.mean(axis=1)),
        ("cls+patches", 1, np.hstack([TOKENS[:, 0], TOKENS[:, 1:].mean(axis=1)])),
    ],
)
def test_tokens(tokens, prefix, expected):
    layer = TokenPooling(tokens, prefix)
    np.testing.assert_allclose(layer(TOKENS), expected, atol=1e-6)
    assert layer.compute_output_shape((None, 9, 4)) == (None, expected.shape[1])
    again = TokenPooling.from_config(layer.get_config())
    np.testing.assert_array_equal(again(TOKENS), layer(TOKENS))


@pytest.mark.parametrize(
    "rank, prefix, default", [(4, 0, "avg"), (3, 1, "cls"), (3, 0, "patches"), (2, 0, None)]
)
def test_the_default_follows_what_the_backbone_gives(rank, prefix, default):
    assert checked_pooling(None, rank, num_prefix_tokens=prefix) == default


@pytest.mark.parametrize(
    "pooling, rank, prefix, message",
    [
        ("gem", 3, 1, "gives tokens .*Expected one of cls, patches, cls.patches. Received: 'gem'"),
        ("cls", 4, 0, "gives a feature map .*Expected one of avg, max, avg.max, gem, none"),
        ("cls", 3, 0, "Expected one of patches: it is not known to have a class token"),
        ("avg", 2, 0, "gives one vector .*Leave it out. Received: 'avg'"),
        ("mean", 3, 0, "Invalid value for `pooling`. Expected one of .*'gem'.*'cls'.*'mean'"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(pooling, rank, prefix, message):
    with pytest.raises(ValueError, match=message):
        checked_pooling(pooling, rank, num_prefix_tokens=prefix)


def test_a_vector_passes_in_float32():
    vectors = keras.Input((4,), dtype="float16")
    model = keras.Model(vectors, pooled(vectors, None))
    assert model.output.dtype == "float32"
    assert model.layers[-1].name == "pool"
