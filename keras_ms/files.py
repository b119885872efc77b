"""Files and folders that appear whole or not at all.

The content is written under a temporary name beside its destination (same file system, so the
last step is a rename) and takes its name only once it is complete. A crash, a full disk or a
failed check leaves whatever stood at the destination before. A process that is killed leaves the
temporary folder; the next one that writes there removes it. Whether its writer still lives is told
by a lock, which ends with the process, also on another machine.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, what a killed process leaves stays
    fcntl = None

# in a temporary folder: its lock, what is being written and what stood there before, the latter two
# folders with one entry of the destination's name, so that no name can be taken for another
_LOCK, _NEW, _BEFORE = ".writing", "new", "before"


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path that becomes `path` when the block ends without an error.

    Args:
        path: destination file; its folder is created if missing. An existing file is replaced.

    Raises:
        IsADirectoryError: `path` is a folder.
        OSError: the folder cannot be written to, or the disk is full (the message names it).
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"Expected a file name to write to. Received a folder: {path}")
    with _temporary_folder_beside(path) as temporary, _explained_full_disk(path):
        # the name is kept: writers choose their format by its suffix
        written = temporary / _NEW / path.name
        written.parent.mkdir()
        yield written
        _sync(written)
        os.replace(written, path)


@contextmanager
def whole_folder(path: str | os.PathLike, *, replace: bool = True) -> Iterator[Path]:
    """Yields a new, empty temporary folder that becomes `path` when the block ends without error.

    Args:
        path: destination folder. An existing folder there is replaced in the last step; a
            process killed between that step's two renames leaves it beside `path`, in a folder
            that ends in ".part", and the next one that writes there puts it back.
        replace: False keeps what is there: a folder with something in it is refused at once, and
            where another process has made one meanwhile, the new one is dropped. Defaults to True.

    Raises:
        NotADirectoryError: `path` is an existing file.
        FileExistsError: without `replace`, `path` is a folder that is not empty.
        OSError: the parent cannot be written to, or the disk is full (the message names it).
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"Expected a folder to write to. Received a file: {path}")
    if not replace and path.exists() and any(path.iterdir()):
        raise FileExistsError(
            f"The folder {path} exists already and is not empty. Remove it or name another"
        )
    with _temporary_folder_beside(path) as temporary, _explained_full_disk(path):
        try:
            new = temporary / _NEW / path.name
            new.mkdir(parents=True)
            yield new
            for file in new.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists() and replace:
                # a folder cannot be renamed over a full one: the old one steps aside first
                (temporary / _BEFORE).mkdir()
                os.replace(path, temporary / _BEFORE / path.name)
            try:
                if path.exists() and not replace:
                    path.rmdir()  # fails on a full one
                os.replace(new, path)
            except OSError:
                if replace or not path.is_dir():
                    raise
        except BaseException:
            _put_back(temporary)
            raise


def remove_unfinished(folder: str | os.PathLike, alone: bool = False) -> None:
    """Removes what a killed process was writing into the folder and never got its name.

    Args:
        folder: path of the folder.
        alone: whether nobody else writes there: then temporary folders that no lock tells of, of
            earlier versions too, are left behind as well.
    """
    _remove_abandoned(Path(folder))
    for temporary in Path(folder).glob(".*.part") if alone else ():
        if not (temporary / _LOCK).exists():
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: str | os.PathLike) -> None:
    """Makes the folder if it is missing; raises OSError if nothing can be written into it."""
    with _temporary_folder(Path(folder), ".check.", "Cannot write"):
        pass


def check_can_be_written(folder: str | os.PathLike) -> None:
    """As `check_writable`, for a folder that is made later: nothing is made now."""
    check_writable(next(p for p in (Path(folder), *Path(folder).absolute().parents) if p.exists()))


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, of whatever writer, says that the disk or a quota is used up."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # TensorFlow, HDF5 and NumPy have words of their own
    words = r"No space left|File too large|[Qq]uota exceeded|\d+ requested and \d+ written"
    return bool(re.search(words, str(error)))


def full_disk_error(path: str | os.PathLike, byte_count: int | None = None) -> OSError:
    """The OSError of a full disk: the file, what it needs where that is known, what to do.

    Args:
        path: destination.
        byte_count: size of what is written, at least. Defaults to None: not known.
    """
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    has_megabytes = f"{free / 1e6:.1f} MB are free"
    if byte_count is None:
        needs = f"cannot be written; {has_megabytes}"
    elif byte_count > free:
        needs = f"needs {byte_count / 1e6:.1f} MB and {has_megabytes}"
    else:
        # what files take beyond their contents, a quota, or another program that wrote meanwhile
        needs = f"needs more than {byte_count / 1e6:.1f} MB of space, and it was used up"
    return OSError(
        errno.ENOSPC,
        f"The disk is full: writing {str(path)!r} {needs}. Nothing was left there, and a file that "
        "stood there is unchanged. Free some space or choose a folder on another disk",
    )


@contextmanager
def _explained_full_disk(path):
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise full_disk_error(path) from error


def _temporary_folder_beside(path):
    # names may be as long as the file system allows, the temporary one is longer
    return _temporary_folder(path.parent, f".{path.name[:40]}.", f"Cannot write {path.name!r}")


@contextmanager
def _temporary_folder(parent, prefix, cannot):
    """Yields a new folder, locked by this process, and removes it; those of dead ones too."""
    temporary = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=parent))
        lock = nullcontext() if fcntl is None else _new_lock(temporary)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise type(error)(
            error.errno,
            f"{cannot} into the folder {str(parent)!r} ({error.strerror}). "
            "Choose a folder that exists or can be created and that you may write to",
        ) from error
    with lock:
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _new_lock(temporary):
    # it gets the name that others look for once it is locked
    unnamed = temporary / f"{_LOCK}.new"
    lock = open(unnamed, "w")
    _try_lock(lock)
    os.rename(unnamed, temporary / _LOCK)
    return lock


def _try_lock(file):
    """Whether this process holds the lock now; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have none
        return None
    return True


def _remove_abandoned(parent):
    """Removes temporary folders whose writer has ended; what a dead one moved aside comes back."""
    for temporary in parent.glob(".*.part"):
        try:
            # without its lock, a folder is another program's, or of a process that makes it now
            with open(temporary / _LOCK, "r+") as lock:
                if _try_lock(lock):
                    _put_back(temporary)
                    shutil.rmtree(temporary, ignore_errors=True)
        except OSError:
            continue


def _put_back(temporary):
    """What stepped aside gets its place again, unless another took it meanwhile."""
    for before in (temporary / _BEFORE).glob("*"):
        if not (temporary.parent / before.name).exists():
            os.replace(before, temporary.parent / before.name)


def _sync(file):
    # Windows syncs no file that is open for reading alone
    with open(file, "r+b" if fcntl is None else "rb") as opened:
        os.fsync(opened.fileno())
