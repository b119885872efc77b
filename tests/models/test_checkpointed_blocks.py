"""Gradient checkpointing: the same gradients, from blocks that were computed twice."""

import keras
import numpy as np
import pytest
from small_transformer import EncoderLayer, transformer_embedder

from keras_ms import MultiSimilarityLoss
from keras_ms.models.checkpointed_blocks import checkpointable_layers, checkpointed_blocks
from keras_ms.models.embedding import build_embedder

IMAGES = np.random.default_rng(0).uniform(0, 255, (12, 8, 8, 3)).astype("float32")
LABELS = np.arange(12) % 3


def after_two_steps(monkeypatch, checkpointed, run_eagerly):
    """Weights after two steps of plain gradient descent, and how often a block was computed."""
    embedder, calls, call = transformer_embedder(depth=2, side=8), [], EncoderLayer.call

    def counted(self, tokens, **options):
        calls.append(self.name)
        return call(self, tokens, **options)

    embedder.compile(keras.optimizers.SGD(0.1), MultiSimilarityLoss(), jit_compile=False,
                     run_eagerly=run_eagerly)  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(EncoderLayer, "call", counted)
        if checkpointed:
            with checkpointed_blocks(embedder.get_layer("backbone")):
                embedder.fit(IMAGES, LABELS, epochs=2, verbose=0)
        else:
            embedder.fit(IMAGES, LABELS, epochs=2, verbose=0)
    return embedder, calls.count("layer_1")


@pytest.mark.parametrize(
    "policy, run_eagerly",
    [
        ("float32", True),
        pytest.param("float32", False, marks=[pytest.mark.slow, pytest.mark.release]),
        pytest.param("mixed_bfloat16", False, marks=[pytest.mark.slow, pytest.mark.release]),
    ],
)
def test_gradients_are_the_same_and_the_blocks_were_computed_again(
    monkeypatch, policy, run_eagerly
):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        plain, plain_calls = after_two_steps(monkeypatch, False, run_eagerly)
        again, calls = after_two_steps(monkeypatch, True, run_eagerly)
    finally:
        keras.config.set_dtype_policy(before)
    # a step, or the trace of one, computes each block once, and once more for its gradient
    assert calls == 2 * plain_calls
    tolerance = 1e-6 if policy == "float32" else 2e-3
    for expected, found in zip(plain.get_weights(), again.get_weights()):
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_nothing_of_it_is_left_behind():
    embedder = transformer_embedder(depth=2)
    with checkpointed_blocks(embedder.get_layer("backbone")):
        pass
    assert not [
        block
        for block in checkpointable_layers(embedder.get_layer("backbone"))
        if "call" in vars(block)
    ]


def test_where_it_would_not_act_or_not_be_right_it_is_refused():
    small = build_embedder("small", image_size=16).get_layer("backbone")
    with pytest.raises(ValueError, match="would not act on the backbone"):
        checkpointable_layers(small)
    dropping = transformer_embedder(depth=2, dropout=0.1).get_layer("backbone")
    with pytest.raises(ValueError, match="wrong gradients: dropout.* in layer_0 draws at random"):
        checkpointable_layers(dropping)
