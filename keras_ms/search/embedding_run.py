"""Pictures by the million to shards of embeddings; a run that is started again goes on."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from keras_ms.arguments import whole_number
from keras_ms.data.file_names import shown_name
from keras_ms.export.embedder import Embedder, load_embedder
from keras_ms.search.embedding_job import EmbeddingJob, planned_job
from keras_ms.search.job_folder import BROKEN_FILE, shards_there, write_broken
from keras_ms.search.packages import import_search_package
from keras_ms.search.picture_list import list_pictures
from keras_ms.search.places import OutputFolder
from keras_ms.search.ray_engine import import_ray, made_on_ray
from keras_ms.search.shard_maker import ShardMaker
from keras_ms.search.shards import DTYPES, Shard
from keras_ms.terminal.keras_progress import work_progress
from keras_ms.terminal.progress import Progress, print_line, shown_progress

# At 70 photos a second a minute's work, which is what a killed process loses; of 512 numbers of
# float32 a file of 8 MB, 245 of them for a million pictures.
SHARD_SIZE = 4096
ENGINES = ("local", "ray")


class EmbeddedPictures(NamedTuple):
    """What a folder of embeddings holds.

    Attributes:
        to: path or URL of the folder.
        num_pictures: in the list, int.
        num_embeddings: rows of all shards, int.
        num_shards: files, int.
        num_made: pictures of the shards that were made now; the others were there.
        seconds: that this took, float.
        broken: list of (path, reason) of those without an embedding, in the order of the list.

    Example:

    >>> done = embed_pictures("embedder.onnx", "photos", to="rows")  # doctest: +SKIP
    >>> for path, reason in done.broken:  # doctest: +SKIP
    ...     print(path, reason)
    """

    to: str
    num_pictures: int
    num_embeddings: int
    num_shards: int
    num_made: int
    seconds: float
    broken: list[tuple[str, str]]


def embed_pictures(
    model: str | os.PathLike,
    data: str | os.PathLike,
    *,
    to: str | os.PathLike,
    column: str | None = None,
    image_size: int | None = None,
    resize_to: int | None = None,
    apply_exif_orientation: bool | None = None,
    batch_size: int | None = None,
    dtype: str = "float32",
    shard_size: int = SHARD_SIZE,
    replace: bool = False,
    engine: str = "local",
    workers: int | None = None,
    embedder: Embedder | None = None,
    verbose: bool = True,
) -> EmbeddedPictures:
    """Embeds pictures into a folder of Parquet files; started again, it goes on where it ended.

    Shard i holds the pictures from i times `shard_size` on, and is there whole or not at all. A
    picture that cannot be read is no row of a shard: broken.csv, written at the end, has its path
    and the reason. Shards of which files were missing are made again once these are there. The
    embeddings are those of `keras_ms.export.embedder.embed_images`.

    Args:
        model: a .keras file, a SavedModel folder or an .onnx file.
        data: what `keras_ms.search.picture_list.list_pictures` takes: a folder of any depth, a CSV
            or Parquet file of paths, or tars, on a disk or at a URL that fsspec opens.
        to: folder of the shards, or its URL; made if missing.
        column: of paths in a CSV or Parquet file. Defaults to None: "path".
        image_size, resize_to: what `keras_ms.export.embedder.view_sizes` takes. Defaults to None:
            what the model's file records.
        apply_exif_orientation: whether photos are turned as their EXIF orientation says. Defaults
            to None: what the model's file records, else True.
        batch_size: pictures embedded at a time. Defaults to None: 64, or what a model of a fixed
            batch takes.
        dtype: "float32", exact and the default: 2 KB for 512 numbers are little beside a picture;
            or "float16", half of it, each number rounded to 11 bits.
        shard_size: pictures in a file. Defaults to 4,096.
        replace: whether other embeddings in the folder (of another model, list, size or type) are
            removed first. Shards of this job stay and are gone on with. Defaults to False.
        engine: "local", this machine; or "ray", workers of Ray Data (extra `ray`) here or, where
            the variable RAY_ADDRESS names a cluster, on its machines. Defaults to "local".
        workers: of Ray. Defaults to None: one for each machine of the cluster.
        embedder: the model, where it is loaded already. Defaults to None: it is loaded here.
        verbose: say what is found and show progress. Defaults to True.

    Returns:
        An `EmbeddedPictures`.

    Raises:
        FileNotFoundError: no model or no data.
        ImportError: a package of the extras `search`, `ray` or `onnx` is missing.
        ValueError: arguments or data that do not fit together, other embeddings in the folder, or
            not one picture that can be read.
        OSError: a disk or network fails. What is embedded stays.

    Example:

    ```python
    done = keras_ms.search.embed_pictures("embedder.onnx", "photos", to="rows")
    table = pyarrow.parquet.read_table(sorted(glob.glob("rows/part-*.parquet")))
    ```
    """
    started = time.monotonic()
    say: Callable[[str], Any] = print_line if verbose else lambda line: None
    _check_arguments(batch_size, dtype, shard_size, engine, workers)
    import_search_package("pyarrow.parquet")
    if engine == "ray":
        import_ray()
    folder = OutputFolder(os.fspath(to))
    embedder = embedder or load_embedder(os.fspath(model))
    pictures = list_pictures(os.fspath(data), column=column)
    say(f"{shown_name(os.fspath(data))}: {pictures.summary}")
    job = planned_job(
        embedder,
        pictures,
        model=os.fspath(model),
        to=os.fspath(to),
        image_size=image_size,
        resize_to=resize_to,
        apply_exif_orientation=apply_exif_orientation,
        batch_size=batch_size,
        dtype=dtype,
        shard_size=shard_size,
    )
    shards = shards_there(folder, job, replace=replace, say=say)
    missing = [number for number in range(job.num_shards) if number not in shards]
    to_do = sum(len(job.numbers(number)) for number in missing)
    if shards:
        say(
            f"{len(shards):,} of {job.num_shards:,} shards are there"
            + (f"; {to_do:,} pictures are left" if missing else "")
        )
    if missing:
        tell = work_progress("embedding", shown_progress() if verbose else 0, unit="pictures")
        if engine == "ray":
            made = _told(made_on_ray(job, missing, workers), job, to_do, tell)
        else:
            made = _made_here(ShardMaker(job, embedder), missing, to_do, tell)
        shards |= {shard.number: shard for shard in made}
    broken = [(path, why) for n in sorted(shards) for _, path, why in shards[n].broken]
    write_broken(folder, broken)
    count = len(pictures.paths)
    if len(broken) == count:
        raise ValueError(
            f"None of the {count:,} pictures could be embedded. {BROKEN_FILE} in {folder.place} "
            f"has the reason of each; of {broken[0][0]}: {broken[0][1]}. Given again, this tries "
            "those once more that were missing"
        )
    return EmbeddedPictures(
        folder.place,
        count,
        count - len(broken),
        job.num_shards,
        to_do,
        time.monotonic() - started,
        broken,
    )


def _check_arguments(batch_size, dtype, shard_size, engine, workers):
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None:
            whole_number(name, value)
    whole_number("shard_size", shard_size)
    for name, value, allowed in (("dtype", dtype, DTYPES), ("engine", engine, ENGINES)):
        if value not in allowed:
            raise ValueError(f"Expected `{name}` as one of {allowed}. Received: {value!r}")
    if workers is not None and engine != "ray":
        raise ValueError(
            f"`workers` are of engine='ray'. Received: workers={workers}. Leave it out"
        )


def _made_here(
    maker: ShardMaker, missing: list[int], to_do: int, tell: Progress
) -> Iterator[Shard]:
    before = 0
    for number in missing:
        count = len(maker.job.numbers(number))
        yield maker.make(number, lambda done, _, before=before: tell(before + done, to_do))
        before += count


def _told(made: Iterable[Shard], job: EmbeddingJob, to_do: int, tell: Progress) -> Iterator[Shard]:
    done = 0
    for shard in made:
        done += len(job.numbers(shard.number))
        tell(done, to_do)
        yield shard
