"""Embeddings in an .npz file, with what was embedded."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.arguments import class_ids
from keras_ms.evaluation.inputs import checked_embeddings
from keras_ms.files import whole_file

EXPECTED = (
    ".npz file with `embeddings` (N, dimension), `labels` (N,) and, if wanted, `is_query` and "
    "`is_gallery` (N,)"
)
# what the report also reads: the images, and how their data set is named
_OPTIONAL_ARRAYS = ("is_query", "is_gallery", "class_names", "paths")
_DICTS, _MODEL_KEYS = ("data", "model"), ("name", "fingerprint")
# as `keras_ms.data.image_folder` names them, where `data` says of which the images are
SPLITS = ("train", "validation", "test")


def write_embeddings(
    path: str | os.PathLike,
    embeddings: np.ndarray,
    images: Any,
    data: dict[str, Any] | None = None,
    *,
    model: dict[str, str] | None = None,
) -> None:
    """Writes the embeddings of an image list, for `read_embeddings`.

    Args:
        path: the file, of whatever name, .npz by custom; it appears whole or not at all.
        embeddings: (N, dimension).
        images: the `ImageList` of the N images.
        data: dict that JSON can hold: how these images are found again.
        model: dict of the `name` and the `fingerprint` of what embedded them. Defaults to None:
            the file does not say.
    """
    arrays = {"embeddings": embeddings, "labels": images.labels}
    arrays |= {name: getattr(images, name) for name in _OPTIONAL_ARRAYS}
    for name, facts in (("data", data), ("model", model)):
        if facts is not None:
            # as text: an object would need pickle, which runs code when it is read
            arrays[name] = json.dumps(facts)
    # into an open file: given a name, savez adds .npz to it
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{k: v for k, v in arrays.items() if v is not None})


def read_embeddings(path: str | os.PathLike, *, fallback_name: str | None = None) -> dict[str, Any]:
    """The arrays of an .npz file of embeddings.

    Args:
        path: file with `embeddings` (N, dimension) and `labels` (N,), of `write_embeddings` or of
            any other origin.
        fallback_name: what the embeddings may be called in a file that has no `embeddings`.
            Defaults to None: nothing else.

    Returns:
        dict of `embeddings`, `labels` and, each None where the file has none, `is_query`,
        `is_gallery`, `class_names`, `paths`, and `data` and `model`, the dicts that were written.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: a file of other content: embeddings that are not finite real numbers of one
            row an image, labels that are not integers, names that are too few for the labels.

    Example:

    >>> content = read_embeddings("test.npz")  # doctest: +SKIP
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an {EXPECTED}. Nothing is at {path}")
    content = _read(path, fallback_name)
    missing = [name for name in ("embeddings", "labels") if content[name] is None]
    if missing:
        raise ValueError(f"Expected {path} to be an {EXPECTED}. Missing: {' and '.join(missing)}")
    try:
        content["embeddings"] = checked_embeddings(content["embeddings"], "embeddings")
        count = len(content["embeddings"])
        ids = class_ids(content["labels"], rows=count)
        for name in ("is_query", "is_gallery"):
            _check_chosen(content[name], count, name)
        content["class_names"] = _checked_names(content["class_names"], ids)
        content["paths"] = _texts(content["paths"], "paths")
        if content["paths"] is not None and len(content["paths"]) != count:
            raise ValueError(
                f"Expected `paths` of shape ({count},), one for each row of `embeddings`. "
                f"Received shape: {content['paths'].shape}"
            )
        _check_data(content["data"])
        _check_model(content["model"])
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as an {EXPECTED}: {error}") from error
    return content


def _read(path: str | os.PathLike, fallback_name: str | None) -> dict[str, Any]:
    """The arrays as they are in the file, `data` as a dict."""
    names = ("embeddings", "labels", *_OPTIONAL_ARRAYS, *_DICTS)
    content: dict[str, Any] = {name: None for name in names}
    name = None
    try:
        with open(path, "rb") as file:
            # np.load takes other files for pickles, and its errors speak of these
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz file, or it is cut off")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                there = arrays.files
                _refuse_gallery(there)
                for name in names:
                    if name in there:
                        content[name] = arrays[name]
                if content["embeddings"] is None and fallback_name in there:
                    name = fallback_name
                    content["embeddings"] = arrays[name]
        for name in _DICTS:
            if content[name] is not None:
                content[name] = dict(json.loads(str(content[name])))
    except Exception as error:  # numpy, zipfile and json raise many kinds
        words = str(error)
        if "allow_pickle" in words:
            words = "it holds Python objects, which are not read: they could run code. Save "
            words += f"numbers, or texts with .astype(str), as `{name}`"
        where = f" (`{name}`)" if name else ""
        raise ValueError(f"{path} cannot be read as an {EXPECTED}{where}: {words}") from error
    return content


def _refuse_gallery(names):
    given = sorted(name for name in names if name.startswith("gallery"))
    if given:
        raise ValueError(
            f"it holds a gallery of its own, {', '.join(given)}. Put queries and gallery below "
            "each other into `embeddings` and `labels`, and mark them with `is_query` and "
            "`is_gallery`"
        )


def _check_chosen(chosen, count, name):
    if chosen is None:
        return
    if chosen.dtype != bool or chosen.shape != (count,) or not chosen.any():
        raise ValueError(
            f"Expected `{name}` as bool of shape ({count},), some of it true. Received: "
            f"{chosen.dtype} of shape {chosen.shape}"
        )


def _texts(array, name):
    """A one-dimensional array as text; None stays None."""
    if array is None:
        return None
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.ndim != 1 or array.dtype.kind != "U":
        raise ValueError(
            f"Expected `{name}` as a list of texts. Received: {array.dtype} of shape {array.shape}"
        )
    return array


def _checked_names(names, ids):
    names = _texts(names, "class_names")
    if names is not None and not 0 <= ids.min() <= ids.max() < len(names):
        raise ValueError(
            f"Expected labels from 0 to {len(names) - 1}, one of the {len(names)} `class_names` "
            f"each. Received labels from {ids.min()} to {ids.max()}"
        )
    return names


def _check_data(data):
    split = (data or {}).get("split", SPLITS[0])
    if split not in SPLITS:
        raise ValueError(f"Expected `split` in `data` as one of {SPLITS}. Received: {split!r}")


def _check_model(model):
    if model is not None and not all(isinstance(model.get(k), str) for k in _MODEL_KEYS):
        raise ValueError(
            f"Expected texts {' and '.join(_MODEL_KEYS)} in `model`. Received: {model}"
        )
