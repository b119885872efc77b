"""The folder of a run: settings, environment, history, training state. All written whole.

A run that was interrupted at any moment continues from the state saved at its last complete
epoch; batches and augmentation are functions of the seed and the step, so what follows is what
would have followed, to the last bit where the machine and the number of threads are the same.
"""

import csv
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import keras

from keras_ms.data.image_list import ImageList
from keras_ms.files import check_writable, whole_file
from keras_ms.run.damaged_files import (
    DamagedFile,
    errors_name_file,
    read_json,
    read_numbers,
)
from keras_ms.run.origin import data_summary, environment
from keras_ms.run.settings import Settings, read_values
from keras_ms.run.start_folder import with_places_from_start
from keras_ms.run.training_state import read_progress, restore_state, save_state
from keras_ms.terminal.command_words import resume_command

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, mind not to resume a running run
    fcntl = None

# what each file holds, and what continuing the run does where it is missing
_CONTENTS = {
    "data.json": ("the counts of its images", "writes it again"),
    "environment.json": ("the versions it was trained with", "writes it again"),
    "baselines.json": ("recalls before training", "measures them again"),
    "folds.json": ("recalls of heads in folds", "measures them again"),
    "choice.json": ("by, candidates and chosen, as training writes", "chooses again"),
    "summary.json": ("the recalls of a finished run", "writes it again"),
    "history.csv": ("a row of numbers for each epoch", "writes it again"),
    "state.npz": ("the state of a training", "begins again at the first step"),
    "start.weights.h5": ("the weights before training", "writes them again"),
    "chosen.weights.h5": ("the weights that were chosen", "chooses again"),
    "class_tree.npz": ("a class tree", "leaves its picture out"),
    # training goes on from them, so without them from nothing
    "best.weights.h5": ("the best weights so far", "begins again at the first step"),
    "first_class_tree.npz": ("a class tree", "begins again at the first step"),
}
_NEEDED_BY_STATE = ("best.weights.h5", "first_class_tree.npz")


