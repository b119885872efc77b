"""The state of a training between two epochs, in one .npz file that is written whole."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_ms.files import whole_file
from keras_ms.run.damaged_files import naming_file, read_arrays

if TYPE_CHECKING:
    from keras_ms.run.folder import RunFolder

History = Sequence[Mapping[str, float]]


def save_state(
    path: Path, model: keras.Model, *, epoch: int, rows: History, best: Mapping[str, Any]
) -> None:
    """Saves everything that training continues from.

    Args:
        path: the .npz file.
        model: the compiled model being trained; its optimizer's variables are saved too.
        epoch: epochs completed.
        rows: history so far, a list of dicts.
        best: dict of what is known of the best weights so far.
    """
    arrays: dict[str, Any] = {
        f"variable_{i:05d}": np.asarray(keras.ops.convert_to_numpy(v))
        for i, v in enumerate(_state_variables(model))
    }
    story = np.array(json.dumps({"epoch": epoch, "rows": rows, "best": best}))
    arrays = {"story": story, **arrays}
    with whole_file(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)


def read_story(path: Path, expected: str, remedy: str) -> dict[str, Any]:
    """What `save_state` saved beside the variables: a dict of "epoch", "rows" and "best".

    Args: as `keras_ms.run.damaged_files.naming_file`.

    Raises:
        DamagedFile: another file.
    """
    with naming_file(path, expected, remedy):
        return _story(read_arrays(path, lambda names: ["story"], expected, remedy))


def restore_state(
    path: Path, model: keras.Model, *, expected: str, remedy: str
) -> tuple[int, list[dict[str, float]], dict[str, Any]]:
    """Restores what `save_state` saved into `model`.

    Args:
        model: compiled as the one that was saved.
        path, expected, remedy: as `keras_ms.run.damaged_files.naming_file`.

    Returns:
        `(epoch, rows, best)`.

    Raises:
        DamagedFile: another file.
        ValueError: the state belongs to another model.
    """
    variables = _state_variables(model)
    with naming_file(path, expected, remedy):
        saved = read_arrays(path, list, expected, remedy)
        story = _story(saved)
    arrays = [array for name, array in saved.items() if name.startswith("variable_")]
    shapes = [tuple(v.shape) for v in variables]
    if [a.shape for a in arrays] != shapes:
        raise ValueError(
            f"{path} holds the state of another model: expected {len(shapes)} variables "
            f"of the model's shapes. Received: {len(arrays)}. Was settings.json changed?"
        )
    for variable, array in zip(variables, arrays):
        variable.assign(array)
    return story["epoch"], story["rows"], story["best"]


class SaveRun(keras.callbacks.Callback):
    """Writes history.csv and the training state after every epoch; stands last in the list.

    Args:
        run: RunFolder.
        steps_per_epoch: int.
        rows: history of the epochs before, as `restore_state` returned it.
        best: function that returns what is known of the best weights, a dict.
    """

    model: Any  # set by Keras before training begins

    def __init__(
        self,
        run: "RunFolder",
        steps_per_epoch: int,
        *,
        rows: list[dict[str, float]],
        best: Callable[[], Mapping[str, Any]],
    ):
        super().__init__()
        self.run = run
        self.steps_per_epoch = steps_per_epoch
        self.rows = rows
        self.best = best

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        row = {"epoch": epoch + 1, "step": (epoch + 1) * self.steps_per_epoch}
        self.rows.append({**row, **{name: float(value) for name, value in (logs or {}).items()}})
        self.run.write_history(self.rows)
        self.run.save_state(self.model, epoch + 1, self.rows, self.best())


def _story(arrays):
    story = json.loads(str(arrays["story"]))
    if not isinstance(story["epoch"], int) or len(story["rows"]) < story["epoch"]:
        raise ValueError(f"{len(story['rows'])} rows of {story['epoch']!r} epochs")
    _ = [row["step"] + 0 for row in story["rows"]], dict(story["best"])
    return story


def _state_variables(model):
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    # a model that trains its parts with an optimizer each, as HDML, lists them, built
    optimizers = getattr(model, "optimizers", [model.optimizer])
    return [*model.variables, *(v for optimizer in optimizers for v in optimizer.variables)]
