"""keras-ms curriculum: the classes of a data set divided from clean to highly noisy images."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional

from keras_ms.cli.image_options import (
    check_before_reading,
    image_options,
    image_settings,
    load_option_images,
    with_image_size,
)
from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, check_output_file, option, parsed
from keras_ms.curriculum.density import DENSITIES
from keras_ms.curriculum.subsets import METHODS, check_curriculum_options, curriculum_subsets
from keras_ms.run.damaged_files import errors_name_file
from keras_ms.run.settings.declaration import flag
from keras_ms.run.settings.groups import SETTINGS
from keras_ms.terminal.progress import is_terminal, progress_lines

# how images become features; an .npz file has them
_FOR_EMBEDDING = ("image_size", "resize_to", "batch_size")
# words of the page
_DIVIDED_BY = {"k-means": "density", "distance": "distance to the densest image"}


_DESCRIPTION = (
    "Embeds the training images of a data set with a .keras file, a SavedModel folder or an .onnx "
    "file and divides each class by how densely its images lie: a table for training from clean to "
    "noisy, and a page with the densest, middle and sparsest images of each class."
)

# of settings that are explained otherwise than in training, with their defaults
_EXPLANATIONS = {
    "image_size": "height and width the network sees, pixels; needed, without --config, where the "
    "model takes any and its file records none",
    "seed": "of drawn glyphs and held-out validation classes (default: that of --config, else 0)",
    "validation_fraction": "share of the training classes held out as validation classes "
    "(default: that of --config, else 0)",
}

if TYPE_CHECKING:
    _Images = dict[str, Any]
else:
    _Images = image_options(_EXPLANATIONS)


# see keras_ms/curriculum/subsets.py for the reasons of the defaults
@dataclass(frozen=True)
class _Options:
    model: Annotated[
        Positional[str],
        option(
            "a .keras file, a SavedModel folder, an .onnx file; or an .npz file with `embeddings` "
            "or `features` (N, dimension) and `labels` (N,), such as keras-ms evaluate "
            "--save-embeddings writes. The network should not have learned the wrong labels by "
            "heart",
            "MODEL_OR_FEATURES",
        ),
    ]
    config: Annotated[
        str, option("settings.json of a run: its images, as in training", "FILE", default="")
    ] = ""
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        option("which images are divided", default="train, or that of the .npz file"),
    ] = None
    batch_size: Annotated[int | None, option("images embedded at a time", "N", default="64")] = None
    subsets: Annotated[int, option("subsets of each class", "N")] = 3
    method: Annotated[
        Literal[METHODS],  # pyright: ignore
        option("divide the densities, or the distances to the densest image"),
    ] = "k-means"
    density: Annotated[
        Literal[tuple(DENSITIES)],  # pyright: ignore
        option("number of images nearer than a cut-off, or a smooth sum"),
    ] = "count"
    distance_quantile: Annotated[
        float,
        option("share of the distances of a class that are below its cut-off", "SHARE"),
    ] = 0.6
    max_dimension: Annotated[
        int,
        option(
            "features are reduced to it by a principal component analysis of each class with "
            "more images than that; 0: never",
            "N",
        ),
    ] = 256
    workers: Annotated[
        int | None,
        option("classes at the same time", "N", default="one for each processor core, at most 8"),
    ] = None
    to: Annotated[str, option("the table to write", "FILE")] = "curriculum.csv"
    page: Annotated[
        str, option("the page to write", "FILE", default="the table's name with .html")
    ] = ""
    page_classes: Annotated[
        int,
        option(
            "most classes on the page, those with the fewest clean images; 0: no page",
            "N",
        ),
    ] = 100
    images: _Images = field(default_factory=dict)


def run(words: Sequence[str]) -> None:
    """Divides as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    options = parsed(_Options, "curriculum", _DESCRIPTION, words)
    page, dividing = _checked_page(options), _dividing(options)
    check_before_reading(options)
    check_is_there(options.model, "a model's file, or an .npz file of features")
    import_keras()
    from keras_ms.curriculum.table import write_curriculum
    from keras_ms.report.curriculum_page import subset_name, write_curriculum_page

    saved = Path(options.model).suffix == ".npz"
    features, images, has_pictures = _saved(options) if saved else _embedded(options)
    progress = _progress if is_terminal(sys.stderr) else progress_lines("dividing", unit="classes")
    divided = curriculum_subsets(features, images.labels, **dividing, progress=progress)
    write_curriculum(options.to, divided, images)
    for number in range(int(divided.subset.max()) + 1):
        count = int((divided.subset == number).sum())
        print(f"{subset_name(number)}: {count:,} images ({100 * count / len(images):.0f} %)")
    print(f"Wrote {options.to}")
    if not options.page_classes:
        return
    if not has_pictures:
        print("No page: it shows the images. Name their data set with --dataset or --data-dir")
        return
    facts = {
        "Features": f"{Path(options.model).name}, {features.shape[1]:,} dimensions",
        "Density": "number of images nearer than the cut-off, the "
        f"{options.distance_quantile:g} quantile of a class's distances"
        if options.density == "count"
        else "Gaussian sum over the images of a class",
        "Divided by": _DIVIDED_BY[options.method],
    }
    size = write_curriculum_page(
        divided, images, page, facts=facts, num_classes=options.page_classes
    )
    print(f"Wrote {page} ({size / 1e6:.1f} MB)")


