"""GroupedAdam against a literal NumPy Adam with L2 or decoupled decay; schedules; averages."""

import keras
import numpy as np
import pytest

from keras_ms.optimizers import (
    GroupedAdam,
    StageSchedule,
    WarmUp,
    decayed_kernels,
    exchange_averages,
    take_averages,
)


def _literal_adam(value, gradients, rate, coupled_l2, weight_decay=0.0):
    value = np.array(value, "float64")
    m, v = np.zeros_like(value), np.zeros_like(value)
    for step, gradient in enumerate(gradients, 1):
        g = gradient + coupled_l2 * value
        value -= rate * weight_decay * value
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
    assert optimizer.get_config()["weight_decay"] is None
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert again.coupled_l2 == 5e-4 and again.learning_rate_factors == [0.5]


def _few_steps(optimizer, shapes=((3, 4), (4,)), scale=0.1, seed=0):
    """(start, gradients by step, variables after them)."""
    rng = np.random.default_rng(seed)
    start = [rng.normal(size=shape).astype("float32") for shape in shapes]
    gradients = [[scale * rng.normal(size=shape) for shape in shapes] for _ in range(5)]
    variables = [keras.Variable(value) for value in start]
    for step in gradients:
        optimizer.apply([keras.ops.cast(g, "float32") for g in step], variables)
    return start, gradients, variables


def test_decoupled_decay_follows_the_literal_formula_at_each_variables_own_rate():
    optimizer = GroupedAdam(
        0.01, learning_rate_factors=[0.1, 1.0], weight_decay=0.3, decayed=[True, False]
    )
    start, gradients, variables = _few_steps(optimizer)
    for i, (rate, decay) in enumerate([(0.001, 0.3), (0.01, 0.0)]):
        expected = _literal_adam(start[i], [step[i] for step in gradients], rate, 0.0, decay)
        np.testing.assert_allclose(variables[i].numpy(), expected, atol=2e-6)


def test_decoupled_decay_of_all_variables_is_adamw():
    _, _, ours = _few_steps(GroupedAdam(0.01, weight_decay=0.3))
    _, _, theirs = _few_steps(keras.optimizers.AdamW(0.01, weight_decay=0.3))
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6)


def test_what_is_excluded_by_keras_is_not_decayed():
    optimizer, plain = GroupedAdam(0.01, weight_decay=0.3), GroupedAdam(0.01)
    optimizer.exclude_from_weight_decay(var_names=[""])
    for one, other in zip(_few_steps(optimizer)[2], _few_steps(plain)[2]):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_clipping_is_by_the_norm_of_all_gradients_together():
    optimizer = GroupedAdam(0.01, global_clipnorm=5.0)
    start, gradients, variables = _few_steps(optimizer, scale=10)
    norms = [np.sqrt(sum((g**2).sum() for g in step)) for step in gradients]
    assert min(norms) > 5
    for i, value in enumerate(start):
        clipped = [step[i] * 5 / norm for step, norm in zip(gradients, norms)]
        expected = _literal_adam(value, clipped, 0.01, 0.0)
        np.testing.assert_allclose(variables[i].numpy(), expected, atol=2e-6)


def test_decay_is_of_kernels_alone():
    layer = keras.layers.MultiHeadAttention(2, 3)
    layer.build((None, 4, 6), (None, 4, 6))
    normal, depthwise = keras.layers.LayerNormalization(), keras.layers.DepthwiseConv2D(3)
    normal.build((None, 6))
    depthwise.build((None, 8, 8, 3))
    embedding = keras.layers.Embedding(4, 6)
    embedding.build(())
    token = keras.Variable(np.zeros((1, 1, 6)), name="class_token")
    variables = [
        v for one in (layer, normal, depthwise, embedding) for v in one.trainable_variables
    ] + [token]
    decayed = {v.path for v, flag in zip(variables, decayed_kernels(variables)) if flag}
    assert {path.rpartition("/")[2] for path in decayed} == {"kernel"}
    assert len(decayed) == 5


