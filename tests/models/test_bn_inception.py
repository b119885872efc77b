"""BN-Inception: sizes, parameters, and its padding against literal NumPy loops."""

import keras
import numpy as np
import oracles_models as oracles
import pytest

from keras_ms.models.bn_inception import BLOCKS, _is_valid_side, bn_inception


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return bn_inception((227, 227, 3))


@pytest.fixture(scope="module")
def even_network():
    return bn_inception((224, 224, 3))


@pytest.fixture(scope="module")
def little_network():
    keras.utils.set_random_seed(0)
    network = bn_inception((63, 70, 3))
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):  # a bias of 0 would not be seen missing
            layer.bias.assign(np.random.default_rng(1).normal(size=layer.bias.shape, scale=0.1))
    return network


def between(network, first, last, size, seed=0):
    """Run the layers after `first` up to `last` on random values ≥ 0 of a height and width."""
    source = network.get_layer(first).output
    part = keras.Model(source, network.get_layer(last).output)
    values = np.random.default_rng(seed).uniform(0, 5, (2, *size, source.shape[-1]))
    values = values.astype("float32")
    return values, part(values, training=False).numpy()


def test_parameters(network):
    assert network.count_params() == 10_290_272
    assert sum(int(np.prod(w.shape)) for w in network.trainable_weights) == 10_270_240
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 69
    assert all(layer.use_bias for layer in convolutions)


def test_every_convolution_has_its_batch_norm_under_the_public_name(network):
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            norm = network.get_layer(f"{layer.name}_bn")
            assert (norm.epsilon, norm.momentum) == (1e-5, 0.9)
    assert network.get_layer("inception_3a_double_3x3_2").kernel.shape == (3, 3, 96, 96)
    assert network.get_layer("inception_5b_pool_proj").kernel.shape == (1, 1, 1024, 128)


@pytest.mark.parametrize("size, sides", [(224, (112, 56, 28, 14, 7)), (227, (114, 57, 28, 14, 7))])
def test_shapes(network, even_network, size, sides):
    model = network if size == 227 else even_network
    stages = ("conv1_7x7_s2", "pool1_3x3_s2", "pool2_3x3_s2", "inception_3c_output")
    stages += ("inception_4e_output",)
    widths = (64, 64, 192, 576, 1056)
    for stage, side, width in zip(stages, sides, widths):
        assert model.get_layer(stage).output.shape == (None, side, side, width)
    assert model.output_shape == (None, 7, 7, 1024)


def test_block_widths(network):
    widths = [network.get_layer(f"inception_{name}_output").output.shape[-1] for name in BLOCKS]
    assert widths == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]


