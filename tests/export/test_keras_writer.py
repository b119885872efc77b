"""A .keras file that is written: kept if it brings the model back, refused if not."""

import keras
import numpy as np
import pytest

from keras_ms.export import ExportMismatchError
from keras_ms.export.keras_file import write_keras_file


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class Forgetful(keras.layers.Layer):
    """Multiplies by a trained number, and by another that its settings leave out."""

    def __init__(self, factor=1.0, saves=True, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.saves = factor, saves
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale * self.factor

    def load_own_variables(self, store):
        if self.saves:
            super().load_own_variables(store)

    def get_config(self):
        return {**super().get_config(), "saves": self.saves}


def model(layer):
    images = keras.Input((4, 4, 3))
    return keras.Model(images, keras.layers.Flatten()(layer(images)), name="forgets")


def test_a_model_that_comes_back_is_kept(tmp_path):
    assert write_keras_file(model(Forgetful()), tmp_path / "model.keras") == 0
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again(np.ones((2, 4, 4, 3))).shape == (2, 48)


def test_an_option_that_is_left_out_is_seen_in_the_outputs(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"as it was")
    with pytest.raises(ExportMismatchError, match="outputs differ by .*get_config leaves"):
        write_keras_file(model(Forgetful(factor=1.5)), tmp_path / "model.keras")
    assert (tmp_path / "model.keras").read_bytes() == b"as it was"


def test_a_weight_that_does_not_come_back_is_named(tmp_path):
    layer = Forgetful(saves=False, name="lost")
    forgets = model(layer)
    layer.scale.assign(2.0)
    with pytest.raises(ExportMismatchError, match="back: lost/scale came back with other values"):
        write_keras_file(forgets, tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_no_difference(tmp_path):
    layer = Forgetful()
    diverged = model(layer)
    layer.scale.assign(np.nan)
    assert write_keras_file(diverged, tmp_path / "model.keras") == 0
