"""Files and folders that appear whole or not at all.

The content is written under a temporary name beside its destination (same file system, so the
last step is a rename) and takes its name only once it is complete. A crash, a full disk or a
failed check leaves whatever stood at the destination before.
"""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path):
    """Yields a temporary path that becomes `path` when the block ends without an error.

    Args:
        path: destination file; its folder is created if missing. An existing file is replaced.

    Raises:
        IsADirectoryError: `path` is a folder.
        OSError: the folder cannot be written to (the message names it).
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"Expected a file name to write to. Received a folder: {path}")
    temporary = _temporary_folder_beside(path)
    try:
        # the suffix is kept: writers choose their format by it
        yield temporary / path.name
        written = temporary / path.name
        with open(written, "rb") as file:
            os.fsync(file.fileno())
        os.replace(written, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_folder(path, *, replace=True):
    """Yields a new, empty temporary folder that becomes `path` when the block ends without error.

    Args:
        path: destination folder. An existing folder there is replaced in the last step; a
            process killed between that step's two renames leaves it beside `path`, in a folder
            that ends in ".part".
        replace: False keeps what is there: a folder with something in it is refused at once, and
            where another process has made one meanwhile, the new one is dropped. Defaults to True.

    Raises:
        NotADirectoryError: `path` is an existing file.
        FileExistsError: without `replace`, `path` is a folder that is not empty.
        OSError: the parent cannot be written to (the message names it).
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"Expected a folder to write to. Received a file: {path}")
    if not replace and path.exists() and any(path.iterdir()):
        raise FileExistsError(
            f"The folder {path} exists already and is not empty. Remove it or name another"
        )
    temporary = _temporary_folder_beside(path)
    try:
        new = temporary / path.name
        new.mkdir()
        yield new
        if path.exists() and replace:
            # a folder cannot be renamed over a full one: the old one steps aside first
            os.replace(path, temporary / "old")
        try:
            if path.exists() and not replace:
                path.rmdir()  # fails on a full one
            os.replace(new, path)
        except OSError:
            if replace or not path.is_dir():
                raise
    except BaseException:
        if (temporary / "old").exists() and not path.exists():
            os.replace(temporary / "old", path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(folder):
    """Removes what a killed process was writing into the folder and never got its name."""
    for unfinished in Path(folder).glob(".*.part"):
        shutil.rmtree(unfinished, ignore_errors=True)


def check_writable(folder):
    """Makes the folder if it is missing; raises OSError if nothing can be written into it."""
    shutil.rmtree(_temporary_folder_beside(Path(folder) / "check"))


def _temporary_folder_beside(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise type(error)(
            error.errno,
            f"Cannot write {path.name!r} into the folder {str(path.parent)!r} ({error.strerror}). "
            "Choose a folder that exists or can be created and that you may write to",
        ) from error