def test_decay_and_flags_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Received both: coupled_l2=0.1, weight_decay=0.2"):
        GroupedAdam(coupled_l2=0.1, weight_decay=0.2)
    with pytest.raises(ValueError, match="`weight_decay` >= 0.*=-1"):
        GroupedAdam(weight_decay=-1)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"`coupled_l2` >= 0.*={wrong}"):
            GroupedAdam(coupled_l2=wrong)
    with pytest.raises(ValueError, match="2 flags and 1 variables"):
        GroupedAdam(weight_decay=0.1, decayed=[True, False]).build([keras.Variable([1.0])])


def test_everything_comes_back_from_the_config():
    optimizer = GroupedAdam(
        WarmUp(keras.optimizers.schedules.CosineDecay(0.1, 10), 4),
        weight_decay=0.05, decayed=[True], global_clipnorm=1.0, use_ema=True, ema_momentum=0.9,
    )  # fmt: skip
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert again.decayed == [True] and again.weight_decay == 0.05


def test_factors_and_flags_in_arrays_are_saved_with_a_model(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    factors, flags = np.array([0.5, 1.0], "float32"), np.array([True, False])
    optimizer = GroupedAdam(0.1, factors, weight_decay=0.1, decayed=flags)
    model.compile(optimizer, "mse")
    data = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    model.fit(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.learning_rate_factors == [0.5, 1.0]
    assert again.optimizer.decayed == [True, False]
    again.fit(*data, verbose=0)


@pytest.mark.parametrize("kind", ["constant", "cosine", "step"])
def test_the_rate_rises_over_the_first_steps_of_any_schedule(kind):
    schedules = keras.optimizers.schedules
    schedule = {
        "constant": 0.4,
        "cosine": schedules.CosineDecay(0.4, 20),
        "step": schedules.PiecewiseConstantDecay([2, 8], [0.4, 0.2, 0.1]),
    }[kind]
    warm = WarmUp(schedule, 5)
    whole = schedule if callable(schedule) else lambda step: schedule
    for step in range(20):
        expected = float(whole(step)) * min(1, (step + 1) / 5)
        assert float(warm(step)) == pytest.approx(expected, rel=1e-6)
    in_stages = StageSchedule(WarmUp(schedule, 5), steps_per_stage=20, stages=2)
    assert float(in_stages(20)) == float(in_stages(0)) == pytest.approx(0.08)
    for one in (warm, in_stages):
        again = schedules.deserialize(schedules.serialize(one))
        assert float(again(22)) == float(one(22))


def test_a_warm_up_needs_steps_and_a_rate():
    with pytest.raises(ValueError, match="steps"):
        WarmUp(0.1, 0)
    with pytest.raises(ValueError, match="a LearningRateSchedule. Received: schedule='fast'"):
        WarmUp("fast", 2)


def test_the_average_is_the_literal_one_and_is_exchanged_to_the_bit():
    optimizer = GroupedAdam(0.01, use_ema=True, ema_momentum=0.8)
    with pytest.raises(ValueError, match="no average of the weights yet"):
        take_averages(optimizer)
    rng = np.random.default_rng(0)
    variable = keras.Variable(rng.normal(size=3).astype("float32"))
    average = None
    for _ in range(4):
        optimizer.apply([keras.ops.cast(rng.normal(size=3), "float32")], [variable])
        value = variable.numpy().astype("float64")
        average = value if average is None else 0.8 * average + 0.2 * value
    last = variable.numpy()
    exchange_averages(optimizer)
    np.testing.assert_allclose(variable.numpy(), average, rtol=1e-6)
    exchange_averages(optimizer)
    np.testing.assert_array_equal(variable.numpy(), last)
    take_averages(optimizer)
    np.testing.assert_allclose(variable.numpy(), average, rtol=1e-6)
