"""All rows of an index for exact search: from memory, once they were read, where they fit."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_ms.search.index_table import IndexTable

# Rows of so many bytes stay in memory after the first search: 100,000 of 512 numbers are 205 MB.
_KEPT_BYTES = 2**29
_LARGE = 2**16


class KeptRows:
    """The rows of an index's table; read again where another version of it is there.

    Args:
        table: of the index.
    """

    def __init__(self, table: IndexTable):
        self._table = table
        # of which version of the table the rows are in memory
        self._kept: tuple[int, list[tuple[Any, np.ndarray]]] | None = None

    def parts(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Everything, a part at a time.

        Yields:
            Paths, an array of Arrow, and float32 (count, dimension).
        """
        version = self._table.version
        # once: another thread may set it meanwhile
        before = self._kept
        if before and before[0] == version:
            yield from before[1]
            return
        self._kept = None
        kept = [] if len(self._table) * self._table.dimension * 4 <= _KEPT_BYTES else None
        for paths, rows in self._table.scan():
            if kept is not None:
                kept.append((paths, rows))
            yield paths, rows
        if kept is not None and self._table.version == version:
            self._kept = version, _in_large_parts(kept)


def _in_large_parts(parts):
    """Parts put together: products of few small ones cost threads that wait for each other."""
    import pyarrow

    joined, group = [], []
    for part in parts:
        group.append(part)
        if sum(len(rows) for _, rows in group) >= _LARGE or part is parts[-1]:
            paths, rows = zip(*group)
            joined.append((pyarrow.concat_arrays(paths), np.concatenate(rows)))
            group = []
    return joined
