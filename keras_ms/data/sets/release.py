"""How a published data set comes into a folder: as its archive, extracted, or prepared."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.archives import extract_archive
from keras_ms.data.sets.benchmarks import Benchmark, Listing
from keras_ms.data.sets.prepared_datasets import PreparedDataset, load_prepared
from keras_ms.terminal.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """A benchmark that its authors ship as one archive, and tensorflow-datasets prepares.

    Args:
        benchmark: what it must hold.
        folder: which holds all of it, in its archive and once that is extracted.
        archive: file name.
        sha256: check sum of the archive.
        lists: files in the folder that list its images; the first tells that a folder is this one.
        prepared: as tensorflow-datasets has it.
    """

    benchmark: Benchmark
    folder: str
    archive: str
    sha256: str
    lists: tuple[str, ...]
    prepared: PreparedDataset

    def marks(self) -> tuple[str, ...]:
        """Files and folders by which a data folder is known to hold it, as `DataSet` takes them."""
        builder = self.prepared.builder
        return self.folder, self.archive, builder, f"{builder}_images/images.csv"

    def load(
        self,
        data_dir: str | Path,
        read_lists: Callable[[Path], Listing],
        *,
        check_counts: bool,
        progress: Progress | None,
    ) -> ImageList:
        """The images in `data_dir`: of the folder (or `data_dir` itself), the archive, or prepared.

        Args:
            data_dir: the folder that the user named.
            read_lists: function from the folder, whose lists are there, to what they list.
            check_counts, progress: as in the loaders.

        Raises:
            FileNotFoundError: files are missing.
            ValueError: counts differ from the published, a list or the archive is damaged.
        """
        folder = find_folder(data_dir, (self.folder, ""), marker=self.lists[0])
        if folder is None:
            folder = extracted(
                Path(data_dir, self.archive),
                Path(data_dir, self.folder),
                prefix=self.folder,
                check_counts=check_counts,
                progress=progress,
                sha256=self.sha256,
            )
        if folder is None:
            return load_prepared(self.benchmark, data_dir, self.prepared, check_counts=check_counts)
        self.benchmark.require_files(data_dir, [folder / name for name in self.lists])
        return self.benchmark.image_list(data_dir, read_lists(folder), check_counts=check_counts)


def find_folder(data_dir: str | Path, names: Sequence[str], *, marker: str) -> Path | None:
    """The first of `data_dir`'s subfolders `names` ("" is itself) that holds `marker`, or None.

    Raises:
        FileNotFoundError: `data_dir` is no folder.
    """
    if not Path(data_dir).is_dir():
        raise FileNotFoundError(f"Expected the folder with the data set. There is none: {data_dir}")
    folders = [Path(data_dir, name) for name in names]
    return next((folder for folder in folders if (folder / marker).exists()), None)


def extracted(
    archive: Path,
    folder: Path,
    *,
    prefix: str,
    check_counts: bool,
    progress: Progress | None = None,
    sha256: str | None = None,
    md5: str | None = None,
) -> Path | None:
    """`folder`, made from `archive` if it is not there; None if neither is.

    A partial set's archive is another file than the published one: its check sum is compared
    only with `check_counts`.
    """
    if not folder.is_dir():
        if not archive.is_file():
            return None
        logger.info("Extracting %s into %s, once", archive, folder)
        extract_archive(
            archive,
            folder,
            prefix=prefix,
            progress=progress,
            sha256=sha256 if check_counts else None,
            md5=md5 if check_counts else None,
        )
    return folder
