"""Files of embeddings, read a part at a time: shards, .npz and .npy."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_ms.data.file_names import file_path, shown_name
from keras_ms.search.index import IndexedModel
from keras_ms.search.packages import import_search_package
from keras_ms.search.picture_view import PictureView
from keras_ms.search.places import OutputFolder, is_url

ARRAY_SUFFIXES = (".npz", ".npy")
_FACTS = b"keras_ms"


class EmbeddingFiles(NamedTuple):
    """Embeddings in files.

    Attributes:
        model: what embedded them, as the files say, or None.
        dimension: numbers of each.
        count: how many there are.
        has_paths: whether they have the paths of pictures; else they are called row 0, row 1, ….
        batches: function that begins to read them: (paths, embeddings of float16 or float32).
        note: what a reader should know, or empty.
        view: how the pictures were seen, as the files say, or None.
    """

    model: IndexedModel | None
    dimension: int
    count: int
    has_paths: bool
    batches: Callable[[], Iterator[tuple[list[str], np.ndarray]]]
    note: str = ""
    view: PictureView | None = None


def holds_embeddings(place: str) -> bool:
    """Whether a path or URL is for `read_embedding_files`: by its name, or the names in it."""
    if Path(place).suffix in ARRAY_SUFFIXES:
        return True
    if is_url(place):
        return bool(_shard_names(OutputFolder(place)))
    folder = Path(file_path(place))
    return folder.is_dir() and any(folder.glob("part-*.parquet"))


def read_embedding_files(place: str) -> EmbeddingFiles:
    """Opens embeddings: a folder of shards, or its URL, an .npz file or an .npy file.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: files of other content, damaged ones, or shards of several models.
    """
    suffix = Path(place).suffix
    if suffix in ARRAY_SUFFIXES and not Path(file_path(place)).is_file():
        raise FileNotFoundError(f"Expected a {suffix} file of embeddings. Nothing is at {place}")
    if suffix == ".npz":
        return _from_npz(place)
    return _from_npy(place) if suffix == ".npy" else _from_shards(place)


def _from_npz(place):
    from keras_ms.evaluation.saved_embeddings import read_embeddings

    content = read_embeddings(place)
    rows, paths = content["embeddings"], content["paths"]
    model = content["model"]
    named = None if model is None else IndexedModel(model["name"], model["fingerprint"])
    files = _arrays(rows, None if paths is None else paths.tolist(), named)
    return files._replace(view=PictureView.of(content["data"] or {}))


def _from_npy(place):
    from keras_ms.evaluation.inputs import checked_embeddings

    try:
        rows = np.load(file_path(place), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{place} cannot be read as an .npy file: {error}") from error
    rows = rows[None] if rows.ndim == 1 else rows
    return _arrays(checked_embeddings(rows, f"embeddings of {place}"), None, None)


def _arrays(rows, paths, model):
    names = paths or [f"row {number}" for number in range(len(rows))]
    return EmbeddingFiles(
        model, rows.shape[1], len(rows), paths is not None, lambda: iter([(names, rows)])
    )


def _from_shards(place):
    folder = OutputFolder(place)
    names = _shard_names(folder)
    if not names:
        raise FileNotFoundError(
            f"Expected a folder of embeddings, with part-000000.parquet in it. None is at {place}"
        )
    facts, count = _facts_and_count(folder, names[0])
    for name in names[1:]:
        more, rows = _facts_and_count(folder, name)
        count += rows
        if more["model_fingerprint"] != facts["model_fingerprint"]:
            raise ValueError(
                f"{place} has embeddings of two models, {facts['model']} in {names[0]} and "
                f"{more['model']} in {name}. Index folders of one model each"
            )
    model = IndexedModel(str(facts["model"]), str(facts["model_fingerprint"]))
    dimension = int(facts["dimension"])

    def batches():
        for name in names:
            yield from _shard_batches(folder, name, dimension)

    job = _job_facts(folder)
    note = _missing(folder, names, job)
    return EmbeddingFiles(model, dimension, count, True, batches, note, PictureView.of(job))


def _shard_names(folder):
    return [name for name in folder.names() if name.startswith("part-") and _is_parquet(name)]


def _is_parquet(name):
    return os.path.splitext(name)[1] == ".parquet"


@contextmanager
def _opened(folder, name):
    parquet = import_search_package("pyarrow.parquet")
    # pyarrow closes no file that was opened by others
    with folder.open(name) as file:
        try:
            opened = parquet.ParquetFile(file)
        except (ValueError, OSError) as error:  # those of pyarrow are kinds of these
            raise ValueError(
                f"{shown_name(name)} in {folder.place} is damaged or no Parquet file: {error}. "
                "Make it again: remove it and run keras-ms embed once more"
            ) from error
        yield opened


def _facts_and_count(folder, name) -> tuple[dict[str, Any], int]:
    with _opened(folder, name) as file:
        try:
            facts = json.loads(file.schema_arrow.metadata[_FACTS])
            for key in ("model_fingerprint", "model", "dimension"):
                facts[key]
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{name} in {folder.place} does not say which model its embeddings are of: it is "
                "no file of keras-ms embed"
            ) from error
        return facts, file.metadata.num_rows


def _shard_batches(folder, name, dimension):
    with _opened(folder, name) as file:
        for batch in file.iter_batches(columns=["path", "embedding"]):
            values = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
            yield batch.column("path").to_pylist(), values.reshape(-1, dimension)


def _job_facts(folder) -> dict[str, Any]:
    """What embeddings.json says of all shards; empty where it is damaged or was left behind."""
    try:
        facts = json.loads(folder.read("embeddings.json"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _missing(folder, names, facts):
    """A line where `keras-ms embed` has not finished."""
    try:
        expected = -(-int(facts["pictures"]) // int(facts["shard_size"]))
    except (ValueError, KeyError, TypeError):
        return ""
    if len(names) >= expected:
        return ""
    return (
        f"{folder.place} is not finished: {len(names):,} of {expected:,} shards are there. "
        "keras-ms embed goes on with it"
    )
