"""Extracts .tgz, .tar and .zip archives of strangers: nothing outside the folder, all or nothing.

Every member is written by this module itself, as a plain new file below the destination: no links,
no devices, no permissions, owners or dates are taken from the archive.
"""

import gzip
import hashlib
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

from keras_ms.data.file_names import file_path
from keras_ms.files import whole_folder
from keras_ms.terminal.progress import Progress

# The largest benchmark, Stanford Online Products, holds 120,100 files and unpacks to 3.1 GB.
MAX_MEMBERS = 250_000
MAX_BYTES = 8 * 2**30

# what the readers of the standard library raise on damaged bytes, as fuzzing shows
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    UnicodeDecodeError,
    OverflowError,
    NotImplementedError,
    RecursionError,  # tarfile follows a chain of headers for long names that way
)

_CHUNK = 2**20
# tarfile keeps what stands before a member whole; real headers (long names) hold some hundred bytes
_LARGEST_HEADERS = 2**18
_END_MARK = bytes(512)
_AGAIN = "Fetch it again; nothing was extracted"
_REFUSED = "This is not how the data set's authors ship it: nothing was extracted"


def extract_archive(
    archive: str | Path,
    folder: str | Path,
    *,
    prefix: str = "",
    sha256: str | None = None,
    md5: str | None = None,
    max_members: int = MAX_MEMBERS,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> int:
    """Extracts an archive into a new folder, which appears whole or not at all.

    Refused, with nothing left behind: names that lead out of the folder (absolute, with `..`, a
    drive or a backslash), symbolic and hard links, devices and anything else that is no plain file
    or folder, encrypted members, zip members compressed otherwise than by deflation, a name that
    occurs twice, more members or bytes than allowed (declared, and counted again while writing),
    and archives that are cut off or damaged. A tar archive is read to its very end, so that the
    check sum of its compression is compared too.

    Args:
        archive: file ending in .tgz, .tar.gz, .tar or .zip.
        folder: folder to make, new or empty. One that another process makes meanwhile is kept.
        prefix: extract only what lies below this folder of the archive, without the prefix.
            Members elsewhere are checked all the same. Defaults to "": everything.
        sha256, md5: the check sum that the whole file must have, in hexadecimal digits. Defaults
            to None: not compared.
        max_members: most files and folders. Defaults to 250,000, twice the largest benchmark's.
        max_bytes: most bytes of all members together, unpacked. Defaults to 8 GiB, more than
            twice the largest benchmark's.
        progress: called with (files written, files in all) after each file; of a .zip alone it is
            known how many there are, else None.

    Returns:
        Number of files written.

    Raises:
        FileNotFoundError: no such archive.
        FileExistsError: the folder holds something already.
        ValueError: an archive that is refused, as above; the message says why.
        OSError: the folder cannot be written, or the disk is full.

    Example:

    >>> extract_archive("CUB_200_2011.tgz", "birds", prefix="CUB_200_2011")  # doctest: +SKIP
    11803
    """
    archive = Path(archive)
    if not archive.is_file():
        raise FileNotFoundError(f"Expected an archive. There is no file {archive}")
    members_of = _reader(archive)
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            _check_sum(archive, name, expected)
    with whole_folder(folder, replace=False) as new:
        writer = _Writer(archive, new, prefix, max_members, max_bytes, progress)
        try:
            members_of(archive, writer)
        except _DAMAGED as error:
            raise ValueError(f"{archive} is cut off or damaged ({error}). {_AGAIN}") from error
        if not writer.num_files:
            below = f" below {prefix!r}" if prefix else ""
            raise ValueError(f"{archive} holds no files{below}. {_REFUSED}")
    return writer.num_files


def _reader(archive):
    name = archive.name.lower()
    if name.endswith((".tgz", ".tar.gz", ".tar")):
        return _read_tar
    if name.endswith(".zip"):
        return _read_zip
    raise ValueError(f"Expected an archive ending in .tgz, .tar.gz, .tar or .zip. Got: {archive}")


def _check_sum(archive, name, expected):
    digest = hashlib.new(name, usedforsecurity=False)
    with open(archive, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        raise ValueError(
            f"{archive} has another check sum than the published archive: it is cut off, damaged "
            f"or another file. Expected {name} {expected}. Received: {digest.hexdigest()}. {_AGAIN}"
        )


class _Writer:
    """Writes members as plain files below `folder` and refuses what has no place there."""

    def __init__(self, archive, folder, prefix, max_members, max_bytes, progress):
        self.archive, self.folder = archive, folder
        self.prefix = PurePosixPath(prefix)
        self.max_members, self.max_bytes = max_members, max_bytes
        self.progress, self.total = progress, None
        self.num_files = self._members = self._declared = self._written = 0

    def refuse(self, reason):
        raise ValueError(f"{self.archive}: {reason}. {_REFUSED}")

    def destination(self, name, size):
        """Where a member goes, None for one outside the prefix; counts it and its `size`."""
        self._members += 1
        if self._members > self.max_members:
            self.refuse(f"more than {self.max_members:,} members")
        self._declared += size
        if size < 0 or self._declared > self.max_bytes:
            self.refuse(f"its members unpack to more than {self.max_bytes:,} bytes")
        path = PurePosixPath(file_path(name))
        if (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in name
            or "\0" in name
            or PureWindowsPath(name).drive
        ):
            self.refuse(f"the name {name!r} leads out of the folder")
        if not path.is_relative_to(self.prefix):
            return None
        return self.folder / path.relative_to(self.prefix)

    def make_folder(self, path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            self.refuse(f"{str(path.relative_to(self.folder))!r} is both a file and a folder")

    def write(self, path, source, size):
        """Copies `size` bytes from `source`, a file object, into a new file."""
        self.make_folder(path.parent)
        left = size
        try:
            with open(path, "xb") as file:
                while chunk := source.read(_CHUNK):
                    left -= len(chunk)
                    self._written += len(chunk)
                    if left < 0 or self._written > self.max_bytes:
                        self.refuse("a member unpacks to more bytes than it declares")
                    file.write(chunk)
        except FileExistsError:
            self.refuse(f"the name {str(path.relative_to(self.folder))!r} occurs twice")
        if left:
            raise EOFError(f"{path.name!r} ends {left:,} bytes early")
        self.num_files += 1
        if self.progress is not None:
            self.progress(self.num_files, self.total)


class _BoundedStream:
    """Read access for tarfile to `left` bytes, which is set anew for each header and each file.

    `last` is what was read last: tarfile ends alike at the end mark and at a damaged header.
    """

    def __init__(self, file, writer):
        self._file, self._writer = file, writer
        self.left, self.last = _LARGEST_HEADERS, b""

    def read(self, size=-1):
        if size < 0 or size > self.left:
            self._writer.refuse(f"headers of more than {_LARGEST_HEADERS:,} bytes")
        self.left -= size
        self.last = self._file.read(size)
        return self.last

    def seek(self, offset, whence=0):
        return self._file.seek(offset, whence)

    def tell(self):
        return self._file.tell()


def _read_tar(archive, writer):
    opener = open if archive.name.lower().endswith(".tar") else gzip.open
    with opener(archive, "rb") as file:
        stream = _BoundedStream(file, writer)
        # one pass in the archive's order: a .tgz can be read forwards only
        with tarfile.open(fileobj=cast(Any, stream), mode="r:") as opened:
            tar: Any = opened
            while (member := tar.next()) is not None:
                # tarfile keeps every header it has read
                tar.members.clear()
                tar.pax_headers.clear()
                if member.issym() or member.islnk():
                    writer.refuse(f"{member.name!r} is a link to {member.linkname!r}")
                if not (member.isdir() or member.isreg()) or member.issparse():
                    writer.refuse(f"{member.name!r} is no plain file or folder")
                path = writer.destination(member.name, member.size if member.isreg() else 0)
                if path is not None and member.isdir():
                    writer.make_folder(path)
                elif path is not None:
                    stream.left = member.size
                    writer.write(path, tar.extractfile(member), member.size)
                stream.left = _LARGEST_HEADERS
            if stream.last != _END_MARK:
                raise EOFError("a header or the end mark is damaged or missing")
        # what follows the end mark is padding; gzip compares its check sum at the very end
        rest = 0
        while chunk := file.read(_CHUNK):
            rest += len(chunk)
            if rest > writer.max_bytes:
                writer.refuse(f"more than {writer.max_bytes:,} bytes follow its end mark")


def _read_zip(archive, writer):
    with zipfile.ZipFile(archive) as opened:
        chosen = []
        # all names before any byte: a zip lists them at its end
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind == stat.S_IFLNK:
                writer.refuse(f"{member.filename!r} is a link")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                writer.refuse(f"{member.filename!r} is no plain file or folder")
            if member.header_offset < 0:
                raise zipfile.BadZipFile(f"{member.filename!r} starts before the file")
            if member.flag_bits & 1:
                writer.refuse(f"{member.filename!r} is encrypted: extract it with its password")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                writer.refuse(f"{member.filename!r} is compressed by an unusual method")
            # orig_filename: zipfile itself cuts names at a zero byte
            path = writer.destination(member.orig_filename, member.file_size)
            if path is not None:
                chosen.append((member, path))
        writer.total = sum(not member.is_dir() for member, _ in chosen)
        for member, path in chosen:
            if member.is_dir():
                writer.make_folder(path)
            else:
                with opened.open(member) as source:
                    writer.write(path, source, member.file_size)
