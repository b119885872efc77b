"""Blocks and LoRA of the transformers in KerasHub, tiny and random."""

import keras
import numpy as np
import pytest
from keras import layers
from small_transformer import embedder_around

from keras_ms import MultiSimilarityLoss
from keras_ms.models.blocks import backbone_blocks
from keras_ms.models.checkpointed_blocks import checkpointable_layers
from keras_ms.models.lora import enable_lora, merge_lora
from keras_ms.optimizers import GroupedAdam, decayed_kernels

hub = pytest.importorskip("keras_hub", reason="the extra hub is not installed").models

SIDE = 16
SIZES = {"patch_size": 8, "num_layers": 2, "hidden_dim": 16, "num_heads": 2}
WIDE = {**SIZES, "intermediate_dim": 32, "image_shape": (SIDE, SIDE, 3)}
# network, projections to queries and values (two an attention, or one for all)
FAMILIES = {
    "ViT": (
        lambda: hub.ViTBackbone(
            **{**SIZES, "patch_size": (8, 8)}, mlp_dim=32, image_shape=(SIDE, SIDE, 3)
        ),
        4,
    ),
    "DeiT": (lambda: hub.DeiTBackbone(**WIDE), 4),
    "DINOv2": (
        lambda: hub.DINOV2Backbone(**WIDE, position_embedding_shape=(SIDE, SIDE, 3)),
        4,
    ),
    "DINOv3": (lambda: hub.DINOV3Backbone(**WIDE), 4),
    "SigLIP": (lambda: hub.SigLIPVisionEncoder(**WIDE), 6),  # its pooling attends too
    "CLIP": (lambda: hub.CLIPVisionEncoder(**WIDE), 4),
    "Swin": (
        lambda: hub.SwinTransformerBackbone(
            image_shape=(32, 32, 3), embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4,
            drop_path=0.0,
        ),
        2,
    ),
}  # fmt: skip
FAST = ("ViT", "DINOv3")


def embedder_of(family):
    keras.utils.set_random_seed(0)
    network = FAMILIES[family][0]()
    (inner,) = network.inputs
    images = keras.Input(inner.shape[1:], name="image")
    given = {name: images for name in network.input} if isinstance(network.input, dict) else images
    outputs = network(given)
    pool = layers.GlobalAveragePooling1D if len(outputs.shape) == 3 else layers.Identity
    backbone = keras.Model(images, outputs, name="backbone")
    return embedder_around(backbone, pool=pool(dtype="float32", name="pool"))


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in FAST else [pytest.mark.slow, pytest.mark.release])
        for name in FAMILIES
    ],
)
def test_a_family_has_its_blocks_and_is_adapted_and_merged(family, tmp_path):
    embedder = embedder_of(family)
    backbone = embedder.get_layer("backbone")
    blocks = backbone_blocks(backbone)
    assert len(blocks) == 4 and len(checkpointable_layers(backbone)) >= 2
    in_blocks = [id(v) for block in blocks for v in block.variables]
    assert sorted(in_blocks) == sorted(id(v) for v in backbone.weights)
    # nothing but matrices: no tokens, places, biases of heads
    flags = decayed_kernels(backbone.trainable_variables)
    decayed = [v for v, flag in zip(backbone.trainable_variables, flags) if flag]
    assert {v.name for v in decayed} == {"kernel"} and not [
        v.path for v in decayed if "embedding" in v.path.split("/")[-2] and len(v.shape) < 4
    ]

    images = np.random.default_rng(0).uniform(0, 255, (6, *embedder.input_shape[1:]))
    start = np.asarray(embedder(images))
    kept = {v.path: v.numpy() for v in backbone.weights}
    assert enable_lora(embedder, 2) == FAMILIES[family][1]
    np.testing.assert_array_equal(np.asarray(embedder(images)), start)
    embedder.compile(GroupedAdam(0.02), MultiSimilarityLoss(), run_eagerly=True)
    for _ in range(2):
        embedder.train_on_batch(images, np.arange(6) // 2)
    moved = np.asarray(embedder(images))
    assert np.abs(moved - start).max() > 1e-3

    assert merge_lora(embedder) == FAMILIES[family][1]
    np.testing.assert_allclose(np.asarray(embedder(images)), moved, atol=1e-5)
    changed = [v for v in backbone.weights if not np.array_equal(kept[v.path], v)]
    assert len(changed) == FAMILIES[family][1] and set(kept) == {v.path for v in backbone.weights}
    embedder.save(tmp_path / "merged.keras")
    again = keras.saving.load_model(tmp_path / "merged.keras", compile=False)
    np.testing.assert_allclose(np.asarray(again(images)), moved, atol=1e-5)
