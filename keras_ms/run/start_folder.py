"""Where a run began: there its relative places are looked for, where they are not here."""

import json
from pathlib import Path

from keras_ms.run.settings import Settings

# what is read; a run is written where it is now
_PLACES = ("data_dir", "test_classes", "weights", "backbone")


def start_folder(run_path: str | Path) -> Path | None:
    """The folder that a run began in; None where it does not say, as one of an earlier version."""
    try:
        text = (Path(run_path) / "environment.json").read_text(encoding="utf-8")
        return Path(json.loads(text)["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def place_from_start(place: str, run_path: str | Path) -> str:
    """A place as it leads somewhere: as written, else from the folder that the run began in.

    Args:
        place: path as the run has it, relative ones as they were typed.
        run_path: folder of the run.
    """
    if not place or Path(place).is_absolute() or Path(place).exists():
        return place
    began = start_folder(run_path)
    from_start = None if began is None else began / place
    return str(from_start) if from_start is not None and from_start.exists() else place


def with_places_from_start(settings: Settings, run_path: str | Path) -> Settings:
    """The settings of a run with places that lead to its images and weights from any folder.

    Args:
        settings: `Settings`, as settings.json has them.
        run_path: folder of the run.
    """
    values = settings.values()
    # of weights and backbones there are names too, such as imagenet: those have no ending
    by_name = ("weights", "backbone")
    places = {n: values[n] for n in _PLACES if n not in by_name or Path(values[n]).suffix}
    found = {name: place_from_start(str(place), run_path) for name, place in places.items()}
    changed = {name: place for name, place in found.items() if place != str(places[name])}
    return settings.with_values(**changed) if changed else settings