def _dividing(options):
    """The options of `curriculum_subsets`, checked before any image is read."""
    names = ("subsets", "method", "density", "distance_quantile", "max_dimension", "workers")
    dividing = {name: getattr(options, name) for name in names}
    dividing["max_dimension"] = dividing["max_dimension"] or None
    check_curriculum_options(**dividing)
    return dividing


def _progress(done, total):
    end = "\n" if done == total else ""
    print(f"\r\033[K{done:,} of {total:,} classes", end=end, file=sys.stderr, flush=True)


def _checked_page(options):
    """Where the page goes; what would fail after minutes of work fails now."""
    page = Path(options.page or Path(options.to).with_suffix(".html"))
    if options.page and options.page_classes == 0:
        raise ValueError("--page-classes 0 writes no page: leave out --page")
    inputs = [options.images.get(name) for name in ("data_dir", "test_classes")]
    for name, path, ending in (("to", Path(options.to), ".csv"), ("page", page, ".html")):
        check_output_file(flag(name), path, (ending,), inputs)
    for name, least in (("page_classes", 0), ("max_dimension", 0), ("batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"Expected {flag(name)} of at least {least}. Received: {value}")
    return page


def _embedded(options):
    """(features, images, True) of a model and a data set."""
    from keras_ms.curriculum.table import table_names
    from keras_ms.export.embedder import embed_images, load_embedder

    embedder, split = load_embedder(options.model), options.split or "train"
    given = with_image_size(options.images, options, embedder.image_size, embedder.preprocessing)
    settings = _settings(options, {}, given)
    images = load_option_images(options, settings, split).subset(split)
    table_names(images)  # what the table cannot hold
    features = embed_images(
        embedder,
        images,
        image_size=settings.images.image_size,
        resize_to=settings.images.resize_to or None,
        batch_size=options.batch_size or 64,
    )
    return features, images, True


def _saved(options):
    """(features, images, whether their pictures are known) of an .npz file."""
    from keras_ms.curriculum.table import table_names
    from keras_ms.evaluation.saved_embeddings import read_embeddings
    from keras_ms.run.images import load_run_images

    path = options.model
    _refuse(options, _FOR_EMBEDDING, f"{path} holds features already")
    content = read_embeddings(path, fallback_name="features")
    features, labels = content["embeddings"], content["labels"].reshape(-1)
    data, given = content["data"] or {}, options.images
    saved_split = data.pop("split", "train")
    named = data or options.config or "dataset" in given or "data_dir" in given
    if not named:
        reason = f"{path} names no data set, and neither --dataset nor --data-dir is given"
        _refuse(options, (*given, "split", "page"), reason)
        images = _listed(content, labels, path)
        table_names(images)
        return features, images, False
    split = options.split or saved_split
    images = load_run_images(_settings(options, data, given), needed=(split,)).subset(split)
    table_names(images)
    if not np.array_equal(labels, images.labels):
        raise ValueError(
            f"Expected in {path} the labels of the {len(images)} {split} images of "
            f"{images.name}, in their order. Received: {len(labels)} labels"
            + " of other classes or in another order"
            * (len(labels) == len(images))
        )
    return features, images, True


def _refuse(options, names, reason):
    """Names the given ones of options that would not be read."""
    given = {"batch_size": options.batch_size, "split": options.split, "page": options.page or None}
    given |= options.images
    unread = [flag(name) for name in names if given.get(name) is not None]
    if unread:
        raise ValueError(f"{reason}: leave out {', '.join(unread)}")


def _listed(content, labels, path):
    """The images of which an .npz file has no more than labels and, maybe, names."""
    from keras_ms.data.image_list import ImageList

    names, paths = content["class_names"], content["paths"]
    most = np.inf if names is None else len(names)
    if labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0 or labels.max() >= most:
        raise ValueError(
            f"Expected labels in {path} as class ids from 0 on"
            + ("" if names is None else f", below its {most} class_names")
            + f". Received: {labels.dtype}"
            + (f", from {labels.min()} to {labels.max()}" if len(labels) else ", none")
        )
    # ids may be any numbers: only those that are there get a name
    classes, ids = np.unique(labels, return_inverse=True)
    return ImageList(
        np.array([f"row {row}" for row in range(len(labels))]) if paths is None else paths,
        ids,
        tuple(classes if names is None else names[classes]),
        np.full(len(labels), "train"),
        name=Path(path).stem,
    )


def _settings(options, data, given):
    """Settings of the images: those saved with embeddings or of --config, then what was given."""
    unknown = sorted(set(data) - set(SETTINGS))
    if unknown:
        raise ValueError(f"Unknown settings in {options.model}: {', '.join(unknown)}")
    if not options.config:
        # noise is looked for in all training classes
        data = {"validation_fraction": 0.0} | data
    if options.config or given:
        return image_settings(options, data | given)
    with errors_name_file(
        options.model, "in `data` settings of images, as keras-ms evaluate writes"
    ):
        return image_settings(options, data)
