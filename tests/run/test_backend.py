"""What another backend cannot do of a run is said before it begins."""

import keras
import pytest

from keras_ms.run.backend import check_backend, check_same_backend
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings

HDML = {"hdml": "paper", "loss": "n_pair", "images_per_class": 2}


@pytest.fixture
def on(monkeypatch):
    return lambda backend: monkeypatch.setattr(keras.backend, "backend", lambda: backend)


@pytest.mark.parametrize(
    "backend, settings, words",
    [
        ("jax", HDML, "hdml=paper does not train on Keras's jax backend: .*=tensorflow, or leave"),
        ("torch", HDML, "hdml=paper does not train on Keras's torch backend"),
        ("jax", {"loss": "hierarchical_triplet"}, "loss=hierarchical_triplet.*tensorflow or torch"),
        ("torch", {"devices": 2}, "devices=2 does not train.*tensorflow or jax"),
        ("numpy", {}, "one of Keras's backends tensorflow, jax, torch.*KERAS_BACKEND=numpy"),
    ],
)
def test_what_a_backend_cannot_train_is_refused(on, backend, settings, words):
    on(backend)
    with pytest.raises(ValueError, match=words):
        check_backend(Settings.from_values(**settings))


@pytest.mark.parametrize(
    "backend, settings",
    [
        ("tensorflow", HDML),
        ("tensorflow", {"devices": 2, "loss": "hierarchical_triplet"}),
        ("torch", {"loss": "hierarchical_triplet"}),
        ("jax", {"devices": 2, "neighbour_classes": 2}),
    ],
)
def test_what_it_can_train_is_not(on, backend, settings):
    on(backend)
    check_backend(Settings.from_values(**settings))


def test_a_run_is_resumed_on_the_backend_that_it_began_on(tmp_path, on):
    run = RunFolder(tmp_path)
    check_same_backend(run)
    run.write_missing_files()
    check_same_backend(run)
    on("jax")
    with pytest.raises(ValueError, match="began on Keras's tensorflow backend.*KERAS_BACKEND=tens"):
        check_same_backend(run)
