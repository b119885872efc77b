"""Files on a disk or wherever fsspec opens: read, listed, and written whole or not at all."""

import os
import uuid
from contextlib import contextmanager, suppress
from typing import Any

from keras_ms.data.file_names import file_path
from keras_ms.files import remove_unfinished, whole_file
from keras_ms.search.packages import import_search_package


def is_url(name: str) -> bool:
    """Whether a name is for fsspec, such as s3://bucket/photos."""
    return "://" in name


def file_system(place: str) -> tuple[Any, str]:
    """The file system of fsspec that has a path or a URL, and how it calls the place.

    Raises:
        ImportError: fsspec is missing, or the package that it needs for this kind of URL.
        ValueError: a kind of URL that fsspec does not know.
    """
    fsspec = import_search_package("fsspec")
    if not is_url(place):
        # whole: "::" and "~" have meanings of fsspec's own
        return fsspec.filesystem("file"), os.path.abspath(file_path(place))
    try:
        return fsspec.core.url_to_fs(place)
    except ImportError as error:
        # of s3:// and others fsspec names the package itself
        raise ImportError(f"Cannot open {place}: {error}") from error


def is_on_disk(system: Any) -> bool:
    """Whether a file system of fsspec is that of this machine."""
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def read_whole(name: str) -> bytes:
    """All bytes of a file.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        OSError: any other trouble of the disk or the network.
    """
    with _explained(name):
        system, place = file_system(name)
        return system.cat_file(place)


def read_part(name: str, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, fewer where it ends; errors as of `read_whole`."""
    if not size:
        return b""
    with _explained(name):
        system, place = file_system(name)
        return system.cat_file(place, start=start, end=start + size)


@contextmanager
def _explained(name):
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:  # the libraries of clouds have errors of their own
        raise OSError(f"Cannot read {name}: {type(error).__name__}: {error}") from error


class OutputFolder:
    """A folder that files are written into.

    Args:
        place: path or URL; made with its first file.

    Raises:
        NotADirectoryError: a file is there.
    """

    def __init__(self, place: str):
        self.place = place
        self._system, self._path = file_system(place)
        if self._system.isfile(self._path):
            raise NotADirectoryError(f"Expected a folder to write to. Received a file: {place}")

    def names(self) -> list[str]:
        """Names of the files in it, sorted; none where there is no folder."""
        if is_on_disk(self._system):
            # links to files count as files, which those of fsspec are not
            folder = self._path if os.path.isdir(self._path) else None
            entries = list(os.scandir(folder)) if folder else []
            return sorted(entry.name for entry in entries if entry.is_file())
        try:
            # what another process has written meanwhile counts
            self._system.invalidate_cache(self._path)
            entries = self._system.ls(self._path, detail=True)
        except FileNotFoundError:
            return []
        files = (entry["name"] for entry in entries if entry["type"] == "file")
        return sorted(name.rstrip("/").rpartition("/")[2] for name in files)

    def open(self, name: str) -> Any:
        """A file in it, to be read from any place."""
        return self._system.open(self._inside(name), "rb")

    def read(self, name: str) -> bytes:
        """All bytes of a file in it."""
        return self._system.cat_file(self._inside(name))

    def write(self, name: str, contents: bytes) -> None:
        """Writes a file into it, whole or not at all, whatever ends the process meanwhile.

        Raises:
            OSError: the folder cannot be written to, or the disk is full.
        """
        if is_on_disk(self._system):
            with whole_file(self._inside(name)) as temporary:
                temporary.write_bytes(contents)
            return
        self._system.makedirs(self._path, exist_ok=True)
        temporary = self._inside(f".{name}.{uuid.uuid4().hex}.part")
        try:
            self._system.pipe_file(temporary, contents)
            # some systems move onto no file that is there
            if self._system.exists(self._inside(name)):
                self._system.rm_file(self._inside(name))
            self._system.mv(temporary, self._inside(name))
        except BaseException:
            with suppress(Exception):
                self._system.rm_file(temporary)
            raise

    def remove(self, name: str) -> None:
        """Removes a file in it."""
        self._system.rm_file(self._inside(name))

    def remove_unfinished(self) -> None:
        """Removes what a process that was killed had not finished writing."""
        if is_on_disk(self._system):
            if os.path.isdir(self._path):
                remove_unfinished(self._path)
            return
        for name in self.names():
            if name.startswith(".") and name.endswith(".part"):
                with suppress(FileNotFoundError):
                    self.remove(name)

    def _inside(self, name):
        return f"{self._path.rstrip('/')}/{name}"