@pytest.mark.parametrize(
    "block, branches",
    [
        ("3a", ["1x1_relu", "3x3_relu", "double_3x3_2_relu", "pool_proj_relu"]),
        ("4e", ["3x3_relu", "double_3x3_2_relu", "pool"]),
    ],
)
def test_order_of_branches(network, block, branches):
    layer = network.get_layer(f"inception_{block}_output")
    node = layer._inbound_nodes[0]
    names = [operation.operation.name for operation in node.parent_nodes]
    assert names == [f"inception_{block}_{branch}" for branch in branches]


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("size", [(63, 70), (66, 65)])
def test_stem_equals_literal_loops(size):
    keras.utils.set_random_seed(3)
    network = bn_inception((*size, 3))
    conv1 = network.get_layer("conv1_7x7_s2")
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    part = keras.Model(network.input, [conv1.output, network.get_layer("pool1_3x3_s2").output])
    convolved, pooled = (result.numpy() for result in part(images, training=False))
    expected = oracles.convolution(
        images, conv1.kernel.numpy(), conv1.bias.numpy(), stride=2, padding=3
    )
    np.testing.assert_allclose(convolved, expected, rtol=1e-4, atol=1e-4)
    activated = np.maximum(expected / np.sqrt(1 + 1e-5), 0)  # batch norm with its first statistics
    np.testing.assert_allclose(pooled, oracles.ceil_max_pool(activated), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block, before", [("3c", "3b"), ("4e", "4d")])
def test_ceil_max_pool_of_reduction_blocks(network, block, before):
    size = network.get_layer(f"inception_{before}_output").output.shape[1:3]
    values, pooled = between(network, f"inception_{before}_output", f"inception_{block}_pool", size)
    np.testing.assert_array_equal(pooled, oracles.ceil_max_pool(values))


@pytest.mark.parametrize("size, side", [(224, 56), (227, 57)])
def test_ceil_max_pool_of_even_and_odd_maps(size, side, network, even_network):
    model = network if size == 227 else even_network
    values, pooled = between(model, "conv2_3x3_relu", "pool2_3x3_s2", (side, side))
    assert pooled.shape[1:3] == (28, 28)
    np.testing.assert_array_equal(pooled, oracles.ceil_max_pool(values))


@pytest.mark.parametrize("block, before", [("3a", None), ("4b", "4a"), ("5a", "4e")])
def test_average_pool_counts_its_padding(little_network, block, before):
    first = f"inception_{before}_output" if before else "pool2_3x3_s2"
    size = little_network.get_layer(first).output.shape[1:3]
    values, pooled = between(little_network, first, f"inception_{block}_pool", size)
    np.testing.assert_allclose(pooled, oracles.padded_average_pool(values), rtol=1e-5)


def test_last_block_pools_the_maximum(little_network):
    size = little_network.get_layer("inception_5a_output").output.shape[1:3]
    values, pooled = between(little_network, "inception_5a_output", "inception_5b_pool", size)
    np.testing.assert_array_equal(pooled, oracles.padded_max_pool(values))


def test_strided_convolution_pads_both_sides(little_network):
    layer = little_network.get_layer("inception_3c_3x3")
    size = little_network.get_layer("inception_3c_3x3_reduce_relu").output.shape[1:3]
    values, convolved = between(
        little_network, "inception_3c_3x3_reduce_relu", "inception_3c_3x3", size
    )
    expected = oracles.convolution(
        values, layer.kernel.numpy(), layer.bias.numpy(), stride=2, padding=1
    )
    np.testing.assert_allclose(convolved, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("low", [31, 63, 191, 223, 255, 287])
def test_valid_sizes_are_eight_in_a_row(low):
    near = [side for side in range(low - 12, low + 20) if _is_valid_side(side)]
    assert near == list(range(low, low + 8))


@pytest.mark.parametrize(
    "size",
    [(31, 38), pytest.param((70, 63), marks=[pytest.mark.slow, pytest.mark.release]), (198, 191)],
)
def test_limits_of_valid_sizes_build(size):
    assert bn_inception((*size, 3)).output_shape[1:3] == tuple(side // 31 for side in size)


@pytest.mark.parametrize(
    "size, nearest",
    [
        ((240, 224), "height 240.*223–230 and 255–262"),
        ((224, 222), "width 222.*191–198 and 223–230"),
        ((231, 224), "height 231.*223–230 and 255–262"),
        ((199, 224), "height 199.*191–198 and 223–230"),
        ((30, 224), "height 30.*sizes: 31–38 pixels"),
    ],
)
def test_impossible_sizes_name_the_nearest_valid(size, nearest):
    with pytest.raises(ValueError, match=nearest):
        bn_inception((*size, 3))


@pytest.mark.parametrize("shape", [(224, 224), (224, 224, 1), (None, None, 3)])
def test_other_impossible_shapes(shape):
    with pytest.raises(ValueError, match="bn_inception"):
        bn_inception(shape)


@pytest.mark.slow
@pytest.mark.release
def test_any_batch_size_gives_the_same_rows(little_network):
    images = np.random.default_rng(0).normal(size=(5, 63, 70, 3)).astype("float32")
    together = little_network.predict(images, verbose=0)
    alone = little_network.predict(images[:1], verbose=0)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)
