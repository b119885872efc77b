"""GroupedAdam against Adam and a literal NumPy Adam with L2 in the gradient."""

import keras
import numpy as np
import pytest

from keras_ms.optimizers import GroupedAdam


def _literal_adam(value, gradients, rate, coupled_l2):
    value = np.array(value, "float64")
    m, v = np.zeros_like(value), np.zeros_like(value)
    for step, gradient in enumerate(gradients, 1):
        g = gradient + coupled_l2 * value
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        value -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
    return value


def test_rates_and_l2_follow_the_literal_formula():
    rng = np.random.default_rng(0)
    start = [rng.normal(size=4).astype("float32"), rng.normal(size=3).astype("float32")]
    gradients = [[rng.normal(size=4) * 0.1, rng.normal(size=3) * 0.1] for _ in range(5)]
    variables = [keras.Variable(value) for value in start]
    optimizer = GroupedAdam(0.01, learning_rate_factors=[0.1, 1.0], coupled_l2=0.3)
    for step in gradients:
        optimizer.apply([keras.ops.cast(g, "float32") for g in step], variables)
    for i, rate in enumerate([0.001, 0.01]):
        expected = _literal_adam(start[i], [step[i] for step in gradients], rate, 0.3)
        np.testing.assert_allclose(variables[i].numpy(), expected, atol=2e-6)


def test_factors_must_match_the_variables():
    with pytest.raises(ValueError, match="3 factors and 1 variables"):
        GroupedAdam(learning_rate_factors=[1, 1, 1]).build([keras.Variable([1.0])])


def test_config_round_trip():
    optimizer = GroupedAdam(0.1, learning_rate_factors=[0.5], coupled_l2=5e-4)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert again.coupled_l2 == 5e-4 and again.learning_rate_factors == [0.5]
