"""The small network: shapes, input scaling, training and inference behaviour."""

import keras
import numpy as np
import pytest

from keras_ms.models.backbones import build_backbone
from keras_ms.models.small_network import BLOCKS, DEEP_BLOCKS, WIDE_WIDTHS, WIDTHS, small_network


@pytest.mark.parametrize(
    "side, expected", [(28, 4), (35, 5), (42, 6), (48, 6), (49, 4), (64, 4), (16, 2)]
)
def test_feature_map_has_an_eighth_or_a_sixteenth_of_the_side(side, expected):
    network = small_network((side, side, 3))
    assert network.output_shape == (None, expected, expected, 128)
    features = network(np.zeros((2, side, side, 3), np.float32), training=False)
    assert features.shape == (2, expected, expected, 128)


def test_one_channel_and_free_sides():
    assert small_network((28, 28, 1)).input_shape == (None, 28, 28, 1)
    free = small_network((None, None, 3))
    assert free(np.zeros((1, 30, 44, 3), np.float32), training=False).shape == (1, 4, 6, 128)


@pytest.mark.parametrize(
    "name, widths, blocks",
    [
        ("small", WIDTHS, BLOCKS),
        ("small_wide", WIDE_WIDTHS, BLOCKS),
        ("small_deep", WIDE_WIDTHS, DEEP_BLOCKS),
    ],
)
def test_parameter_count_as_documented(name, widths, blocks):
    def convolution(inputs, outputs, side):
        return inputs * outputs * side * side + 4 * outputs

    expected = convolution(3, widths[0], 3) + blocks[0] * 2 * convolution(widths[0], widths[0], 3)
    for inputs, outputs, number in zip(widths, widths[1:], blocks[1:]):
        expected += convolution(inputs, outputs, 3) + convolution(outputs, outputs, 3)
        expected += convolution(inputs, outputs, 1)
        expected += (number - 1) * 2 * convolution(outputs, outputs, 3)
    network = build_backbone(name, input_shape=(35, 35, 3))
    assert network.count_params() == expected
    assert f"{round(expected, -3):,}" in small_network.__doc__


def test_input_is_scaled_to_about_plus_minus_one():
    first = small_network((28, 28, 3)).layers[1]
    extremes = first(np.array([0.0, 127.5, 255.0], np.float32))
    np.testing.assert_allclose(extremes, [-1.0, 0.0, 1.0], atol=1e-6)


def test_batch_statistics_train_and_inference_leaves_them():
    keras.utils.set_random_seed(0)
    network = small_network((28, 28, 1))
    images = np.random.default_rng(0).uniform(0, 255, (8, 28, 28, 1)).astype(np.float32)
    before = [keras.ops.convert_to_numpy(value) for value in network.non_trainable_variables]
    network(images, training=False)
    for value, old in zip(network.non_trainable_variables, before):
        np.testing.assert_array_equal(value, old)
    network(images, training=True)
    changed = [
        not np.array_equal(value, old)
        for value, old in zip(network.non_trainable_variables, before)
    ]
    assert all(changed)


def test_images_of_a_batch_do_not_influence_each_other_at_inference():
    network = small_network((28, 28, 1))
    images = np.random.default_rng(0).uniform(0, 255, (4, 28, 28, 1)).astype(np.float32)
    together = np.asarray(network(images, training=False))
    alone = np.concatenate([network(images[i : i + 1], training=False) for i in range(4)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.release
def test_a_few_steps_reduce_the_loss():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 4
    # class k: a bright bar in quarter k
    images = rng.uniform(0, 60, (32, 16, 16, 1)).astype(np.float32)
    for image, label in zip(images, labels):
        image[:, 4 * label : 4 * label + 4] += 150
    network = small_network((16, 16, 1))
    # flattened, since the average over all places cannot tell where the bar is
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(network.output))
    model = keras.Model(network.input, outputs)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    losses = model.fit(images, labels, epochs=8, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]


def test_reloads_from_a_file(tmp_path):
    network = small_network((28, 28, 3))
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    images = np.random.default_rng(0).uniform(0, 255, (2, 28, 28, 3)).astype(np.float32)
    np.testing.assert_allclose(again(images, training=False), network(images, training=False))


@pytest.mark.parametrize("shape", [(28, 28), (8, 28, 3), (28, 15, 3), (28, 28, None), (28, 28, 0)])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="Expected \\(height, width, channels\\).*Received"):
        small_network(shape)
