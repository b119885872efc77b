"""Which pictures are embedded, in an order that stays: of a folder, a table of paths or tars."""

import errno
import glob
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from keras_ms.data.file_names import file_path, shown_name, some_names
from keras_ms.data.folder_listing import list_folder, tally_line
from keras_ms.data.image_file import SUFFIXES
from keras_ms.data.text_files import read_csv
from keras_ms.search.packages import import_search_package
from keras_ms.search.places import file_system, is_on_disk, is_url, read_part, read_whole

KINDS = "a folder, a .csv or .parquet file of paths, a .tar file, or a folder or pattern of them"
DEFAULT_COLUMN = "path"
_TABLES, _TAR = (".csv", ".parquet"), ".tar"
# of a name that leads to no picture, whatever the state of disk and network
_NO_SUCH = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
_NO_FILE = "there is no such file"
_MISSING = frozenset({_NO_FILE, *map(os.strerror, _NO_SUCH)})
# listings that wait for a network at the same time
_TARS_AT_ONCE = 8


class PictureList(NamedTuple):
    """The pictures of some data.

    Attributes:
        paths: what each is called; a member of a tar "tar://name::archive.tar", as fsspec opens it.
        read: function from the number of a picture to its bytes. It raises ValueError where there
            is no such file, and OSError where a disk or network fails.
        digest: text that changes with any path, their order, or the place of a member in its tar.
        is_remote: whether reading them waits for a network.
        summary: what was found, a line.
    """

    paths: list[str]
    read: Callable[[int], bytes]
    digest: str
    is_remote: bool
    summary: str


def list_pictures(data: str, *, column: str | None = None) -> PictureList:
    """Lists the pictures of some data, on a disk or wherever fsspec opens.

    Args:
        data: path or URL of a folder, whose pictures of any depth count; of a CSV or Parquet file
            with a column of paths, relative ones to the file's folder; of a tar file; or of a
            folder or a pattern (`shards/*.tar`) of tars.
        column: of a CSV or Parquet file. Defaults to None: "path".

    Returns:
        A `PictureList`: of a folder sorted by path, of a table in its order, of tars sorted by
        their names and inside in the order of their members.

    Raises:
        FileNotFoundError: nothing at `data`.
        ValueError: data of another kind, without a picture, a damaged tar or table, or a `column`
            of what has none.

    Example:

    >>> len(list_pictures("photos").paths)  # doctest: +SKIP
    6033
    """
    if "::" in data and is_url(data):
        raise ValueError(f"Expected {KINDS}. Received a chain of them: {data}")
    system, place = file_system(data)
    # of what is empty fsspec makes the folder in which one is
    is_there = bool(data) and system.exists(place)
    is_pattern = glob.has_magic(data) and not is_there
    if not is_pattern and not is_there:
        raise FileNotFoundError(f"Expected {KINDS}. Nothing is at {shown_name(data) or repr(data)}")
    is_folder = is_there and system.isdir(place)
    suffix = os.path.splitext(data)[1].lower()
    if is_there and not is_folder and suffix in _TABLES:
        return _listed_paths(data, suffix, column or DEFAULT_COLUMN)
    if column is not None:
        raise ValueError(
            f"A column is of a .csv or .parquet file: {shown_name(data)} has none. Leave it out"
        )
    found = _found_in_folder(data, system, place) if is_folder else None
    if found is not None:
        return found
    tars = _tars(data, is_folder, is_pattern)
    others = [name for name in tars if not name.lower().endswith(_TAR)]
    if others:
        raise ValueError(
            f"Expected {KINDS}. Received: {some_names(others)}. Of a compressed archive, unpack it "
            "to .tar first"
        )
    if not tars:
        raise ValueError(
            f"Expected {KINDS}. No picture and no .tar is in {shown_name(data)}; pictures end in "
            + ", ".join(SUFFIXES)
        )
    return _listed_members(tars)


def picture_name(path: str) -> str:
    """What a picture is called: its path without the parts that say nothing.

    Relative and absolute paths stay what they are, and so does "..", which may lead through a link.

    Example:

    >>> picture_name("./photos//a.jpg"), picture_name("s3://bucket/./a.jpg")
    ('photos/a.jpg', 's3://bucket/./a.jpg')
    """
    return path if is_url(path) else str(Path(path))


def was_missing(reason: str) -> bool:
    """Whether it was for want of the file that a picture was not read, and not for its content.

    Args:
        reason: what `PictureList.read` has raised.
    """
    return reason in _MISSING


def _found_in_folder(data, system, place):
    """The pictures in a folder and below it, or None if there is none."""
    if not is_url(data):
        folder = list_folder(file_path(picture_name(data)), SUFFIXES)
        paths = [path for inner in folder.below() for path in inner.files()]
        others: dict[str, int] = {}
        for inner in folder.below():
            for reason, count in inner.others.items():
                others[reason] = others.get(reason, 0) + count
        summary = tally_line(len(paths), others)
    else:
        inside = ((name, name[len(place) :]) for name in system.find(place))
        paths = [
            system.unstrip_protocol(name)
            for name, below in inside
            if _is_picture(below) and "/." not in f"/{below.lstrip('/')}"
        ]
        summary = f"{len(paths):,} pictures"
    paths.sort(key=lambda path: path.encode("utf-8", "surrogateescape"))
    return _of_paths(paths, summary) if paths else None


