"""Files of one model share a fingerprint; other models have others."""

import keras
import numpy as np
import pytest
from keras import layers
from small_exports import WRITERS, small_embedder

from keras_ms.export.embedder import load_embedder
from keras_ms.export.fingerprint import file_fingerprint, model_fingerprint


def _pooled(pooling, dtype="float32"):
    image = layers.Input((8, 8, 3))
    with_policy = layers.Dense(4, dtype=dtype, kernel_initializer="ones")
    return keras.Model(image, with_policy(pooling()(image)))


def test_every_file_of_a_model_has_its_fingerprint(tmp_path):
    model = small_embedder()
    model.save(tmp_path / "model.keras")
    for name, write in WRITERS.items():
        write(model, tmp_path / name)
    fingerprints = {
        load_embedder(tmp_path / name).fingerprint for name in ("model.keras", *WRITERS)
    }
    assert fingerprints == {model_fingerprint(model)}


def test_another_weight_gives_another_fingerprint():
    model = small_embedder()
    before = model_fingerprint(model)
    weights = model.get_weights()
    weights[-1][0] = np.nextafter(weights[-1][0], 2)
    model.set_weights(weights)
    assert model_fingerprint(model) != before


def test_another_pooling_of_the_same_weights_gives_another_fingerprint():
    average, largest = layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D
    assert model_fingerprint(_pooled(average)) != model_fingerprint(_pooled(largest))


def test_another_normalisation_gives_another_fingerprint(tmp_path):
    def scaled(scale):
        image = layers.Input((8, 8, 3))
        return keras.Model(image, layers.Rescaling(scale)(image))

    model = scaled(np.float32([0.1, 0.2, 0.3]))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert model_fingerprint(model) == model_fingerprint(again)
    assert model_fingerprint(model) != model_fingerprint(scaled(0.1))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_the_precision_of_the_arithmetic_does_not_count(dtype):
    pooling = layers.GlobalAveragePooling2D
    assert model_fingerprint(_pooled(pooling, dtype)) == model_fingerprint(_pooled(pooling))


def test_of_a_file_of_another_program_its_bytes_count(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(b"1")
        (tmp_path / name).write_bytes(b"1")
    one = file_fingerprint(tmp_path / "a", {})
    assert one == file_fingerprint(tmp_path / "b", {"recall_at_1": "0.5"})
    before = file_fingerprint(folder, {})
    (folder / "b").write_bytes(b"2")
    assert len({one, before, file_fingerprint(folder, {})}) == 3
    assert file_fingerprint(folder, {"model_fingerprint": one}) == one
