"""LoRA on the attention of a backbone, and merged into it."""

import keras
import numpy as np
import pytest
from keras import layers
from small_transformer import embedder_around, transformer_embedder

from keras_ms import MultiSimilarityLoss
from keras_ms.models.backbones import build_backbone
from keras_ms.models.embedding import build_embedder
from keras_ms.models.lora import enable_lora, merge_lora
from keras_ms.optimizers import GroupedAdam

RNG = np.random.default_rng(0)
LABELS = np.arange(12) % 3


def images(side):
    return RNG.uniform(0, 255, (12, side, side, 3)).astype("float32")


def trained(embedder, pictures, steps=2):
    embedder.compile(GroupedAdam(0.02), MultiSimilarityLoss(), run_eagerly=True)
    for _ in range(steps):
        embedder.train_on_batch(pictures, LABELS)


def assert_adapts_and_merges(embedder, count, side, tmp_path):
    """`count` projections change by a low rank, nothing else does; merged, it is a plain model."""
    backbone, pictures = embedder.get_layer("backbone"), images(side)
    before = {v.path: v.numpy() for v in backbone.weights}
    start = np.asarray(embedder(pictures))
    assert enable_lora(embedder, 2) == count
    np.testing.assert_array_equal(np.asarray(embedder(pictures)), start)
    assert {v.name for v in backbone.trainable_variables} == {"lora_kernel_a", "lora_kernel_b"}
    assert len(backbone.trainable_variables) == 2 * count
    trained(embedder, pictures)
    moved = np.asarray(embedder(pictures))
    assert np.abs(moved - start).max() > 1e-3

    assert merge_lora(embedder) == count and merge_lora(embedder) == 0
    np.testing.assert_allclose(np.asarray(embedder(pictures)), moved, atol=1e-5)
    assert {v.path for v in backbone.weights} == set(before)
    changed = [v for v in backbone.weights if not np.array_equal(before[v.path], v)]
    assert len(changed) == count
    for kernel in changed:
        change = np.asarray(kernel, "float64") - before[kernel.path]
        change = change.reshape(-1, kernel.shape[-1]) if kernel.ndim > 2 else change
        assert np.linalg.matrix_rank(change, tol=1e-5) <= 2

    embedder.save(tmp_path / "merged.keras")
    again = keras.saving.load_model(tmp_path / "merged.keras", compile=False)
    assert not [v for v in again.weights if "lora" in v.path]
    np.testing.assert_allclose(np.asarray(again(pictures)), moved, atol=1e-5)


def test_queries_and_values_of_each_attention_are_adapted_and_merged(tmp_path):
    assert_adapts_and_merges(transformer_embedder(depth=2), 4, 16, tmp_path)


def test_a_traced_function_computes_the_same_after_merging():
    embedder, pictures = transformer_embedder(depth=1), images(16)
    enable_lora(embedder, 2, alpha=4)
    trained(embedder, pictures)
    embedder.run_eagerly = False
    moved = embedder.predict_on_batch(pictures)
    merge_lora(embedder)
    np.testing.assert_allclose(embedder.predict_on_batch(pictures), moved, atol=1e-5)
    np.testing.assert_allclose(np.asarray(embedder(pictures)), moved, atol=1e-5)


def test_weights_that_are_written_while_it_trains_fit_the_merged_model(tmp_path):
    embedder, pictures = transformer_embedder(depth=1), images(16)
    enable_lora(embedder, 2)
    trained(embedder, pictures)
    moved = np.asarray(embedder(pictures))
    embedder.save_weights(tmp_path / "best.weights.h5")
    trained(embedder, pictures)
    merge_lora(embedder)
    embedder.load_weights(tmp_path / "best.weights.h5")
    np.testing.assert_allclose(np.asarray(embedder(pictures)), moved, atol=1e-5)


def test_merging_is_in_full_precision_under_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        embedder, pictures = transformer_embedder(depth=1), images(16)
        enable_lora(embedder, 2)
        trained(embedder, pictures)
        query = embedder.get_layer("backbone").get_layer("encoder").blocks[0].attention._query_dense
        a, b = np.asarray(query.lora_kernel_a), np.asarray(query.lora_kernel_b)
        expected = np.asarray(query._kernel, "float64") + a.astype("float64") @ b
        merge_lora(embedder)
        np.testing.assert_allclose(query._kernel, expected, rtol=2e-7, atol=1e-7)
    finally:
        keras.config.set_dtype_policy(before)


def test_what_it_would_not_touch_is_refused():
    with pytest.raises(ValueError, match="no query or value projection.*Dense layers.*none"):
        enable_lora(build_embedder("small", image_size=16), 4)
    with pytest.raises(ValueError, match="layer 'backbone'"):
        enable_lora(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), 4)
    with pytest.raises(ValueError, match="rank"):
        enable_lora(transformer_embedder(depth=1), 0)
    embedder = transformer_embedder(depth=1)
    enable_lora(embedder, 2)
    with pytest.raises(ValueError, match="merge_lora first"):
        enable_lora(embedder, 2)


def test_statistics_of_the_backbone_are_held():
    small = build_backbone("small", input_shape=(16, 16, 3), frozen_batch_norm=False)
    tokens = layers.Reshape((4, 128))(small.output)
    tokens = layers.MultiHeadAttention(2, 8)(tokens, tokens)
    embedder = embedder_around(keras.Model(small.input, tokens, name="backbone"))
    assert enable_lora(embedder, 2) == 2
    statistics = [v for v in embedder.get_layer("backbone").weights if "moving" in v.name]
    before = [v.numpy() for v in statistics]
    trained(embedder, images(16))
    assert statistics and all(np.array_equal(a, b) for a, b in zip(before, statistics))
