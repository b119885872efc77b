"""CompositeLoss: values and steps are the weighted sums of its parts."""

import math

import keras
import numpy as np
import pytest

from keras_ms.losses.composite import CompositeLoss
from keras_ms.losses.multi_similarity import MultiSimilarityLoss


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class NormLoss(keras.losses.Loss):
    """A plain loss on any labels: how far the rows are from length 1."""

    def call(self, y_true, y_pred):
        return keras.ops.square(keras.ops.norm(y_pred, axis=-1) - 1.0)


def data(size=30, classes=4):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 6)).astype(np.float32), rng.integers(classes, size=size)


def step(loss, sample_weight=None, **options):
    """How one SGD step of rate 1 moves the weights, and the loss of that step."""
    inputs, labels = data()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), loss=loss, **options)
    model.optimizer.build(model.trainable_variables)  # else fit traces its step twice
    history = model.fit(
        inputs, labels, batch_size=30, sample_weight=sample_weight, shuffle=False, verbose=0
    ).history
    return history["loss"][0], [a - b for a, b in zip(model.get_weights(), before)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]
)
def test_a_step_is_the_weighted_sum_of_the_parts_steps(options, weighted):
    weights = np.linspace(0, 2, 30) if weighted else None
    # each part keeps its own reduction
    parts = [MultiSimilarityLoss(reduction="sum"), NormLoss()]
    value, moved = step(CompositeLoss(parts, [0.25, -2.0]), weights, **options)
    first, second = (step(part, weights, run_eagerly=True) for part in parts)
    assert value == pytest.approx(0.25 * first[0] - 2.0 * second[0], rel=1e-5)
    for both, one, other in zip(moved, first[1], second[1]):
        np.testing.assert_allclose(both, 0.25 * one - 2.0 * other, atol=2e-5)


@pytest.mark.slow
def test_a_list_of_losses_trains_on_the_first_alone():
    """What the docstring says of Keras; if this fails, Keras has changed."""
    parts = [MultiSimilarityLoss(), NormLoss()]
    (_, listed), (_, alone), (_, summed) = step(parts), step(parts[0]), step(CompositeLoss(parts))
    np.testing.assert_allclose(listed[0], alone[0], atol=1e-6)
    assert np.abs(summed[0] - alone[0]).max() > 1e-3


def test_labels_reach_each_loss_uncast():
    inputs, labels = data()
    loss = CompositeLoss([MultiSimilarityLoss(), NormLoss()], [1.0, 0.0])
    far = labels.astype(np.int64) + 2**40
    assert float(loss(far, inputs)) == float(MultiSimilarityLoss()(labels, inputs))


def test_nan_stays_nan():
    inputs, labels = data()
    inputs[3] = np.nan
    assert math.isnan(float(CompositeLoss([MultiSimilarityLoss(), NormLoss()])(labels, inputs)))


def test_losses_without_reduction_give_one_value_an_image():
    inputs, labels = data()
    loss = CompositeLoss([MultiSimilarityLoss(reduction=None), NormLoss(reduction="none")])
    assert loss(labels, inputs).shape == (30,)


def test_config_round_trip_and_a_saved_model(tmp_path):
    inner = CompositeLoss([MultiSimilarityLoss(beta=50.0), NormLoss(reduction="sum")], [2, 0.5])
    loss = CompositeLoss([inner, keras.losses.MeanSquaredError()], name="nested")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert again.losses[0].losses[0].beta == 50.0 and again.losses[0].factors == [2.0, 0.5]

    inputs, labels = data()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.compile("adam", loss=inner)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(inputs, labels, verbose=0) == pytest.approx(
        model.evaluate(inputs, labels, verbose=0)
    )


@pytest.mark.parametrize(
    "losses, factors, message",
    [
        ([], None, "one or more keras.losses.Loss instances"),
        ("mse", None, r"MeanSquaredError\(\) in place of 'mse'. Received: \['mse'\]"),
        ([NormLoss(), "mse"], None, r"Received: \['mse'\]"),
        ([NormLoss()], [1, 2], r"1 finite numbers, one a loss.*Received: factors=\[1, 2\]"),
        ([NormLoss()], [math.nan], r"`factors\[0\]` as a finite number"),
        ([NormLoss()], ["1"], r"`factors\[0\]` as a finite number"),
        ([NormLoss(), NormLoss(reduction=None)], None, "all give one number, or none"),
    ],
)
def test_wrong_arguments_are_explained(losses, factors, message):
    with pytest.raises(ValueError, match=message):
        CompositeLoss(losses, factors)