def _is_picture(name):
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _listed_paths(data, suffix, column):
    if suffix == ".csv":
        values = _csv_column(data, column.lower())
    else:
        values = _parquet_column(data, column)
    for number, value in enumerate(values):
        if not isinstance(value, str) or not value:
            raise ValueError(
                f"Expected a path in the column {column!r} of every row of {shown_name(data)}. "
                f"Received {value!r} in row {number + 1}"
            )
    if not values:
        raise ValueError(f"Expected paths in {shown_name(data)}. It has no row")
    folder = data.rpartition("/")[0] if is_url(data) else os.path.dirname(data)
    paths = [_beside(folder, value, is_url(data)) for value in values]
    return _of_paths(paths, f"{len(paths):,} pictures listed")


def _beside(folder, value, in_url):
    if is_url(value) or os.path.isabs(value):
        return picture_name(value)
    return f"{folder}/{value}" if in_url else picture_name(os.path.join(folder, value))


def _csv_column(data, column):
    def rows_of(path):
        rows = read_csv(path, "a CSV file of paths", needed=(column,), keep_bytes=True, exact=True)
        return [row[column] for _, row in rows[1]]

    if not is_url(data):
        return rows_of(data)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / data.rpartition("/")[2]
        copy.write_bytes(read_whole(data))
        try:
            return rows_of(copy)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), data)) from error


def _parquet_column(data, column):
    parquet = import_search_package("pyarrow.parquet")
    system, place = file_system(data)
    with system.open(place, "rb") as file:
        try:
            table = parquet.ParquetFile(file)
        except Exception as error:
            raise ValueError(f"{shown_name(data)} cannot be read as Parquet: {error}") from error
        names = table.schema_arrow.names
        if column not in names:
            raise ValueError(
                f"Expected the column {column!r} in {shown_name(data)}. It has: {', '.join(names)}"
            )
        return table.read(columns=[column])[column].to_pylist()


def _of_paths(paths: list[str], summary: str) -> PictureList:
    return PictureList(paths, _FileReader(paths), _digest(paths), any(map(is_url, paths)), summary)


class _FileReader:
    """Reads whole files; another process may have a copy."""

    def __init__(self, paths: Sequence[str]):
        self._paths = paths

    def __call__(self, number: int) -> bytes:
        path = self._paths[number]
        if is_url(path):
            try:
                return read_whole(path)
            except (FileNotFoundError, IsADirectoryError):
                raise ValueError(_NO_FILE) from None
        try:
            return Path(file_path(path)).read_bytes()
        except OSError as error:
            # an error of the disk or a network is none of the picture
            if error.errno not in _NO_SUCH:
                raise
            raise ValueError(error.strerror) from error


class _MemberReader:
    """Reads members of tars, each by itself: any of them, in any order, in many threads."""

    def __init__(self, archives: Sequence[str], members: Sequence[tuple[int, int, int]]):
        self._archives, self._members = archives, members

    def __call__(self, number: int) -> bytes:
        archive, start, size = self._members[number]
        if start < 0:
            raise ValueError("a sparse member of a tar, which is not read; pack it anew")
        contents = read_part(self._archives[archive], start, size)
        if len(contents) < size:
            raise OSError(f"{self._archives[archive]} has become shorter since it was listed")
        return contents


def _tars(data, is_folder, is_pattern):
    """The names that open them, sorted."""
    if not is_url(data):
        names = [data]
        if is_folder:
            names = [os.path.join(data, name) for name in os.listdir(file_path(data))]
        elif is_pattern:
            names = glob.glob(data, recursive=True)
    else:
        system, place = file_system(data)
        names = [place]
        if is_folder:
            names = system.ls(place, detail=False)
        elif is_pattern:
            names = system.glob(place)
        names = [system.unstrip_protocol(name) for name in names]
    names = [name for name in names if not is_folder or name.lower().endswith(_TAR)]
    return sorted(map(picture_name, names))


def _listed_members(tars):
    is_remote = not is_on_disk(file_system(tars[0])[0])
    with ThreadPoolExecutor(_TARS_AT_ONCE if is_remote else 1) as pool:
        listed = list(pool.map(_members, tars))
    paths, members = [], []
    for number, archive in enumerate(listed):
        for name, start, size in archive:
            paths.append(f"tar://{name}::{tars[number]}")
            members.append((number, start, size))
    if not paths:
        raise ValueError(f"Expected pictures in {some_names(tars)}. There is none")
    return PictureList(
        paths,
        _MemberReader(tars, members),
        _digest(paths, (f"{start} {size}" for _, start, size in members)),
        is_remote,
        f"{len(paths):,} pictures in {len(tars):,} tar files",
    )


def _members(name):
    """(name, first byte, size) of the pictures of a tar."""
    members = []
    system, place = file_system(name)
    try:
        with system.open(place, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                # of "./a.jpg" too: fsspec opens it by this name only
                inside = member.name.removeprefix("./")
                if member.isfile() and _is_picture(inside) and "/." not in f"/{inside}":
                    start = -1 if member.issparse() else member.offset_data
                    members.append((member.name, start, member.size))
    except tarfile.TarError as error:
        raise ValueError(
            f"{shown_name(name)} is damaged or no plain .tar, after {len(members):,} pictures: "
            f"{error}. Copy it again or leave it out"
        ) from error
    return members


def _digest(paths: Iterable[str], places: Iterable[str] = ()) -> str:
    digest = hashlib.sha256()
    for texts in (paths, places):
        for text in texts:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:32]
