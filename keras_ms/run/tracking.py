"""The curves of a run for TensorBoard, beside those that every run draws itself."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from keras_ms.run.settings import Settings


def check_tracking(settings: Settings) -> None:
    """Raises ValueError if what the settings ask for is not installed."""
    if settings.evaluation.tensorboard and find_spec("tensorboard") is None:
        raise ValueError(
            "--tensorboard needs the package tensorboard, which is not installed: pip install "
            "tensorboard, or leave it out: curves.png and history.csv have the same figures"
        )


def tracking_callbacks(settings: Settings, run_folder: Path) -> list[Any]:
    """Callbacks that stand behind those that measure, and find their values in the logs.

    Args:
        settings: of the run.
        run_folder: gets a folder `tensorboard`.
    """
    if not settings.evaluation.tensorboard:
        return []
    import keras

    # the graph and a profile would cost seconds and say nothing of the figures
    board = keras.callbacks.TensorBoard(
        str(run_folder / "tensorboard"), write_graph=False, update_freq="epoch", profile_batch=0
    )
    return [board]
