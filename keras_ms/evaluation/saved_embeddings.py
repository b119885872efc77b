"""Embeddings in an .npz file, with what was embedded."""

import json
from pathlib import Path

import numpy as np

from keras_ms.whole_files import whole_file

EXPECTED = (
    ".npz file with `embeddings` (N, dimension), `labels` (N,) and, if wanted, `is_query` and "
    "`is_gallery` (N,)"
)
# what the report also reads: the images, and how their data set is named
_MORE = ("is_query", "is_gallery", "class_names", "paths")


def write_embeddings(path, embeddings, images, data=None):
    """Writes the embeddings of an image list, for `read_embeddings`.

    Args:
        path: the .npz file; it appears whole or not at all.
        embeddings: (N, dimension).
        images: the `ImageList` of the N images.
        data: dict that JSON can hold: how these images are found again.
    """
    arrays = {"embeddings": embeddings, "labels": images.labels}
    arrays |= {name: getattr(images, name) for name in _MORE}
    if data is not None:
        # as text: an object would need pickle, which runs code when it is read
        arrays["data"] = json.dumps(data)
    with whole_file(path) as temporary:
        np.savez(temporary, **{k: v for k, v in arrays.items() if v is not None})


def read_embeddings(path, *, also_called=None):
    """The arrays of an .npz file of embeddings.

    Args:
        path: file with `embeddings` (N, dimension) and `labels` (N,), of `write_embeddings` or of
            any other origin.
        also_called: what the embeddings may be called in a file that has no `embeddings`. Defaults
            to None: nothing else.

    Returns:
        dict of `embeddings`, `labels` and, each None where the file has none, `is_query`,
        `is_gallery`, `class_names`, `paths`, and `data`, the dict that was written.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: a file of other content.

    Example:

    >>> found = read_embeddings("test.npz")  # doctest: +SKIP
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an {EXPECTED}. Nothing is at {path}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = ("embeddings", "labels", *_MORE, "data")
            found = {name: arrays[name] if name in arrays else None for name in names}
            if found["embeddings"] is None and also_called in arrays:
                found["embeddings"] = arrays[also_called]
        if found["data"] is not None:
            found["data"] = dict(json.loads(str(found["data"])))
    except Exception as error:  # numpy, zipfile and json raise many kinds
        raise ValueError(f"{path} cannot be read as an {EXPECTED}: {error}") from error
    missing = [name for name in ("embeddings", "labels") if found[name] is None]
    if missing:
        raise ValueError(
            f"Expected {path} to be an {EXPECTED}. Missing: {' and '.join(missing)}"
        )
    rows = found["embeddings"].shape[:1]
    if found["embeddings"].ndim != 2 or found["labels"].shape[:1] != rows:
        raise ValueError(
            f"Expected {path} to be an {EXPECTED}. Received embeddings of shape "
            f"{found['embeddings'].shape}, labels of shape {found['labels'].shape}"
        )
    return found
