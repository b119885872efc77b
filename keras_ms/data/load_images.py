"""Any data set by its name, or by the files that lie in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_ms.data.file_names import file_path, shown_name
from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.catalogue import check_options, chosen_data_set
from keras_ms.data.sets.declaration import ProgressWords
from keras_ms.terminal.progress import Progress, progress_lines

_TELL_EVERY = 10_000  # images listed or files extracted, some seconds


def load_images(
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    *,
    image_size: int | None = None,
    seed: int = 0,
    log: Callable[[str], Any] = print,
    **options: Any,
) -> ImageList:
    """The images of a data set, whichever it is.

    Args:
        dataset: one of `keras_ms.data.sets.catalogue.data_set_names()`, or "auto": the set that
            lies in `data_dir`, told by its files; without a folder the glyphs, which are drawn.
            Defaults to "auto".
        data_dir: folder with the images or archives, or a CSV file. Defaults to None.
        image_size: side in pixels, for sets that are drawn or read from drawings of one size;
            others are resized later. Defaults to None: what the set's loader says.
        seed: of drawn images. Defaults to 0.
        log: function that takes a line of text for the user. Defaults to `print`.
        **options: what only some data sets read, such as check_counts, test_fraction,
            skip_unreadable or framed_drawings. One that this set does not read is refused, unless
            it has its default.

    Returns:
        `ImageList`.

    Raises:
        ValueError, FileNotFoundError: no such data; the message says what is expected.
        TypeError: an option of no data set.

    Example:

    >>> images = load_images("glyphs", image_size=32)
    >>> images.name, images.images.shape[1:]
    ('glyphs', (32, 32, 3))
    """
    data_set = chosen_data_set(dataset, data_dir)
    check_options(data_set, options)
    if dataset == "auto" and (data_set.marks or data_set.endings):
        log(f"{shown_name(data_dir)}: read as the data set {data_set.name!r}")
    read = [option for option in data_set.options if option.name in options]
    arguments = {option.name: options[option.name] for option in read if option.change is None}
    made_for = {"image_size": image_size, "seed": seed}
    arguments |= {name: made_for[name] for name in data_set.takes if made_for[name] is not None}
    if data_set.progress:
        arguments["progress"] = _told(data_set.progress, log)
    folder = () if data_dir is None else (file_path(data_dir),)
    images = data_set.load(*folder, **arguments)
    for option in read:
        if option.change is not None:
            images = option.change(images, options[option.name])
    return images


def _told(words: ProgressWords, log: Callable[[str], Any]) -> Progress:
    """A loader's `progress`, which tells the user how far it is a line at a time."""
    told, named_lines = 0, None

    def progress(done: int, total: int | None = None) -> None:
        nonlocal told, named_lines
        if total is not None:
            named_lines = named_lines or progress_lines(words.named, log)
            named_lines(done, total)
        elif done >= told + _TELL_EVERY:
            told = done
            log(words.counted.format(done))
        elif done < told:  # of the next archive
            told = 0

    return progress
