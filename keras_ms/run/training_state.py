"""The state of a training between two epochs, in one .npz file that is written whole."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_ms.files import whole_file
from keras_ms.run.damaged_files import errors_name_file, read_arrays

if TYPE_CHECKING:
    from keras_ms.run.folder import RunFolder

History = Sequence[Mapping[str, float]]


def save_state(
    path: Path, model: keras.Model, *, epoch: int, history: History, best: Mapping[str, Any]
) -> None:
    """Saves everything that training continues from.

    Args:
        path: the .npz file.
        model: the compiled model being trained; its optimizer's variables are saved too.
        epoch: epochs completed.
        history: of the epochs so far, a list of dicts.
        best: dict of what is known of the best weights so far.
    """
    arrays: dict[str, Any] = {
        f"variable_{i:05d}": np.asarray(keras.ops.convert_to_numpy(v))
        for i, v in enumerate(_state_variables(model))
    }
    progress = np.array(json.dumps({"epoch": epoch, "rows": history, "best": best}))
    arrays = {"story": progress, **arrays}
    with whole_file(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)


def read_progress(path: Path, expected: str, remedy: str) -> dict[str, Any]:
    """What `save_state` saved beside the variables: a dict of "epoch", "rows" and "best".

    Args: as `keras_ms.run.damaged_files.errors_name_file`.

    Raises:
        DamagedFile: another file.
    """
    with errors_name_file(path, expected, remedy):
        return _saved_progress(read_arrays(path, lambda names: ["story"], expected, remedy))


def restore_state(
    path: Path, model: keras.Model, *, expected: str, remedy: str
) -> tuple[int, list[dict[str, float]], dict[str, Any]]:
    """Restores what `save_state` saved into `model`.

    Args:
        model: compiled as the one that was saved.
        path, expected, remedy: as `keras_ms.run.damaged_files.errors_name_file`.

    Returns:
        `(epoch, history, best)`.

    Raises:
        DamagedFile: another file.
        ValueError: the state belongs to another model.
    """
    variables = _state_variables(model)
    with errors_name_file(path, expected, remedy):
        saved = read_arrays(path, list, expected, remedy)
        progress = _saved_progress(saved)
    arrays = [array for name, array in saved.items() if name.startswith("variable_")]
    shapes = [tuple(v.shape) for v in variables]
    if [a.shape for a in arrays] != shapes:
        raise ValueError(
            f"{path} holds the state of another model: expected {len(shapes)} variables "
            f"of the model's shapes. Received: {len(arrays)}. Was settings.json changed?"
        )
    for variable, array in zip(variables, arrays):
        variable.assign(array)
    return progress["epoch"], progress["rows"], progress["best"]


class SaveRun(keras.callbacks.Callback):
    """Writes history.csv and the training state after every epoch; stands last in the list.

    Args:
        run: RunFolder.
        steps_per_epoch: int.
        history: of the epochs before, as `restore_state` returned it.
        best: function that returns what is known of the best weights, a dict.
    """

    model: Any  # set by Keras before training begins

    def __init__(
        self,
        run: "RunFolder",
        steps_per_epoch: int,
        *,
        history: list[dict[str, float]],
        best: Callable[[], Mapping[str, Any]],
    ):
        super().__init__()
        self.run = run
        self.steps_per_epoch = steps_per_epoch
        self.history = history
        self.best = best

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        row = {"epoch": epoch + 1, "step": (epoch + 1) * self.steps_per_epoch}
        self.history.append({**row, **{name: float(value) for name, value in (logs or {}).items()}})
        self.run.write_history(self.history)
        self.run.save_state(self.model, epoch + 1, self.history, self.best())


def _saved_progress(arrays):
    progress = json.loads(str(arrays["story"]))
    if not isinstance(progress["epoch"], int) or len(progress["rows"]) < progress["epoch"]:
        raise ValueError(f"{len(progress['rows'])} rows of {progress['epoch']!r} epochs")
    _ = [row["step"] + 0 for row in progress["rows"]], dict(progress["best"])
    return progress


def _state_variables(model):
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    # a model that trains its parts with an optimizer each, as HDML, lists them, built
    optimizers = getattr(model, "optimizers", [model.optimizer])
    return [*model.variables, *(v for optimizer in optimizers for v in optimizer.variables)]
