"""The data sets that there are: every file of this folder that declares one."""

import functools
import importlib
import pkgutil
from pathlib import Path

from keras_ms.data import sets
from keras_ms.data.file_names import file_path
from keras_ms.data.sets.declaration import DataSet, Option


class UnreadOption(ValueError):
    """An option that the data set would not read.

    Attributes:
        option: its name.
        value: what was given.
    """

    def __init__(self, message: str, option: str, value: object) -> None:
        super().__init__(message)
        self.option, self.value = option, value


@functools.cache
def data_sets() -> dict[str, DataSet]:
    """Every `DATA_SET` of the modules in keras_ms/data/sets, by its name, in alphabetical order.

    Neither TensorFlow nor Keras is imported: the command line asks for the names.

    Raises:
        ValueError: two of one name, or two that are drawn.
    """
    modules = (
        importlib.import_module(f"{sets.__name__}.{module.name}")
        for module in pkgutil.iter_modules(sets.__path__)
    )
    declared = [module.DATA_SET for module in modules if hasattr(module, "DATA_SET")]
    by_name = {data_set.name: data_set for data_set in sorted(declared, key=lambda one: one.name)}
    if len(by_name) < len(declared) or sum(one.is_drawn for one in declared) > 1:
        raise ValueError(
            "Expected data sets of different names, one of them drawn. Received: "
            f"{', '.join(sorted(one.name for one in declared))}"
        )
    return by_name


def data_set_names() -> tuple[str, ...]:
    """The names that `dataset` takes beside "auto".

    Example:

    >>> "cub" in data_set_names()
    True
    """
    return tuple(data_sets())


def data_set_options() -> dict[str, Option]:
    """Every `Option` that some data set reads, by its name."""
    return {option.name: option for one in data_sets().values() for option in one.options}


def chosen_data_set(dataset: str = "auto", data_dir: str | Path | None = None) -> DataSet:
    """The data set of this name, or for "auto" the one whose files lie in the folder.

    Args:
        dataset: one of `data_set_names()`, or "auto": without a folder the set that is drawn, with
            one the set that is marked by a file in it, else a folder of class folders.
        data_dir: folder of the files, or a single file where that is the set.

    Raises:
        ValueError: an unknown name, no folder for a set that needs one or one for a set that is
            drawn, or files of several sets.
    """
    by_name = data_sets()
    if dataset == "auto":
        return _drawn() if data_dir is None else _data_set_in(data_dir)
    if dataset not in by_name:
        raise ValueError(
            f"Expected `dataset` as auto or one of {', '.join(by_name)}. Received: {dataset!r}"
        )
    chosen = by_name[dataset]
    if chosen.is_drawn and data_dir is not None:
        raise ValueError(f"The data set {dataset!r} is drawn and reads no data_dir: leave one out")
    if not chosen.is_drawn and data_dir is None:
        raise ValueError(f"The data set {dataset!r} needs data_dir, the folder it lies in")
    return chosen


def check_options(data_set: DataSet, options: dict) -> None:
    """Refuses options that this data set does not read, unless they have their defaults.

    Raises:
        UnreadOption: an option of other data sets.
        TypeError: an option of none.
    """
    known = data_set_options()
    read = {option.name for option in data_set.options}
    for name, value in options.items():
        if name not in known:
            raise TypeError(
                f"load_images() has no argument {name!r}. Options of data sets: {', '.join(known)}"
            )
        if name not in read and value != known[name].default:
            raise UnreadOption(
                f"{name} is for {known[name].only_for}; {data_set.name!r} does not read it: "
                "leave it out",
                name,
                value,
            )


def _drawn() -> DataSet:
    return next(one for one in data_sets().values() if one.is_drawn)


def _data_set_in(data_dir: str | Path) -> DataSet:
    path = Path(file_path(data_dir))
    by_name = data_sets()
    if path.is_file():
        with_ending = [one for one in by_name.values() if path.suffix.lower() in one.endings]
        if with_ending:
            return with_ending[0]
    marked = [one for one in by_name.values() if any(any(path.glob(mark)) for mark in one.marks)]
    if len(marked) > 1:
        raise ValueError(
            f"{data_dir} holds files of several data sets: "
            f"{', '.join(one.name for one in marked)}. Say which one with dataset=, or that it is "
            "a folder of images for each class with dataset='folder'"
        )
    return marked[0] if marked else by_name["folder"]
