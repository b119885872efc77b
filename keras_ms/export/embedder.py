"""Images to embeddings with any model file: Keras, SavedModel or ONNX."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_ms.data.damaged_images import naming_damaged
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import default_resize_to, evaluation_batches, side_for, whole_pictures
from keras_ms.evaluation.embed import embed_batches
from keras_ms.export.fingerprint import file_fingerprint
from keras_ms.export.preprocessing import Preprocessing, recorded_preprocessing
from keras_ms.export.runner import load_runner
from keras_ms.terminal.progress import shown_progress


class Embedder(NamedTuple):
    """A model file, loaded.

    Attributes:
        run: function from images (batch, height, width, 3), RGB 0-255 in `input_dtype`, to
            embeddings, both NumPy arrays. Of a file that prepares pictures itself
            (`preprocessing.inside`): from whole pictures.
        image_size: side of its images in pixels; None where the model takes any.
        input_dtype: "float32" or an integer type.
        name: the file's name.
        batch_size: images that it takes at a time; None where it takes any number.
        preprocessing: the `Preprocessing` that the file records; None where it holds none.
        fingerprint: text that all files of one model share: embeddings of two models with other
            fingerprints cannot be compared.

    Example:

    >>> embedder = load_embedder("embedder.onnx")  # doctest: +SKIP
    >>> images = np.zeros((2, embedder.image_size, embedder.image_size, 3))  # doctest: +SKIP
    >>> embedder.run(images.astype(embedder.input_dtype)).shape  # doctest: +SKIP
    (2, 512)
    """

    run: Callable[[np.ndarray], Any]
    image_size: int | None
    input_dtype: str
    name: str
    batch_size: int | None = None
    preprocessing: Preprocessing | None = None
    fingerprint: str = ""


def load_embedder(path: str | Path) -> Embedder:
    """Loads a model of images for embedding them.

    A `.keras` file is loaded in Keras's safe mode, which refuses code inside the file (Lambda
    layers). A SavedModel and an ONNX file hold graphs of fixed operations; TensorFlow has some
    that read and write files, so take SavedModels from sources you trust.

    Args:
        path: a .keras file, a SavedModel folder or an .onnx file.

    Returns:
        An `Embedder`.

    Raises:
        FileNotFoundError: nothing at `path`.
        ImportError: an ONNX file without onnxruntime, of the extra `onnx`.
        ValueError: a file of another kind, one that cannot be loaded, or a model that does not
            take square RGB images, (batch, size, size, 3), as its only input; or one whose file
            wants images prepared as this version cannot.

    Example:

    ```python
    embedder = load_embedder("saved_models/birds/embedder.onnx")
    embeddings = embed_images(embedder, keras_ms.ImageList.from_folder("birds").subset("test"))
    ```
    """
    path, runner = Path(path), load_runner(path)
    side = _side(runner.input_shape, path)
    rule = recorded_preprocessing(runner.facts, path.name)
    return Embedder(
        runner.run,
        side,
        runner.input_dtype,
        path.name,
        batch_size=runner.input_shape[0],
        preprocessing=rule,
        fingerprint=file_fingerprint(path, runner.facts),
    )


def embed_images(
    embedder: Embedder,
    images: ImageList | Sequence[str | os.PathLike],
    *,
    image_size: int | None = None,
    resize_to: int | None = None,
    batch_size: int = 64,
    verbose: bool = True,
) -> np.ndarray:
    """Embeds every image of a list, in order.

    Photos are turned as their EXIF orientation says, unless the model's file wants them as they
    are stored. A file that prepares pictures itself is given them whole, one at a time.

    Args:
        embedder: what `load_embedder` returns.
        images: `keras_ms.ImageList`, or the paths of image files.
        image_size: side of the centre that the model is shown, in pixels. Defaults to `None`: what
            the model takes or its file records, else 224.
        resize_to: pixels of the shorter side before the centre is cut out. Defaults to `None`:
            what the model's file records, else in proportion to `image_size`.
        batch_size: images embedded at a time. Changes memory and speed only; a model of a fixed
            batch is given its own. Defaults to 64.
        verbose: show progress: a bar on a terminal, else a line every half minute. Defaults to
            `True`.

    Returns:
        float32 array (len(images), dimension), of norm 1 where the model has that, as those of
        `keras_ms.build_embedder` do.

    Raises:
        ValueError: no image at all, one path in place of a list, `image_size` that the model does
            not take, an image that cannot be read, an output that is not one row an image, or NaN
            or infinity in it; the first such image is named.

    Example:

    >>> embedder = load_embedder("embedder.onnx")  # doctest: +SKIP
    >>> embeddings = embed_images(embedder, ["a.jpg", "b.jpg"])  # doctest: +SKIP
    >>> similarity = embeddings[0] @ embeddings[1]  # the cosine  # doctest: +SKIP
    """
    if not isinstance(images, ImageList):
        images = _listed(images)
    image_size, resize_to = view_sizes(embedder, images, image_size=image_size, resize_to=resize_to)
    if embedder.preprocessing and embedder.preprocessing.exif_orientation is not None:
        rule = embedder.preprocessing.exif_orientation
        images = replace(images, apply_exif_orientation=rule)
    if takes_pictures(embedder):
        batches = whole_pictures(images).batch(1).prefetch(2)
    else:
        batches = evaluation_batches(
            images,
            image_size,
            resize_to=resize_to,
            batch_size=embedder.batch_size or batch_size,
            cache=False,
        ).map(lambda batch, labels: batch)
    with naming_damaged(images):
        return embed_views(
            embedder,
            (batch.numpy() for batch in batches),
            total=len(images),
            names=images.paths,
            verbose=shown_progress() if verbose else 0,
        )


def embed_views(
    embedder: Embedder,
    batches: Iterable[np.ndarray],
    *,
    total: int | None = None,
    names: Sequence[str] | np.ndarray | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Embeds batches of pictures that are prepared already, in order.

    Args:
        embedder: `Embedder`.
        batches: arrays (batch, height, width, 3), RGB 0-255, of no more than the `batch_size` of a
            model that has one.
        total, names, verbose: as in `keras_ms.evaluation.embed.embed_batches`.

    Returns:
        float32 array (all pictures, dimension).

    Raises:
        ValueError: as `embed_batches`.
    """
    return embed_batches(
        lambda batch: _embedded(embedder, batch),
        batches,
        total=total,
        names=names,
        source=embedder.name,
        verbose=verbose,
    )


