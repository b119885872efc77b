"""Shards of embeddings: Parquet files that are whole or not there, each of which knows its job."""

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from keras_ms.data.file_names import shown_name
from keras_ms.search.packages import import_search_package

DTYPES = ("float32", "float16")
# what others read, as docs/embedding.md says; and what tells a shard of this job
_FACTS, _OWN = b"keras_ms", b"keras_ms_shard"


class Shard(NamedTuple):
    """What is known of a shard that was written.

    Attributes:
        number: from 0 on.
        num_embeddings: rows of it.
        broken: (number, path, reason) of its pictures that could not be embedded.
    """

    number: int
    num_embeddings: int
    broken: tuple[tuple[int, str, str], ...] = ()


def shard_name(number: int) -> str:
    """Name of the file of a shard, such as part-000012.parquet."""
    return f"part-{number:06d}.parquet"


def is_shard_name(name: str) -> bool:
    """Whether a file of this name counts as a shard."""
    return name.startswith("part-") and name.endswith(".parquet")


def shard_bytes(
    shard: Shard, paths: Sequence[str], embeddings: np.ndarray, facts: dict[str, Any], job: str
) -> bytes:
    """The Parquet file of a shard; equal for equal content.

    Args:
        shard: what is said about it.
        paths: of the rows; bytes in them that are no text are written as their code.
        embeddings: (rows, dimension), float32 or float16.
        facts: what readers find in the schema's metadata, JSON under the key "keras_ms".
        job: text that all shards of one job share.
    """
    pyarrow = import_search_package("pyarrow")
    parquet = import_search_package("pyarrow.parquet")
    dimension = embeddings.shape[1]
    own = {"job": job, "number": shard.number, "broken": shard.broken}
    schema = pyarrow.schema(
        [
            pyarrow.field("path", pyarrow.string()),
            pyarrow.field(
                "embedding", pyarrow.list_(pyarrow.from_numpy_dtype(embeddings.dtype), dimension)
            ),
        ],
        metadata={_FACTS: json.dumps(facts), _OWN: json.dumps(own)},
    )
    values = pyarrow.array(embeddings.ravel())
    rows = pyarrow.FixedSizeListArray.from_arrays(values, type=schema.field(1).type)
    names = pyarrow.array([shown_name(path) for path in paths], pyarrow.string())
    file = BytesIO()
    # of 4,096 x 512 numbers zstd leaves 92 of 100 bytes, the default (snappy) 99
    parquet.write_table(
        pyarrow.table([names, rows], schema=schema), file, compression="zstd", use_dictionary=False
    )
    return file.getvalue()


def shard_from_json(text: str) -> Shard:
    """The `Shard` that was written as JSON."""
    number, num_embeddings, broken = json.loads(text)
    return Shard(number, num_embeddings, tuple((int(n), p, why) for n, p, why in broken))


def read_shard(file: Any, job: str, number: int, num_pictures: int) -> Shard | None:
    """What a shard says of itself, from its end alone; None for a damaged one or one of other jobs.

    Args:
        file: open, of bytes.
        job, number: what it should say.
        num_pictures: embedded or broken.
    """
    parquet = import_search_package("pyarrow.parquet")
    pyarrow = import_search_package("pyarrow")
    try:
        content = parquet.ParquetFile(file)
        own = json.loads(content.schema_arrow.metadata[_OWN])
        broken = tuple((int(n), str(path), str(reason)) for n, path, reason in own["broken"])
        rows = content.metadata.num_rows
        is_ours = (own["job"], own["number"], rows + len(broken)) == (job, number, num_pictures)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    return Shard(number, rows, broken) if is_ours else None
