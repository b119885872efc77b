"""What a published data set must hold, and the lists of images that its authors ship."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_ms.data.file_names import file_path, some_names
from keras_ms.data.image_list import ImageList
from keras_ms.data.text_files import read_lines

logger = logging.getLogger(__name__)


class Listing(NamedTuple):
    """The N images of a set, as its own lists have them.

    Attributes:
        folder: the paths are relative to it.
        paths: N names.
        class_ids: integers (N,), 0-based.
        class_names: one for each class id.
        train: bool (N,), which images train; the others test.
        is_query, is_gallery: as of `ImageList`.
    """

    folder: Path
    paths: Sequence[str]
    class_ids: np.ndarray
    class_names: Sequence[str]
    train: np.ndarray
    is_query: np.ndarray | None = None
    is_gallery: np.ndarray | None = None


@dataclass(frozen=True)
class Benchmark:
    """A published data set: what it must hold, and where its files go.

    Args:
        name: what reports call it, as in "cub".
        title: its published name.
        counts: {split: (classes, images)} of the class-disjoint split.
        files: what to put under the data folder, one way a line.
        source: where its authors distribute it.
        queries: (queries, gallery) among the test images, where these differ.
    """

    name: str
    title: str
    counts: dict[str, tuple[int, int]]
    files: tuple[str, ...]
    source: str
    queries: tuple[int, int] | None = None

    def missing(self, data_dir: str | Path, names: Sequence = ()) -> FileNotFoundError:
        """The FileNotFoundError that tells which files are missing and what goes where."""
        separator = "\n  "
        lines = [f"{self.title} is not in the folder {data_dir}."]
        if len(names):
            named = some_names(names, separator)
            lines = [f"{self.title} is not complete: {len(names):,} missing:{separator}{named}"]
            lines += [
                f"{folder} is read before any archive: remove it to have {archive} extracted"
                for folder, archive in _extracted_before(data_dir, names)
            ]
        lines.append(f"Put into {data_dir} one of:{separator}{separator.join(self.files)}")
        lines.append(self.source)
        return FileNotFoundError("\n".join(lines))

    def require_files(self, data_dir: str | Path, paths: Sequence[Path]) -> None:
        """Raises the error of `missing` where some of these files are not there."""
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise self.missing(data_dir, missing)

    def image_list(
        self, data_dir: str | Path, listing: Listing, *, check_counts: bool
    ) -> ImageList:
        """The ImageList of what a set's lists say, checked against `counts`.

        Args:
            data_dir: the folder that the user named.
            listing: what the lists say.
            check_counts: raise where images are missing or counts differ; otherwise leave missing
                images out and warn.
        """
        folder, paths = listing.folder, [file_path(path) for path in listing.paths]
        masks = {"is_query": listing.is_query, "is_gallery": listing.is_gallery}
        columns = {
            "paths": np.array([f"{folder}/{path}" for path in paths]),
            "labels": np.asarray(listing.class_ids, np.int64),
            "split": np.where(listing.train, "train", "test"),
            **{name: mask for name, mask in masks.items() if mask is not None},
        }
        present = _present(folder, paths)
        lost = columns["paths"][~present]
        if len(lost):
            if check_counts or not present.any():
                raise self.missing(data_dir, lost)
            logger.warning(
                "%s: %d of %d images are missing and left out: %s",
                self.title,
                len(lost),
                len(present),
                some_names(lost),
            )
            columns = {name: column[present] for name, column in columns.items()}
        images = ImageList(
            class_names=tuple(listing.class_names),
            name=self.name,
            passed_over={"missing images": len(lost)} if len(lost) else {},
            **columns,
        )
        self.check(images, check_counts)
        return images

    def check(self, images: ImageList, check_counts: bool) -> None:
        """Compares an ImageList with what was published: raises, or warns without check_counts."""
        received, expected = images.counts(), dict(self.counts)
        if self.queries is not None and "test" in received:
            test = images.subset("test")
            queries, gallery = map(np.count_nonzero, test.queries_and_gallery())
            received["queries, gallery"] = int(queries), int(gallery)
            expected["queries, gallery"] = self.queries
        if received == expected:
            return
        lines = [f"{self.title} as found here is not the published set:"]
        for name in expected | received:
            pair = f"found {_count(received, name)}, expected {_count(expected, name)}"
            lines.append(f"  {name}: {pair}")
        if check_counts:
            lines.append(
                "Extract it anew, or use it as it is with check_counts=False: figures will not "
                "compare with others'"
            )
            raise ValueError("\n".join(lines))
        lines.append("Figures will not compare with others'")
        logger.warning("%s", "\n".join(lines))


def _extracted_before(data_dir, names):
    """(folder, the archive beside it) for each folder below `data_dir` that should hold `names`."""
    parents = {Path(parent) for parent in {os.path.dirname(name) for name in names}}
    folders = {folder for parent in parents for folder in (parent, *parent.parents)}
    for folder in sorted(folders):
        if folder.is_dir() and Path(data_dir) in folder.parents:
            archives = [folder.with_name(folder.name + end) for end in (".tgz", ".zip")]
            yield from ((folder, archive) for archive in archives if archive.is_file())


def _count(counts, name):
    if name not in counts:
        return "none"
    first, second = counts[name]
    return f"{first:,}, {second:,}" if "," in name else f"{first:,} classes, {second:,} images"


def read_table(path: str | Path, columns: int) -> list[tuple[str, ...]]:
    """Columns of a list file of text, separated by spaces, as tuples of str; blank lines are none.

    Raises:
        ValueError: a line with another number of columns, which it names; no line at all.
    """
    return _columns(path, read_lines(path, "a list of images", keep_bytes=True), columns)


def read_headed_table(
    path: str | Path, header: str, *, lines_before: int = 0
) -> list[tuple[str, ...]]:
    """The same of a list whose columns have names, in a line after the first `lines_before`.

    Raises:
        ValueError: another header, or as `read_table`.
    """
    lines = read_lines(path, "a list of images", keep_bytes=True)
    received = "".join(lines[lines_before : lines_before + 1]).strip()
    if received.split() != header.split():
        line = ("first", "second")[lines_before]
        raise ValueError(
            f"Expected {header!r} in the {line} line of {path}. Received: {received!r}"
        )
    return _columns(path, lines, len(header.split()), after=lines_before + 1)


def _columns(path, lines, count, after=0):
    rows = []
    for number, line in enumerate(lines[after:], after + 1):
        row = line.split()
        if len(row) == count:
            rows.append(row)
        elif row:
            raise ValueError(
                f"Expected {count} columns in line {number} of {path}. Received: {line[:100]!r}. "
                "The file is cut off or of another format: extract it anew"
            )
    if not rows:
        raise ValueError(f"Expected a list of {count} columns. {path} holds none")
    return list(zip(*rows))


def whole_numbers(values: Sequence[str], path: str | Path) -> np.ndarray:
    """int64 array of a list file's column."""
    numbers = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        try:
            numbers[row] = int(value)
        except (ValueError, OverflowError):  # Python makes no number of thousands of digits
            raise ValueError(
                f"Expected whole numbers in {path}, of 64 bits. Received, as number {row + 1}: "
                f"{value[:40]!r}{f', {len(value):,} characters' if len(value) > 40 else ''}"
            ) from None
    return numbers


def _present(folder, paths):
    """Which of the relative paths are files; lists each folder once, a stat each would be slow."""
    parents = [path.rpartition("/")[0] for path in paths]
    files = {parent: _files(Path(folder, parent)) for parent in set(parents)}
    return np.array([path.rpartition("/")[2] in files[p] for path, p in zip(paths, parents)], bool)


def _files(folder):
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
