"""TensorBoard's callback and the caller's own stand behind those that measure."""

import importlib.util

import keras
import pytest
from small_runs import small_is_tiny  # noqa: F401, for all here

from keras_ms.run import tracking
from keras_ms.run.settings import Settings
from keras_ms.run.training import train

SMALL = {
    "dataset": "glyphs", "image_size": 16, "steps": 2, "steps_per_epoch": 1, "export": (),
    "raw_pixels": False, "interpolate": False,
}  # fmt: skip


class Logs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.of_epochs = {}

    def on_epoch_end(self, epoch, logs=None):
        self.of_epochs[epoch] = dict(logs)


def test_without_tensorboard_it_is_refused_before_the_long_work(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        tracking.check_tracking(Settings.from_values(tensorboard=True))
    tracking.check_tracking(Settings.from_values())


def test_none_is_made_unless_it_is_asked_for(tmp_path):
    assert tracking.tracking_callbacks(Settings.from_values(), tmp_path) == []
    (board,) = tracking.tracking_callbacks(Settings.from_values(tensorboard=True), tmp_path)
    assert isinstance(board, keras.callbacks.TensorBoard)


@pytest.mark.slow
def test_callbacks_of_the_caller_see_recall(tmp_path):
    logs = Logs()
    settings = Settings.from_values(**SMALL, runs_folder=str(tmp_path))
    train(settings, log=lambda line: None, callbacks=[logs])
    assert sorted(logs.of_epochs) == [0, 1]
    assert all("val_recall@1" in found for found in logs.of_epochs.values())


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs pip install tensorboard"
)
def test_the_run_folder_has_events(tmp_path):
    settings = Settings.from_values(
        **SMALL, runs_folder=str(tmp_path), run_name="run", tensorboard=True
    )
    train(settings, log=lambda line: None)
    assert list((tmp_path / "run" / "tensorboard").glob("*/events.*"))