class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path):
        # resolved, so that even "." has a name
        self.path = Path(path).resolve()
        self.settings_file = self.path / "settings.json"
        self.environment_file = self.path / "environment.json"
        self.data_file = self.path / "data.json"
        self.state_file = self.path / "state.npz"
        self.history_file = self.path / "history.csv"
        self.curves_file = self.path / "curves.png"
        self.baselines_file = self.path / "baselines.json"
        self.summary_file = self.path / "summary.json"
        self.model_file = self.path / "embedder.keras"
        self.folds_file = self.path / "folds.json"
        self.choice_file = self.path / "choice.json"
        self.start_weights_file = self.path / "start.weights.h5"
        self.best_weights_file = self.path / "best.weights.h5"
        self.chosen_weights_file = self.path / "chosen.weights.h5"
        self.last_weights_file = self.path / "last.weights.h5"
        self.curriculum_file = self.path / "curriculum.csv"
        self.class_tree_file = self.path / "class_tree.npz"
        self.first_class_tree_file = self.path / "first_class_tree.npz"
        self.tree_picture_file = self.path / "class_tree.png"
        self.hardness_file = self.path / "hardness.png"

    def check_new(self) -> None:
        """Raises FileExistsError if a run is there, OSError if the folder cannot be written."""
        try:
            begun = self.settings_file.exists()
        except OSError as error:
            raise self._not_made(error) from error
        if begun:
            raise FileExistsError(
                f"{self.path} holds a run already. Continue it with --resume {self.path}, or "
                "choose another --run-name"
            )
        check_writable(self.path.parent)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Makes the folder of a run that is to begin and keeps it for this process, as `lock`.

        Of processes that begin a run of one name together one has the folder before any of them
        writes into it. A folder that no run began in is removed again.

        Raises:
            FileExistsError: a run is there.
            BlockingIOError: another process has the folder.
            OSError: the folder cannot be made or written to.
        """
        self.check_new()
        is_new = not self.path.exists()
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise self._not_made(error) from error
        with self.lock():
            self.check_new()
            try:
                yield
            finally:
                # another process may make the lock anew meanwhile: then the folder is its own
                with suppress(OSError):
                    if is_new and [file.name for file in self.path.iterdir()] == [".lock"]:
                        (self.path / ".lock").unlink()
                        self.path.rmdir()

    def _not_made(self, error):
        return type(error)(
            error.errno,
            f"Cannot make the folder of the run, {self.path} ({error.strerror}). Choose another "
            "--run-name or --runs-folder",
        )

    def create(self, settings: Settings, images: ImageList | None = None) -> None:
        """Makes the folder and writes settings.json, environment.json and data.json into it, and
        a copy of the curriculum's table.

        Args:
            settings: `Settings`.
            images: the run's `ImageList`. Defaults to None: no data.json.
        """
        if settings.batches.curriculum:
            # whatever becomes of the file, a resumed run goes on with the table that it began with
            with whole_file(self.curriculum_file) as temporary:
                temporary.write_bytes(Path(settings.batches.curriculum).read_bytes())
        # settings.json makes it a run: what a resumed run reads is there before
        with whole_file(self.settings_file) as temporary:
            temporary.write_text(settings.to_json(), encoding="utf-8")
        self.write_missing_files(images)

    def write_missing_files(self, images: ImageList | None = None) -> None:
        """Writes environment.json and data.json where they are missing.

        Args:
            images: as in `create`.
        """
        if not self.environment_file.is_file():
            self.write_json(self.environment_file, environment())
        if images is not None and not self.data_file.is_file():
            self.write_json(self.data_file, data_summary(images))

    @classmethod
    def find(cls, path: str | Path, runs_folder: str | Path = "runs") -> "RunFolder":
        """The run to resume: `path`, or the newest unfinished run in `runs_folder` that no
        process is working on, for "latest".

        Raises:
            FileNotFoundError: there is none.
        """
        if path == "latest":
            unfinished = [
                cls(settings.parent)
                for settings in sorted(
                    Path(runs_folder).glob("*/settings.json"), key=lambda file: file.stat().st_mtime
                )
                if not cls(settings.parent).summary_file.exists()
                and cls(settings.parent)._is_free()
            ]
            if not unfinished:
                raise FileNotFoundError(f"No unfinished run in {str(runs_folder)!r} to resume")
            return unfinished[-1]
        run = cls(path)
        if not run.settings_file.is_file():
            raise FileNotFoundError(
                "Expected the folder of a run, with settings.json in it, to resume. "
                f"Received: {path}"
            )
        return run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second process from working on the run; released when the process ends.

        Raises:
            BlockingIOError: the run is being worked on.
        """
        taken = BlockingIOError(
            errno.EAGAIN,
            f"{self.path} is being trained by another process. Wait for its end, or choose "
            "another --run-name",
        )
        with open(self.path / ".lock", "w") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise taken from None
                # whoever gave the run up has removed the file and locked nothing for others
                if not self._is_lock(file):
                    raise taken
            yield

    def _is_lock(self, file):
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path / ".lock"))
        except FileNotFoundError:
            return False

    def _is_free(self):
        try:
            with self.lock():
                return True
        except OSError:
            return False

    def read_settings(self) -> Settings:
        """The settings; images and weights are found from any folder, as long as they stay."""
        try:
            settings = Settings.read(
                self.settings_file, values_if_missing={"tune": "off", "interpolate": False}
            )
        except ValueError as error:
            raise DamagedFile(
                f"{error}. {self.settings_file} is written once, as a run begins: mend it, or "
                "begin a new run"
            ) from error
        saved = read_values(self.settings_file)
        is_open = saved.get("backbone_learning_rate") is None
        if "tune" not in saved and is_open and settings.training.backbone_learning_rate is not None:
            # the run began when an open rate was that of the head
            settings = settings.with_values(backbone_learning_rate=settings.training.learning_rate)
        if self.curriculum_file.is_file():
            settings = settings.with_values(curriculum=str(self.curriculum_file))
        return with_places_from_start(settings, self.path)

    def settled_settings(self) -> Settings:
        """The settings, with what folds have chosen of what was left open."""
        settings, choice = self.read_settings(), self.read_json(self.choice_file)
        if settings.training.tune != "folds":
            return settings
        if choice is not None:
            with self.errors_name_file(self.choice_file):
                chosen = choice["candidates"][choice["chosen"]]
                start, rate = chosen["start"], chosen["learning_rate"]
        else:
            # with too few classes for folds the usual ones were taken
            with self.errors_name_file(self.summary_file):
                kept = (self.read_json(self.summary_file) or {}).get("kept") or {}
                start, rate = kept.get("head_initializer"), kept.get("learning_rate")
        return settings.with_values(
            head_initializer=settings.model.head_initializer or start,
            learning_rate=settings.training.learning_rate or rate,
        )

    def write_json(self, path: Path, content: Any) -> None:
        with whole_file(path) as temporary:
            text = json.dumps(content, indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")

    def read_json(self, path: Path) -> Any:
        """What `write_json` wrote, None without the file.

        Raises:
            DamagedFile: a ValueError that names the file and says what to do.
        """
        return read_json(path, *self._contents(path))

    def read_data_summary(self) -> dict[str, Any] | None:
        """`data_summary` of the images that the run began with; None without data.json.

        Raises:
            DamagedFile: as `read_json`.
        """
        summary = self.read_json(self.data_file)
        if summary is not None:
            with self.errors_name_file(self.data_file):
                _ = [(classes, count) for classes, count in summary["counts"].values()]
                _ = summary["test_classes"]
        return summary

    def errors_name_file(self, path: Path) -> AbstractContextManager[None]:
        """A context that turns errors about a file's content into a `DamagedFile` about it."""
        return errors_name_file(path, *self._contents(path))

    def remedy(self, path: Path) -> str:
        """What to do about a damaged file of the run, in words."""
        return self._contents(path)[1]

    def _contents(self, path):
        expected, again = _CONTENTS[path.name]
        what = "it and state.npz" if path.name in _NEEDED_BY_STATE else "it"
        command = resume_command(self.path, ["train"])
        return expected, f"Delete {what}; then this {again}: {command}"

    def write_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """Writes the rows of all epochs so far, one dict each, as history.csv."""
        with whole_file(self.history_file) as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                # callbacks of the user may add some numbers now and then
                names = dict.fromkeys(name for row in history for name in row)
                writer = csv.DictWriter(file, fieldnames=list(names))
                writer.writeheader()
                writer.writerows(history)

    def read_history(self) -> list[dict[str, float]]:
        """The rows of history.csv, dicts of numbers; none without the file.

        Raises:
            DamagedFile: as `read_json`.
        """
        if not self.history_file.is_file():
            return []
        return read_numbers(self.history_file, *self._contents(self.history_file))

    def save_state(
        self,
        model: keras.Model,
        epoch: int,
        history: Sequence[Mapping[str, float]],
        best: Mapping[str, Any],
    ) -> None:
        """As `keras_ms.run.training_state.save_state`, into the folder."""
        save_state(self.state_file, model, epoch=epoch, history=history, best=best)

    def read_progress(self) -> dict[str, Any] | None:
        """The dict of "epoch", "rows" and "best" in the training state; None without a state.

        Raises:
            DamagedFile: as `read_json`.
        """
        if not self.state_file.is_file():
            return None
        return read_progress(self.state_file, *self._contents(self.state_file))

    def restore_state(
        self, model: keras.Model
    ) -> tuple[int, list[dict[str, float]], dict[str, Any]]:
        """As `keras_ms.run.training_state.restore_state`, from the folder.

        Returns:
            `(epoch, history, best)`, or `(0, [], {})` if the run was interrupted before its first
            complete epoch.
        """
        if not self.state_file.is_file():
            return 0, [], {}
        expected, remedy = self._contents(self.state_file)
        return restore_state(self.state_file, model, expected=expected, remedy=remedy)
