"""Every setting of a training run, in groups, as Python, JSON and the command line have them."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_ms.run.settings.checks import check_together
from keras_ms.run.settings.data import DataSettings, ImageSettings
from keras_ms.run.settings.defaults import missing_values
from keras_ms.run.settings.earlier import translated
from keras_ms.run.settings.groups import GROUPS, SETTINGS, by_group, merged
from keras_ms.run.settings.model import HdmlSettings, LossSettings, ModelSettings
from keras_ms.run.settings.training import (
    BatchSettings,
    EvaluationSettings,
    ExportSettings,
    TrainingSettings,
)


@dataclass(frozen=True)
class Settings:
    """Settings of one run.

    `Settings.from_values(dataset="glyphs", steps=20)` makes them by the names that the command line
    has for them. What is left open (None) takes the default of the situation: training from
    scratch, a head on a frozen backbone, fine-tuning; keras_ms/run/settings/defaults.py has them
    beside their reasons.

    Args:
        data, images, model, loss, hdml, batches, training, evaluation, export: groups of settings.
            Default to their defaults.

    Raises:
        ValueError: settings that contradict each other, or that would not be read. A group of its
            own refuses a value of the wrong type, outside its range or not among its choices.

    Example:

    >>> Settings(loss=LossSettings("triplet", {"margin": 0.2})).training.steps
    600
    """

    data: DataSettings = DataSettings()
    images: ImageSettings = ImageSettings()
    model: ModelSettings = ModelSettings()
    # with options of its own each time
    loss: LossSettings = field(default_factory=LossSettings)
    hdml: HdmlSettings = field(default_factory=HdmlSettings)
    batches: BatchSettings = BatchSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    export: ExportSettings = ExportSettings()

    def __post_init__(self) -> None:
        for group, kind in GROUPS.items():
            if not isinstance(getattr(self, group), kind):
                raise ValueError(
                    f"Invalid type for {group}. Expected {kind.__name__}, or flat names in "
                    f"Settings.from_values. Received: {getattr(self, group)!r}"
                )
        for group, values in by_group(missing_values(self)).items():
            changed = dataclasses.replace(getattr(self, group), **values)
            object.__setattr__(self, group, changed)  # the class is frozen for everybody else
        check_together(self)

    @classmethod
    def from_values(cls, **values: Any) -> "Settings":
        """Settings by their flat names, those of the command line.

        Args:
            **values: such as `steps=20`, `loss="triplet"`, `loss_options={"margin": 0.2}`; those
                of earlier versions are translated.

        Raises:
            ValueError: an unknown name (the nearest known one is named) or an invalid value.

        Example:

        >>> Settings.from_values(dataset="glyphs", steps=20).data.dataset
        'glyphs'
        """
        groups = by_group(translated(values))
        return cls(**{group: GROUPS[group](**fields) for group, fields in groups.items()})

    def with_values(self, **values: Any) -> "Settings":
        """These settings with others by their flat names; options are added to those of the loss.

        Example:

        >>> Settings().with_values(steps=20, steps_per_epoch=10).training.steps
        20
        """
        return self.from_values(**merged(self.values(), translated(values)))

    def values(self) -> dict[str, Any]:
        """Every setting by its flat name."""
        return {one.name: getattr(getattr(self, one.group), one.field) for one in SETTINGS.values()}

    def to_json(self) -> str:
        """The settings as settings.json of a run folder has them, in groups."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(
        cls,
        path: str | Path,
        given: Mapping[str, Any] | None = None,
        values_if_missing: Mapping[str, Any] | None = None,
    ) -> "Settings":
        """Settings from a JSON file, in groups or by flat names; what it lacks has its default.

        Args:
            path: the file.
            given: values by flat name that win over those of the file. Defaults to None.
            values_if_missing: of settings that did not exist when the file was written. Defaults to
                None: their defaults. A file of all settings but `apply_exif_orientation` is of a
                run that turned no photos: there it is False.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a JSON object, an unknown key (the nearest known one is named) or an
                invalid value.
        """
        values, given = read_values(path), given or {}
        try:
            if len(values) > len(SETTINGS) // 2:  # written by a run, not by hand
                values_if_missing = {"apply_exif_orientation": False, **(values_if_missing or {})}
            return cls.from_values(
                **merged({**(values_if_missing or {}), **values}, translated(given))
            )
        except ValueError as error:
            also = ", or what was given with it" if given else ""
            raise ValueError(f"{error}. In the settings of {path}{also}") from error


def read_values(path: str | Path) -> dict[str, Any]:
    """What a JSON file of settings says, of this or of an earlier version, by flat name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a JSON object, or text in it that cannot be translated.
    """
    try:
        # some editors mark UTF-8 at the beginning of a file
        values = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"Expected a JSON file of settings, such as settings.json of a run. Received {path}: "
            "there is no such file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a JSON file of settings. Received {path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"Expected a JSON object of settings in {path}. Received: {str(values)[:100]}"
        )
    try:
        return translated(values)
    except ValueError as error:
        raise ValueError(f"{error}. In the settings of {path}") from error
