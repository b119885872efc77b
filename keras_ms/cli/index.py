"""keras-ms index: embeddings or pictures into an index that keras-ms search looks into."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from keras_ms.cli.indexed_pictures import (
    SIZES,
    check_not_embedded,
    checked_model,
    embedded_for,
    tell_broken,
    view_note,
)
from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import PictureSize, check_is_there, option, parsed
from keras_ms.run.settings.declaration import flag
from keras_ms.terminal.counted import counted

# rows of one commit: 67 MB of 512 numbers
_ROWS_AT_ONCE = 32_768
_DESCRIPTION = (
    "Adds embeddings, or pictures that a model embeds, to an index; one whose path is there is "
    "replaced. Without DATA it says what is in the index. An index holds embeddings of one model."
)


@dataclass(frozen=True)
class _Options:
    index: Annotated[
        Positional[str], option("folder of the index, made if missing; or a URI", "INDEX")
    ]
    data: Annotated[
        Positional[str],
        option(
            "what keras-ms embed wrote, or an .npz file of keras-ms evaluate --save-embeddings; or "
            "pictures: one, or a folder, .csv, .parquet or .tar file of them",
            "DATA",
            default="",
        ),
    ] = ""
    model: Annotated[
        str,
        option(
            "embeds the pictures: a .keras file, a SavedModel folder or an .onnx file. The index "
            "remembers where it lies, also where nothing is added",
            "MODEL",
            default="that of the index",
        ),
    ] = ""
    remove: Annotated[
        tuple[str, ...], option("remove the pictures of these paths", "PATH", default="")
    ] = ()
    approximate: Annotated[
        bool, option("prepare approximate search, or prepare it anew, after much has changed")
    ] = False
    compact: Annotated[
        bool,
        option(
            "delete from the disk at once what was replaced or removed, else kept for a day; a "
            "search that goes on meanwhile may fail"
        ),
    ] = False
    image_size: PictureSize = None
    resize_to: PictureSize = None


def run(words: Sequence[str]) -> None:
    """Changes the index as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    options = parsed(_Options, "index", _DESCRIPTION, words)
    _check(options)
    import_keras()
    from keras_ms.search.index_table import check_place, is_there

    index = _opened(options) if is_there(options.index) else None
    if index is None and not options.data:
        raise FileNotFoundError(f"No index is at {options.index}. Give what is to be in it: DATA")
    if options.data:
        check_place(options.index)
        index = _add(options, index)
    assert index is not None  # it was there, or something was added
    if options.model:
        if not options.data:
            checked_model(options.model, index.model, index.place)
        # files move: the one that was given last is there
        index.remember_model(os.path.abspath(options.model))
    if options.remove:
        print(_removed(index, options.remove))
    if options.approximate:
        index.make_approximate()
        print("Prepared approximate search")
    if options.compact:
        index.compact()
    print(described(index))


def described(index: Any) -> str:
    """A line about an index.

    Args:
        index: `keras_ms.search.Index`.
    """
    model = index.model
    how = "exact or approximate" if index.is_approximate else "exact"
    seen = "" if index.view is None else f", seen at {index.view.words()}"
    return (
        f"{index.place}: {counted(len(index), 'picture')}, {index.dimension} numbers each, of "
        f"{model.name} (fingerprint {model.fingerprint}){seen}; {how} search"
    )


def _check(options):
    if not options.index:
        raise ValueError("Expected the folder of an index. Received: ''")
    for name in SIZES:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"Expected {flag(name)} of at least 1. Received: {value}")
    if not options.data:
        for name in SIZES:
            if getattr(options, name):
                raise ValueError(f"{flag(name)} goes with DATA, what is added: leave it out")
    elif "://" not in options.data:
        check_is_there(options.data, "embeddings or pictures")
        if Path(options.data).suffix == ".npy":
            raise ValueError(
                f"Expected embeddings with the paths of their pictures. {options.data} has none: "
                "use keras_ms.search.Index.add, or give the pictures"
            )
    if options.model:
        check_is_there(options.model, "a .keras file, a SavedModel folder or an .onnx file")


def _removed(index, paths):
    from keras_ms.search.picture_list import picture_name

    # as typed too: Index.add takes any text, and a picture may then be there twice
    count = index.remove({*paths, *map(picture_name, paths)})
    text = f"Removed {min(count, len(paths)):,} of {counted(len(paths), 'path')}"
    if count < len(paths):
        text += ". No other one is in it, which has pictures, not folders, as a search shows them"
    return text


def _opened(options):
    from keras_ms.search import Index

    return Index(options.index)


def _add(options, index):
    from keras_ms.search.embedding_files import holds_embeddings, read_embedding_files

    if holds_embeddings(options.data):
        check_not_embedded(options, options.data)
        files = read_embedding_files(options.data)
        return _add_files(options, index, files, _model_of(options, files), options.model)
    with embedded_for(index, options, options.data) as (now, model):
        index = _add_files(options, index, now.files, now.files.model, model)
        tell_broken(now.broken)
    return index


def _add_files(options, index, files, model, model_path):
    """Adds all of some `EmbeddingFiles` and says so; returns the index."""
    import numpy as np

    from keras_ms.search import Index
    from keras_ms.terminal.keras_progress import work_progress
    from keras_ms.terminal.progress import shown_progress

    if not files.has_paths:
        raise ValueError(f"{options.data} has no `paths`, the names of the pictures")
    if files.note:
        print(files.note)
    index = index or Index.create(
        options.index,
        model=model,
        dimension=files.dimension,
        model_path=os.path.abspath(model_path) if model_path else None,
        view=files.view,
    )
    note = view_note(index, files, options.data)
    if note:
        print(note)
    tell = work_progress("indexing", shown_progress(), unit="pictures")
    new = replaced = done = held = 0
    paths, parts = [], []
    for names, embeddings in files.batches():
        paths += names
        parts.append(embeddings)
        held, done = held + len(names), done + len(names)
        if held >= _ROWS_AT_ONCE or done == files.count:
            added = index.add(paths, np.concatenate(parts), model=model)
            new, replaced, held = new + added.new, replaced + added.replaced, 0
            paths, parts = [], []
            tell(done, files.count)
    print(f"Added {counted(new, 'picture')}" + f", replaced {replaced:,}" * bool(replaced))
    return index


def _model_of(options, files):
    """What embedded the files: as they say, else as --model says."""
    if not options.model:
        if files.model is None:
            raise ValueError(
                f"{options.data} does not say which model its embeddings are of: give --model, the "
                "one that embedded them"
            )
        return files.model
    return checked_model(options.model, files.model, options.data)
