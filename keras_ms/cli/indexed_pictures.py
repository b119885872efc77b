"""What keras-ms index and keras-ms search share: pictures embedded as those of an index were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_ms.run.settings.declaration import flag
from keras_ms.terminal.counted import counted

SIZES = ("image_size", "resize_to")


@contextmanager
def embedded_for(index: Any, options: Any, pictures: str, *, verbose: bool = True) -> Iterator[Any]:
    """Embeds pictures as those of an index were, into files that last as long as the block.

    Args:
        index: `keras_ms.search.Index`, or None: there is none yet.
        options: of the command, with `model`, `image_size` and `resize_to`.
        pictures: as typed.
        verbose: say what is found and show progress.

    Yields:
        (`PicturesNow` of `keras_ms.search.pictures_now`, path of the model file).

    Raises:
        ValueError: another model or other sizes than those of the index, before anything is
            embedded.
    """
    from keras_ms.search.pictures_now import embedded_now

    view: dict[str, Any] = {name: getattr(options, name) for name in SIZES}
    own, place = (None, "") if index is None else (index.view, index.place)
    for name, value in view.items():
        if own is not None and value not in (None, getattr(own, name)):
            raise ValueError(
                f"Expected {flag(name)} {getattr(own, name)}, as the pictures in {place} "
                f"were seen. Received: {value}. Leave it out, or make another index"
            )
    path = options.model or _remembered_model(index)
    embedder = checked_model(path, None if index is None else index.model, place)
    if own is not None:
        _check_can_see(embedder, own, place)
        view = own._asdict()
    with embedded_now(path, pictures, **view, embedder=embedder, verbose=verbose) as now:
        yield now, path


def check_not_embedded(options: Any, place: str) -> None:
    """Raises ValueError for sizes of pictures where a place holds embeddings."""
    for name in SIZES:
        if getattr(options, name):
            raise ValueError(f"{flag(name)} is of pictures: {place} is embedded already")


def view_note(index: Any, files: Any, place: str) -> str:
    """A line where it is not known whether embeddings fit the pictures of an index; or empty.

    Args:
        index: `keras_ms.search.Index`.
        files: `EmbeddingFiles` of `keras_ms.search.embedding_files`.
        place: of them.

    Raises:
        ValueError: it is known that they do not.
    """
    index.check_view(files.view, f"the pictures of {place}")
    if index.view is None or files.view is not None:
        return ""
    return (
        f"{place} does not say at which size its pictures were seen; those in {index.place} "
        f"were at {index.view.words()}"
    )


def tell_broken(broken: Sequence[tuple[str, str]]) -> None:
    """Prints how many pictures could not be embedded, and the first of them."""
    if broken:
        path, reason = broken[0]
        count = counted(len(broken), "picture")
        print(f"{count} could not be embedded, the first is {path}: {reason}")


def checked_model(path: str, expected: Any, of_what: str) -> Any:
    """The `Embedder` of a model file.

    Args:
        path: of the file.
        expected: what it should be, with a `name` and a `fingerprint`, or None: any.
        of_what: what is of the expected model, for the error.

    Raises:
        ValueError: it is another one; the message has both.
    """
    from keras_ms.export.embedder import load_embedder

    embedder = load_embedder(path)
    if expected is not None and embedder.fingerprint != expected.fingerprint:
        raise ValueError(
            f"Expected {expected.name} (fingerprint {expected.fingerprint}), which {of_what} is "
            f"of. Received {embedder.name} (fingerprint {embedder.fingerprint}): another model's "
            "embeddings cannot be compared with them"
        )
    return embedder


def _remembered_model(index):
    path = index.model.path if index is not None else ""
    if index is None or not path:
        raise ValueError(
            "Give --model, what embeds the pictures"
            + ("" if index is None else f": {index.place} does not know where it lies")
        )
    if not Path(path).exists():
        raise FileNotFoundError(
            f"The model {path} is not there any more. Give --model, where {index.model.name} "
            f"lies; keras-ms index {index.place} --model FILE remembers it"
        )
    return path


def _check_can_see(embedder, view, place):
    from keras_ms.export.embedder import view_sizes

    try:
        view_sizes(embedder, image_size=view.image_size, resize_to=view.resize_to)
    except ValueError as error:
        raise ValueError(
            f"{embedder.name} takes pictures otherwise than those in {place} were seen, at "
            f"{view.words()}. Give the file that embedded them, or make another index"
        ) from error
