"""Keras's files are written through memory: the same contents, and no traceback on a full disk."""

import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

from keras_ms.models.saved_files import write_model, write_weights


def trained_model():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 8)), np.ones((4, 4)), verbose=0)
    return model


def values(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {})
        )
    return found


def test_the_weights_are_those_that_keras_writes(tmp_path):
    model = trained_model()
    model.save_weights(tmp_path / "keras.weights.h5")
    write_weights(model, tmp_path / "ours.weights.h5", attributes={"recall": "0.5"})
    ours, expected = (values(tmp_path / f"{name}.weights.h5") for name in ("ours", "keras"))
    assert ours.keys() == expected.keys() and len(ours) > 4
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value)
    with h5py.File(tmp_path / "ours.weights.h5") as file:
        assert file.attrs["recall"] == "0.5"
    before = model.get_weights()
    model.set_weights([value * 0 for value in before])
    model.load_weights(tmp_path / "ours.weights.h5")
    for value, again in zip(before, model.get_weights()):
        np.testing.assert_array_equal(again, value)


def test_a_model_is_loaded_again(tmp_path):
    model = trained_model()
    write_model(model, tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for value, loaded in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(loaded, value)
    with pytest.raises(ValueError, match=r"ends in \.keras"):
        write_model(model, tmp_path / "model.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


LIMITED = """
import resource, sys
import keras
from keras_ms.callbacks.kept_weights import BestWeightsNote, save_kept
from keras_ms.models.saved_files import write_model, write_weights

model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(200), keras.layers.Dense(200)])
model.compile("adam", "mse")
model.optimizer.build(model.trainable_variables)
folder = sys.argv[1]
writers = (
    lambda: write_weights(model, f"{folder}/a.weights.h5"),
    lambda: save_kept(model, f"{folder}/b.weights.h5", BestWeightsNote(0.5, 1, 1, "")),
    lambda: write_model(model, f"{folder}/c.keras"),
)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for size in (1, 100_000, 500_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    for write in writers:
        try:
            write()
        except OSError as error:
            assert "disk is full" in str(error), error
        else:
            raise SystemExit(f"written with {size} bytes")
print("refused", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a file's size")
def test_a_full_disk_leaves_one_error_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "refused", done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []
