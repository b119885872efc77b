"""The table of an index in LanceDB: each change is one commit, whole or not there."""

import contextlib
import datetime
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.data.file_names import file_path
from keras_ms.files import check_can_be_written, full_disk_error, is_full_disk
from keras_ms.search.packages import import_search_package

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

_NAME, _FACTS = "pictures", b"keras_ms"
_LOCK = ".writing"
# Rows that one read has: 16 MB of 512 numbers.
BATCH = 8192
# Paths in one statement of a removal: more of them take its parser much memory.
_PATHS_AT_ONCE = 10_000
# Every so many commits small pieces are put together, else each would be opened by every search.
_COMMITS_UNTIL_TIDY = 32
# What was replaced or removed stays so long, for searches that had begun.
_KEPT = datetime.timedelta(days=1)


def is_url(place: str) -> bool:
    """Whether a place is for an object store or a server, such as s3://bucket/birds."""
    return "://" in place


class IndexTable:
    """Rows of (path, embedding), a path at most once; what is written is there for good.

    Args:
        place: folder, or URI that LanceDB opens.

    Raises:
        FileNotFoundError: no index is there.
        ValueError: what is there is no index, or one of a later version.
    """

    def __init__(self, place: str):
        self.place = place
        if not is_there(place):
            raise FileNotFoundError(
                f"Expected an index. None is at {place}. keras-ms index makes one"
            )
        with _explained(place):
            self._table = _database(place).open_table(_NAME)
        try:
            self.facts = self._read_facts()
            self.dimension = int(self.facts["dimension"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{place} is a table of LanceDB, and no index of keras_ms") from error

    @classmethod
    def create(cls, place: str, facts: dict[str, Any]) -> "IndexTable":
        """Makes an empty table, or opens the one that another process has made meanwhile.

        Raises:
            ValueError: the place is a folder with other things in it, or a file.
        """
        pyarrow = import_search_package("pyarrow")
        import_search_package("lancedb")
        check_place(place)
        if not is_url(place):
            Path(file_path(place)).mkdir(parents=True, exist_ok=True)
        schema = pyarrow.schema(
            [
                pyarrow.field("path", pyarrow.string(), nullable=False),
                pyarrow.field("embedding", pyarrow.list_(pyarrow.float32(), facts["dimension"])),
            ],
            metadata={_FACTS: json.dumps(facts)},
        )
        with _writing(place):
            if not is_there(place):
                table = _database(place).create_table(_NAME, schema=schema, exist_ok=True)
                # of two writers without a lock, one is told and tries again
                table.set_unenforced_primary_key("path")
        return cls(place)

    def __len__(self) -> int:
        return self._table.count_rows()

    def _read_facts(self) -> dict[str, Any]:
        schema = self._table.schema
        # the table's own are written once; what has changed since stands beside a column
        changed = (schema.field("path").metadata or {}).get(_FACTS, b"{}")
        return json.loads(schema.metadata[_FACTS]) | json.loads(changed)

    def change_facts(self, **facts: Any) -> None:
        """Writes facts anew, in one commit; the others stay."""
        with _writing(self.place):
            before = self._read_facts()
            text = json.dumps(before | facts)
            self._table.update_field_metadata({"path": "path", "metadata": {_FACTS.decode(): text}})
        self.facts = before | facts

    @property
    def version(self) -> int:
        """A number that changes with every commit, of any process."""
        return self._table.version

    def replace(self, paths: Sequence[str], rows: np.ndarray) -> tuple[int, int]:
        """Adds rows, or replaces those of the same path, in one commit.

        Args:
            paths: different texts.
            rows: float32 (len(paths), dimension).

        Returns:
            Numbers of the rows that are new and of those that were replaced.
        """
        pyarrow = import_search_package("pyarrow")
        embeddings = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(rows.reshape(-1)), self.dimension
        )
        columns = [pyarrow.array(paths, pyarrow.string()), embeddings]
        new = pyarrow.Table.from_arrays(columns, schema=self._table.schema)
        with _writing(self.place):
            done = (
                self._table.merge_insert("path")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute(new)
            )
            self._tidy_now_and_then()
        return done.num_inserted_rows, done.num_updated_rows

    def remove(self, paths: Sequence[str]) -> int:
        """Removes the rows of some paths; returns how many there were."""
        count = 0
        with _writing(self.place):
            for start in range(0, len(paths), _PATHS_AT_ONCE):
                quoted = (
                    "'" + path.replace("'", "''") + "'" for path in paths[start:][:_PATHS_AT_ONCE]
                )
                count += self._table.delete(f"path IN ({', '.join(quoted)})").num_deleted_rows
            self._tidy_now_and_then()
        return count

    def scan(self, *, batch_size: int = BATCH) -> Iterator[tuple[Any, np.ndarray]]:
        """Everything as it is now, whatever is written meanwhile.

        Yields:
            The paths, a pyarrow array, and the rows, float32 (count, dimension).
        """
        with _explained(self.place):
            batches = self._table.search().select(["path", "embedding"]).to_batches(batch_size)
        while True:
            with _explained(self.place):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch.column("path"), self._rows(batch)

    def nearest(self, query: np.ndarray, k: int, probes: int) -> tuple[list[str], np.ndarray]:
        """Paths and rows of about the k nearest, in any order, by the approximate index.

        Args:
            query: float32 (dimension,).
            k: rows.
            probes: parts of the index that are looked at.
        """
        search = self._table.search(query, vector_column_name="embedding").distance_type("dot")
        search = search.nprobes(probes).limit(k).select(["path", "embedding", "_distance"])
        with _explained(self.place):
            found = search.to_arrow().combine_chunks()
        return found["path"].to_pylist(), self._rows(found)

    def has_approximate(self) -> bool:
        """Whether there is an index for approximate search."""
        return any("embedding" in index.columns for index in self._table.list_indices())

    def make_approximate(self, parts: int) -> None:
        """Divides the rows into parts for approximate search, anew where they are already."""
        lance_index = import_search_package("lancedb.index")
        # full rows in each part: compressed ones were no faster, and compared in full once more
        kind = lance_index.IvfFlat(distance_type="dot", num_partitions=parts)
        with _writing(self.place):
            self._table.create_index("embedding", config=kind)

    def compact(self) -> None:
        """Puts small pieces together and deletes at once what was replaced or removed."""
        with _writing(self.place), warnings.catch_warnings():
            # it warns of other processes, as the caller's documentation does
            warnings.simplefilter("ignore", UserWarning)
            self._table.optimize(cleanup_older_than=datetime.timedelta(0), delete_unverified=True)

    def _tidy_now_and_then(self):
        if self._table.version % _COMMITS_UNTIL_TIDY == 0:
            self._table.optimize(cleanup_older_than=_KEPT)

    def _rows(self, batch):
        column = batch.column("embedding")
        column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dimension)


