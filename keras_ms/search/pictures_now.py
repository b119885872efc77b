"""Pictures that are embedded at once, for an index or as queries."""

import csv
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from keras_ms.data.file_names import file_path, shown_name
from keras_ms.export.embedder import Embedder
from keras_ms.search.embedding_files import EmbeddingFiles, read_embedding_files
from keras_ms.search.embedding_run import embed_pictures
from keras_ms.search.picture_list import picture_name
from keras_ms.search.places import is_url


class PicturesNow(NamedTuple):
    """Pictures, embedded.

    Attributes:
        files: `EmbeddingFiles`, there until the block ends.
        broken: path and reason of those that could not be embedded.
    """

    files: EmbeddingFiles
    broken: list[tuple[str, str]]


@contextmanager
def embedded_now(
    model: str,
    pictures: str,
    *,
    image_size: int | None = None,
    resize_to: int | None = None,
    apply_exif_orientation: bool | None = None,
    embedder: Embedder | None = None,
    verbose: bool = True,
) -> Iterator[PicturesNow]:
    """Embeds pictures into a folder that lasts as long as the block.

    Args:
        model: path of the model file.
        pictures: a picture, or what `keras_ms.search.embed_pictures` takes.
        image_size, resize_to, apply_exif_orientation, embedder: as there.
        verbose: say what is found and show progress.

    Raises: as `keras_ms.search.embed_pictures`.

    Example:

    ```python
    with embedded_now("embedder.onnx", "photo.jpg") as now:
        for paths, embeddings in now.files.batches():
            print(paths, embeddings.shape)
    ```
    """
    with tempfile.TemporaryDirectory(prefix="keras-ms-") as folder:
        data = pictures
        if is_one_picture(pictures):
            data = os.path.join(folder, "picture.csv")
            with open(data, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                csv.writer(file).writerows([["path"], [os.path.abspath(pictures)]])
        to = os.path.join(folder, "embeddings")
        try:
            done = embed_pictures(
                model,
                data,
                to=to,
                image_size=image_size,
                resize_to=resize_to,
                apply_exif_orientation=apply_exif_orientation,
                embedder=embedder,
                # of one picture there is nothing to say but where the list of it lies
                verbose=verbose and data == pictures,
            )
        except ValueError as error:
            # of one picture the words about a folder that is gone say little
            reason = _reason_of_one(to) if data != pictures else None
            if reason is None:
                raise
            raise ValueError(f"{shown_name(pictures)} cannot be embedded: {reason}") from error
        files = read_embedding_files(to)
        if data != pictures:
            # as it would be called in a folder of the path that was typed
            read, name = files, shown_name(picture_name(pictures))
            files = read._replace(batches=lambda: _renamed(read, name))
        yield PicturesNow(files, done.broken)


def is_one_picture(place: str) -> bool:
    """Whether a path is of a file that is no list and no archive of pictures."""
    lists = (".csv", ".parquet", ".tar")
    return (
        not is_url(place)
        and os.path.isfile(file_path(place))
        and Path(place).suffix.lower() not in lists
    )


def _renamed(files, name):
    for paths, embeddings in files.batches():
        yield [name] * len(paths), embeddings


def _reason_of_one(folder):
    try:
        with open(os.path.join(folder, "broken.csv"), encoding="utf-8", newline="") as file:
            return list(csv.reader(file))[1][1]
    except (OSError, IndexError):
        return None
