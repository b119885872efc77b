"""Blocks of backbones: every weight in one, in order; decay of the rate; what is held."""

import keras
import numpy as np
import pytest
from keras import layers
from small_transformer import transformer_embedder

from keras_ms.models.backbones import build_backbone
from keras_ms.models.blocks import backbone_blocks, layer_decay_factors
from keras_ms.models.frozen_layers import freeze_blocks

RNG = np.random.default_rng(0)


def numbers(blocks):
    return [sum(int(np.prod(v.shape)) for v in block.variables) for block in blocks]


def assert_every_weight_is_in_one_block(backbone, blocks):
    in_blocks = [id(v) for block in blocks for v in block.variables]
    assert len(in_blocks) == len(set(in_blocks))
    assert set(in_blocks) == {id(v) for v in backbone.weights}
    assert blocks[0].name == "stem" and blocks[-1].name == "end"


def test_a_transformer_has_its_encoder_layers():
    backbone = transformer_embedder(depth=3).get_layer("backbone")
    blocks = backbone_blocks(backbone)
    assert [block.name for block in blocks] == ["stem", "layer_0", "layer_1", "layer_2", "end"]
    assert_every_weight_is_in_one_block(backbone, blocks)
    assert {v.name for v in blocks[0].variables} == {
        "kernel", "bias", "class_token", "position_embeddings",
    }  # fmt: skip
    assert [v.path.split("/")[-2] for v in blocks[-1].variables] == ["last", "last"]


@pytest.mark.parametrize(
    "name, count",
    [
        ("small", 3),  # its stages
        pytest.param(
            "bn_inception", 10, marks=[pytest.mark.slow, pytest.mark.release]
        ),  # modules 3a to 5b
        pytest.param(
            "inception_v3", 11, marks=[pytest.mark.slow, pytest.mark.release]
        ),  # mixed0 to mixed10
        pytest.param("resnet50", 16, marks=[pytest.mark.slow, pytest.mark.release]),
        # those of its 17 that add their input
        pytest.param("mobilenet_v2", 10, marks=[pytest.mark.slow, pytest.mark.release]),
        pytest.param(
            "densenet121", 58, marks=[pytest.mark.slow, pytest.mark.release]
        ),  # 6 + 12 + 24 + 16
        # those of its 21 that add their input or scale it
        pytest.param("efficientnet_v2_b0", 18, marks=[pytest.mark.slow, pytest.mark.release]),
    ],
)
@pytest.mark.parametrize(
    "frozen_batch_norm", [pytest.param(False, marks=[pytest.mark.slow, pytest.mark.release]), True]
)
def test_a_convolutional_network_has_its_branching_parts(name, count, frozen_batch_norm):
    if frozen_batch_norm and name not in ("small", "mobilenet_v2"):
        pytest.skip("two networks are enough to see that folding changes no block")
    backbone = build_backbone(name, input_shape=(224, 224, 3), frozen_batch_norm=frozen_batch_norm)
    blocks = backbone_blocks(backbone)
    assert len(blocks) == count + 2
    assert_every_weight_is_in_one_block(backbone, blocks)
    assert all(numbers(blocks[:-1]))


