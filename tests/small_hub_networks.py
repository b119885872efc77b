"""Small networks of KerasHub with random weights, one of each family; None without KerasHub."""

import pytest

SIDE = 32
_SHAPE = (SIDE, SIDE, 3)
_ONE_LAYER = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16}
_WIDE = {"intermediate_dim": 32}


def hub():
    """KerasHub; the test is skipped without it."""
    return pytest.importorskip("keras_hub", reason='needs pip install -e ".[hub]", Python 3.11')


def vit(side=SIDE):
    return hub().models.ViTBackbone(
        image_shape=(side, side, 3), patch_size=8, mlp_dim=32, **_ONE_LAYER
    )


def deit():
    return hub().models.DeiTBackbone(image_shape=_SHAPE, patch_size=8, **_ONE_LAYER, **_WIDE)


def dinov2(position_side=48):
    """Its learned positions are of another size than its images, as those of the presets."""
    return hub().models.DINOV2Backbone(
        patch_size=8,
        image_shape=_SHAPE,
        position_embedding_shape=(position_side, position_side, 3),
        num_register_tokens=2,
        **_ONE_LAYER,
        **_WIDE,
    )


def dinov3():
    return hub().models.DINOV3Backbone(patch_size=8, image_shape=_SHAPE, **_ONE_LAYER, **_WIDE)


def swin():
    return hub().models.SwinTransformerBackbone(
        image_shape=_SHAPE, embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4
    )


def _text_encoder(kind, **options):
    return kind(vocabulary_size=50, embedding_dim=16, **_ONE_LAYER, **_WIDE, **options)


def siglip():
    models = hub().models
    return models.SigLIPBackbone(
        vision_encoder=models.SigLIPVisionEncoder(
            patch_size=8, image_shape=_SHAPE, **_ONE_LAYER, **_WIDE
        ),
        text_encoder=_text_encoder(models.SigLIPTextEncoder, max_sequence_length=8),
    )


def clip():
    models = hub().models
    return models.CLIPBackbone(
        vision_encoder=models.CLIPVisionEncoder(
            patch_size=8, image_shape=_SHAPE, **_ONE_LAYER, **_WIDE
        ),
        text_encoder=_text_encoder(models.CLIPTextEncoder, max_sequence_length=8),
        projection_dim=8,
    )


def densenet():
    return hub().models.DenseNetBackbone(
        stackwise_num_repeats=[1, 1, 1], compression_ratio=0.5, growth_rate=4
    )


def efficientnet():
    return hub().models.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 1],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 8],
        stackwise_expansion_ratios=[1, 2],
        stackwise_strides=[1, 2],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_block_types=["v1", "v1"],
        stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False],
        width_coefficient=1.0,
        depth_coefficient=1.0,
    )
