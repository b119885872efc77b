"""Which image files cannot be read, found before anything else is done with them."""

import itertools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from keras_ms.data.file_names import shown_name, some_names
from keras_ms.data.image_file import image_fault
from keras_ms.terminal.cores import num_cores
from keras_ms.terminal.progress import Progress

# files that are handed to the threads at a time: a task for each of 100,000 takes 100 MB
_BLOCK = 2048


def image_faults(
    paths: Iterable[str], total: int, progress: Progress | None = None
) -> dict[str, str]:
    """Why an image cannot be read, by the paths of those.

    Args:
        paths: of image files.
        total: how many there are.
        progress: told images checked and all of them. Defaults to None.
    """
    faults, done, left = {}, 0, iter(paths)
    # Pillow decodes outside the interpreter lock
    with ThreadPoolExecutor(num_cores()) as pool:
        while block := list(itertools.islice(left, _BLOCK)):
            for path, fault in zip(block, pool.map(image_fault, block)):
                done += 1
                if fault:
                    faults[path] = fault
                if progress is not None:
                    progress(done, total)
    return faults


def faults_in_words(faults: Mapping[str, str], total: int) -> str:
    """How many images cannot be read, and some of them with the reason.

    Example:

    >>> print(faults_in_words({"photos/a.jpg": "the file is empty"}, 20))
    1 of 20 images cannot be read:
      photos/a.jpg (the file is empty)
    """
    separator = "\n  "
    named = [f"{shown_name(path)} ({fault})" for path, fault in faults.items()]
    return (
        f"{len(faults)} of {total} images cannot be read:{separator}{some_names(named, separator)}"
    )