@pytest.mark.slow
@pytest.mark.release
def test_convnext_has_a_block_for_each_of_its_own():
    network = keras.applications.ConvNeXtTiny(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    blocks = backbone_blocks(network)
    assert len(blocks) == 2 + 3 + 3 + 9 + 3
    assert_every_weight_is_in_one_block(network, blocks)


def test_a_plain_chain_has_a_block_for_each_size_of_its_maps():
    chain = [keras.Input((32, 32, 3))]
    for width in (4, 6, 8):
        chain += [layers.Conv2D(width, 3, padding="same"), layers.MaxPooling2D()]
    network = keras.Sequential(chain)
    blocks = backbone_blocks(network)
    assert [len(block.variables) for block in blocks] == [2, 2, 2, 0]
    assert_every_weight_is_in_one_block(network, blocks)


class Holder(layers.Layer):
    """A layer that calls a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, images):
        return self.network(images)


def test_a_network_that_a_layer_holds_has_its_blocks():
    network = build_backbone("small", input_shape=(16, 16, 3), frozen_batch_norm=False)
    images = keras.Input((16, 16, 3))
    outer = keras.Model(images, Holder(network)(images))
    expected, found = backbone_blocks(network), backbone_blocks(outer)
    assert [[id(v) for v in block.variables] for block in found] == [
        [id(v) for v in block.variables] for block in expected
    ]
    freeze_blocks(outer, 1)
    assert len(outer.trainable_variables) == sum(
        v.trainable for block in expected[2:] for v in block.variables
    )


class OwnNetwork(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.one, self.two = layers.Conv2D(2, 3), layers.Conv2D(2, 3)

    def call(self, images):
        return self.two(self.one(images))


def test_a_network_without_blocks_is_refused_in_words():
    network = OwnNetwork()
    network(np.zeros((1, 8, 8, 3), "float32"))
    with pytest.raises(ValueError, match="No blocks were found in the backbone own.*layer_decay"):
        backbone_blocks(network)


def test_the_rate_falls_from_the_end_to_the_stem():
    backbone = transformer_embedder(depth=3).get_layer("backbone")
    factors = layer_decay_factors(backbone, 0.5)
    by_block = [{factors[id(v)] for v in block.variables} for block in backbone_blocks(backbone)]
    assert by_block == [{0.0625}, {0.125}, {0.25}, {0.5}, {1.0}]
    assert layer_decay_factors(backbone, 1.0) == {}
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="`decay` > 0 and <= 1"):
            layer_decay_factors(backbone, wrong)


def held_and_moved(backbone, model, images, count):
    """Trains a step: (blocks that did not move, blocks that did)."""
    blocks = backbone_blocks(backbone)
    before = [[v.numpy() for v in block.variables] for block in blocks]
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    model.train_on_batch(images, RNG.normal(size=(len(images), *model.output_shape[1:])))
    same = [
        all(np.array_equal(old, new) for old, new in zip(values, block.variables))
        for values, block in zip(before, blocks)
    ]
    return same[: count + 1], same[count + 1 : -1]


def test_frozen_blocks_do_not_move_and_drop_nothing():
    embedder = transformer_embedder(depth=3, dropout=0.5)
    backbone = embedder.get_layer("backbone")
    freeze_blocks(backbone, 2)
    images = RNG.uniform(0, 255, (8, 16, 16, 3)).astype("float32")
    held, moved = held_and_moved(backbone, embedder, images, 2)
    assert all(held) and not any(moved)
    tokens = backbone.get_layer("tokens")(images)
    first, second, third = backbone.get_layer("encoder").blocks
    for block, drops in ((first, False), (second, False), (third, True)):
        once, again = block(tokens, training=True), block(tokens, training=True)
        assert np.array_equal(once, again) != drops


def test_frozen_blocks_of_convolutions_keep_their_statistics():
    backbone = build_backbone("small", input_shape=(16, 16, 3), frozen_batch_norm=False)
    model = keras.Sequential([backbone, layers.GlobalAveragePooling2D()])
    images = RNG.uniform(0, 255, (8, 16, 16, 3)).astype("float32")
    freeze_blocks(backbone, 1)
    held, moved = held_and_moved(backbone, model, images, 1)
    assert all(held) and not any(moved)


def test_as_many_blocks_as_there_are_cannot_be_held():
    backbone = transformer_embedder(depth=3).get_layer("backbone")
    for wrong in (0, 3):
        with pytest.raises(
            ValueError, match="`freeze_blocks` from 1 to 2.*has 3 blocks.*freeze_backbone"
        ):
            freeze_blocks(backbone, wrong)
