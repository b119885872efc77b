"""keras-ms embed: many pictures to files of embeddings."""

import glob
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, option, parsed
from keras_ms.run.settings.declaration import flag
from keras_ms.terminal.command_words import WorkInterrupted

# that of keras_ms.search.embedding_run, which would import Keras
SHARD_SIZE = 4096
_DESCRIPTION = (
    "Embeds pictures by the million into Parquet files, with all cores. Given again after Ctrl-C, "
    "a kill or a full disk, the command goes on where it ended. Pictures that cannot be read are "
    "listed in broken.csv."
)


@dataclass(frozen=True)
class _Options:
    model: Annotated[
        Positional[str], option("a .keras file, a SavedModel folder or an .onnx file", "MODEL")
    ]
    data: Annotated[
        Positional[str],
        option(
            "a folder of any depth; a .csv or .parquet file with a column of paths, relative ones "
            "to its folder; a .tar file, a folder or a quoted pattern of them. Or a URL of one, "
            "such as s3://bucket/photos",
            "DATA",
        ),
    ]
    to: Annotated[str, option("folder or URL of the embeddings", "FOLDER")]
    column: Annotated[
        str | None, option("of a .csv or .parquet file: its paths", "NAME", default="path")
    ] = None
    image_size: Annotated[
        int | None,
        option(
            "height and width the network sees, pixels; needed where the model takes any and its "
            "file records none",
            "PIXELS",
            default="",
        ),
    ] = None
    resize_to: Annotated[
        int | None,
        option(
            "shorter side before the centre is cut out, pixels",
            "PIXELS",
            default="what the model's file records, else image_size * 256 / 227",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        option(
            "pictures embedded at a time", "N", default="64; a model of a fixed batch takes its own"
        ),
    ] = None
    dtype: Annotated[
        Literal["float32", "float16"],
        option("numbers of the embeddings: exact, or half the size and rounded to 11 bits"),
    ] = "float32"
    shard_size: Annotated[
        int, option("pictures of a file, and what a killed run loses at most", "N")
    ] = SHARD_SIZE
    replace: Annotated[
        bool, option("remove embeddings of another model, list or size that FOLDER holds")
    ] = False
    engine: Annotated[
        Literal["local", "ray"],
        option("this machine, or workers of Ray: those of RAY_ADDRESS if set (extra ray)"),
    ] = "local"
    workers: Annotated[
        int | None, option("of --engine ray", "N", default="one for each machine")
    ] = None


def run(words: Sequence[str]) -> None:
    """Embeds as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
        WorkInterrupted: a signal; the same words go on.
    """
    options = parsed(_Options, "embed", _DESCRIPTION, words)
    _check(options)
    import_keras()
    from keras_ms.search import embed_pictures

    try:
        done = embed_pictures(
            options.model,
            options.data,
            to=options.to,
            column=options.column,
            image_size=options.image_size,
            resize_to=options.resize_to,
            batch_size=options.batch_size,
            dtype=options.dtype,
            shard_size=options.shard_size,
            replace=options.replace,
            engine=options.engine,
            workers=options.workers,
        )
    except KeyboardInterrupt as interruption:
        raise WorkInterrupted(getattr(interruption, "number", signal.SIGINT)) from interruption
    print(
        f"Wrote {options.to}: {done.num_embeddings:,} embeddings in {done.num_shards:,} "
        + ("file" if done.num_shards == 1 else "files")
        + (
            f", {done.num_made:,} pictures now at {done.num_made / done.seconds:.1f} a second"
            if done.num_made
            else ""
        )
    )
    if done.broken:
        path, reason = done.broken[0]
        print(
            f"Not embedded: {len(done.broken):,} of {done.num_pictures:,} pictures, which "
            f"broken.csv lists. The first is {path}: {reason}"
        )


def _check(options):
    for name in ("image_size", "resize_to", "batch_size", "shard_size", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"Expected {flag(name)} of at least 1. Received: {value}")
    if options.workers is not None and options.engine != "ray":
        raise ValueError("--workers goes with --engine ray: leave it out, or give that too")
    if not options.to:
        raise ValueError("Expected a folder in --to. Received: ''")
    check_is_there(options.model, "a .keras file, a SavedModel folder or an .onnx file")
    if "://" not in options.data and not (options.data and glob.glob(options.data, recursive=True)):
        check_is_there(options.data, "pictures: a folder, a .csv or .parquet file, or .tar files")
    is_table = Path(options.data).suffix.lower() in (".csv", ".parquet")
    if options.column is not None and not is_table:
        raise ValueError(f"--column is of a .csv or .parquet file. {options.data} is none")