def check_place(place: str) -> None:
    """Refuses a place where no index is and none can be made, before there is anything to add.

    Raises:
        OSError: nothing can be written there.
        ValueError: the place is a folder with other things in it, or a file.
    """
    if is_url(place):
        return
    folder = Path(file_path(place))
    if folder.is_file():
        raise ValueError(f"Expected a folder for the index. Received a file: {place}")
    others = [p.name for p in folder.glob("*")] if folder.is_dir() else []
    # those of the system, such as .DS_Store, are in no one's way
    others = sorted(name for name in others if name != f"{_NAME}.lance")
    others = [name for name in others if not name.startswith(".")]
    if others and not is_there(place):
        raise ValueError(
            f"Expected a new or empty folder for the index. {place} holds {others[0]!r}"
            + (f" and {len(others) - 1} more" if others[1:] else "")
        )
    check_can_be_written(folder)


def is_there(place: str) -> bool:
    """Whether an index is at a place; one whose making was interrupted is none."""
    if not is_url(place):
        folder = Path(file_path(place))
        return any((folder / f"{_NAME}.lance" / "_versions").glob("*.manifest"))
    database = _database(place)
    try:
        # of the names of all tables LanceDB gives a part at a time
        database.open_table(_NAME)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _database(place):
    lancedb = import_search_package("lancedb")
    where = place if is_url(place) else file_path(place)
    # what another process has written since is seen
    return lancedb.connect(where, read_consistency_interval=datetime.timedelta(0))


@contextlib.contextmanager
def _explained(place):
    """Errors of the engine, of many kinds, as an OSError that names the index."""
    try:
        yield
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:
        if is_full_disk(error):
            raise full_disk_error(Path(file_path(place)) / _NAME) from error
        words = str(error).partition(", /")[0].strip()  # without places in the engine's source
        raise OSError(
            f"The index {place} cannot be read or written: {words}. If files of it are damaged or "
            "gone, make it again: remove it and add everything once more"
        ) from error


@contextlib.contextmanager
def _writing(place):
    """Of several processes that write into a folder, one after the other; errors explained."""
    with _locked(place), _explained(place):
        yield


@contextlib.contextmanager
def _locked(place):
    if fcntl is None or is_url(place):
        yield
        return
    with open(Path(file_path(place)) / _LOCK, "w") as file:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