def view_sizes(
    embedder: Embedder,
    images: ImageList | None = None,
    *,
    image_size: int | None = None,
    resize_to: int | None = None,
) -> tuple[int, int]:
    """The sizes at which a model is shown a list of images.

    What is given wins; then what the model's file records; then the defaults of
    `keras_ms.data.images.evaluation_batches`.

    Args:
        embedder: `Embedder`.
        images: ImageList. Defaults to None: any of image files.
        image_size: side of the centre that is cut out, in pixels, or None.
        resize_to: pixels of the shorter side before the cut, or None. A record counts for its own
            `image_size` alone.

    Returns:
        (image_size, resize_to).

    Raises:
        ValueError: `image_size` that the model does not take, or sizes that its file, which
            prepares pictures itself, has not.
    """
    if takes_pictures(embedder):
        return _sizes_inside(embedder, image_size, resize_to)
    if embedder.image_size and image_size not in (None, embedder.image_size):
        raise ValueError(
            f"{embedder.name} takes images of {embedder.image_size} x {embedder.image_size} "
            f"pixels. Received: image_size={image_size}. Leave it out"
        )
    rule = embedder.preprocessing or Preprocessing()
    recorded = rule.image_size if isinstance(rule.image_size, int) else None  # a square's side
    size = side_for(images, image_size or embedder.image_size or recorded)
    if resize_to is None and recorded == size:
        resize_to = rule.resize_to
    return size, default_resize_to(images, size) if resize_to is None else resize_to


def _listed(paths):
    """An ImageList of image files without classes."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise ValueError(f"Expected `images` as a list of paths. Received one path: {paths!r}")
    listed: Any = list(paths)
    if not listed:
        raise ValueError("Expected at least one image to embed. Received an empty list")
    labels, split = np.zeros(len(listed), int), np.full(len(listed), "test")
    return ImageList(listed, labels, ("photo",), split, name="photos")


def takes_pictures(embedder: Embedder) -> bool:
    """Whether the model's file prepares pictures itself: `run` takes them whole."""
    return embedder.preprocessing is not None and embedder.preprocessing.inside


def _sizes_inside(embedder, image_size, resize_to):
    rule: Any = embedder.preprocessing
    for name, given, own in (
        ("image_size", image_size, rule.image_size),
        ("resize_to", resize_to, rule.resize_to),
    ):
        if given not in (None, own):
            raise ValueError(
                f"{embedder.name} prepares photos itself, shorter side {rule.resize_to} and centre "
                f"{rule.image_size}. Received: {name}={given}. Leave it out"
            )
    return rule.image_size, rule.resize_to


def _embedded(embedder, batch):
    """Embeddings of a batch, filled up with its last image where the model has a fixed batch."""
    count = len(batch)
    if embedder.batch_size:
        batch = np.pad(batch, [(0, embedder.batch_size - count)] + [(0, 0)] * 3, mode="edge")
    rows = np.asarray(embedder.run(batch.astype(embedder.input_dtype)))
    # one that is not of the whole batch is left as it is, to be refused
    return rows[:count].astype(np.float32) if rows.shape[:1] == batch.shape[:1] else rows


def _side(shape, path):
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise ValueError(
            f"Expected a model of square RGB images, input shape (batch, size, size, 3). "
            f"{path.name} takes {shape}"
        )
    return shape[1]
