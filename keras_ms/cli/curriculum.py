"""keras-ms curriculum: the classes of a data set divided from clean to highly noisy images."""

import sys
from pathlib import Path

import numpy as np

from keras_ms.cli.image_options import (
    add_image_options,
    given_settings,
    image_settings,
    with_image_size,
)
from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.setting_options import flag
from keras_ms.curriculum.density import DENSITIES
from keras_ms.curriculum.subsets import METHODS, check_curriculum_options, curriculum_subsets
from keras_ms.run.damaged_files import naming_file
from keras_ms.run.settings import Settings
from keras_ms.terminal.progress import is_terminal, progress_lines

# how images become features; an .npz file has them
_OF_EMBEDDING = ("image_size", "resize_to", "batch_size")
# words of the page
_DIVIDED_BY = {"k-means": "density", "distance": "distance to the densest image"}


def add_parser(commands):
    parser = commands.add_parser(
        "curriculum",
        help="divide each class into clean, noisy and highly noisy images, by density",
        description="Embeds the training images of a data set with a .keras file, a SavedModel "
        "folder or an .onnx file and divides each class by how densely its images lie: a table for "
        "training from clean to noisy, and a page with the densest, middle and sparsest images of "
        "each class.",
    )
    parser.set_defaults(command=_curriculum)
    parser.add_argument(
        "model",
        metavar="MODEL_OR_FEATURES",
        help="a .keras file, a SavedModel folder, an .onnx file; or an .npz file with `embeddings` "
        "or `features` (N, dimension) and `labels` (N,), such as keras-ms evaluate "
        "--save-embeddings writes. The network should not have learned the wrong labels by heart",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="settings.json of a run: its images, as in training"
    )
    add_image_options(parser, {})
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="default: train, or that of the .npz file",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images embedded at a time (default: 64)"
    )
    # see keras_ms/curriculum/subsets.py for the reasons of the defaults
    parser.add_argument("--subsets", type=int, default=3, help="of each class (default: 3)")
    parser.add_argument(
        "--method",
        default="k-means",
        choices=METHODS,
        help="divide the densities, or the distances to the densest image (default: k-means)",
    )
    parser.add_argument(
        "--density",
        default="count",
        choices=DENSITIES,
        help="number of images nearer than a cut-off, or a smooth sum (default: count)",
    )
    parser.add_argument(
        "--distance-quantile",
        type=float,
        default=0.6,
        metavar="SHARE",
        help="share of the distances of a class that are below its cut-off (default: 0.6)",
    )
    parser.add_argument(
        "--max-dimension",
        type=int,
        default=256,
        metavar="N",
        help="features are reduced to it by a principal component analysis of each class with "
        "more images than that; 0: never (default: 256)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="classes at the same time (default: one for each processor core, at most 8)",
    )
    parser.add_argument(
        "--to",
        default="curriculum.csv",
        metavar="FILE",
        help="the table to write (default: curriculum.csv)",
    )
    parser.add_argument(
        "--page", metavar="FILE", help="the page to write (default: the table's name with .html)"
    )
    parser.add_argument(
        "--page-classes",
        type=int,
        default=100,
        metavar="N",
        help="most classes on the page, those with the fewest clean images (default: 100; 0: no "
        "page)",
    )


def _curriculum(options):
    page, dividing = _checked_page(options), _dividing(options)
    import_keras()
    from keras_ms.curriculum.table import write_curriculum
    from keras_ms.report.curriculum_page import subset_name, write_curriculum_page

    saved = Path(options["model"]).suffix == ".npz"
    features, images, shown = _saved(options) if saved else _embedded(options)
    progress = _progress if is_terminal(sys.stderr) else _lines(images.labels)
    found = curriculum_subsets(features, images.labels, **dividing, progress=progress)
    write_curriculum(options["to"], found, images)
    for number in range(int(found.subset.max()) + 1):
        count = int((found.subset == number).sum())
        print(f"{subset_name(number)}: {count:,} images ({100 * count / len(images):.0f} %)")
    print(f"Wrote {options['to']}")
    if not options["page_classes"]:
        return
    if not shown:
        print("No page: it shows the images. Name their data set with --dataset or --data-dir")
        return
    facts = {
        "Features": f"{Path(options['model']).name}, {features.shape[1]:,} dimensions",
        "Density": "number of images nearer than the cut-off, the "
        f"{options['distance_quantile']:g} quantile of a class's distances"
        if options["density"] == "count"
        else "Gaussian sum over the images of a class",
        "Divided by": _DIVIDED_BY[options["method"]],
    }
    size = write_curriculum_page(
        found, images, page, facts=facts, num_classes=options["page_classes"]
    )
    print(f"Wrote {page} ({size / 1e6:.1f} MB)")


def _dividing(options):
    """The options of `curriculum_subsets`, checked before any image is read."""
    names = ("subsets", "method", "density", "distance_quantile", "max_dimension", "workers")
    found = {name: options[name] for name in names}
    found["max_dimension"] = found["max_dimension"] or None
    check_curriculum_options(**found)
    return found


def _progress(done, total):
    end = "\n" if done == total else ""
    print(f"\r\033[K{done:,} of {total:,} classes", end=end, file=sys.stderr, flush=True)


def _lines(labels):
    """As `_progress`, for a log: a line every half minute."""
    tell = progress_lines("dividing", len(np.unique(labels)), unit="classes")
    return lambda done, total: tell(done / total)


def _checked_page(options):
    """Where the page goes; what would fail after minutes of work fails now."""
    from keras_ms.files import check_writable

    page = Path(options["page"] or Path(options["to"]).with_suffix(".html"))
    if options["page"] and options["page_classes"] == 0:
        raise ValueError("--page-classes 0 writes no page: leave out --page")
    for name, path, suffix in (("to", Path(options["to"]), ".csv"), ("page", page, ".html")):
        if path.suffix != suffix:
            raise ValueError(f"Expected {flag(name)} to end in {suffix}. Received: {path}")
        check_writable(path.parent)
    for name, least in (("page_classes", 0), ("max_dimension", 0), ("batch_size", 1)):
        if options[name] is not None and options[name] < least:
            raise ValueError(
                f"Expected {flag(name)} of at least {least}. Received: {options[name]}"
            )
    return page


def _embedded(options):
    """(features, images, True) of a model and a data set."""
    from keras_ms.curriculum.table import table_names
    from keras_ms.export.embedder import embed_images, load_embedder
    from keras_ms.run.images import load_run_images

    embedder, split = load_embedder(options["model"]), options["split"] or "train"
    given = with_image_size(
        given_settings(options), options, embedder.image_size, embedder.preprocessing
    )
    settings = _settings(options, {}, given)
    images = load_run_images(settings, needed=(split,)).subset(split)
    table_names(images)  # what the table cannot hold
    features = embed_images(
        embedder,
        images,
        image_size=settings.image_size,
        resize_to=settings.resize_to or None,
        batch_size=options["batch_size"] or 64,
    )
    return features, images, True


def _saved(options):
    """(features, images, whether their pictures are known) of an .npz file."""
    from keras_ms.curriculum.table import table_names
    from keras_ms.evaluation.saved_embeddings import read_embeddings
    from keras_ms.run.images import load_run_images

    path = options["model"]
    _refuse(options, _OF_EMBEDDING, f"{path} holds features already")
    found = read_embeddings(path, also_called="features")
    features, labels = found["embeddings"], found["labels"].reshape(-1)
    data, given = found["data"] or {}, given_settings(options)
    saved_split = data.pop("split", "train")
    named = data or options["config"] or "dataset" in given or "data_dir" in given
    if not named:
        reason = f"{path} names no data set, and neither --dataset nor --data-dir is given"
        _refuse(options, (*given, "split", "page"), reason)
        images = _listed(found, labels, path)
        table_names(images)
        return features, images, False
    split = options["split"] or saved_split
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
    unread = [flag(name) for name in names if options[name] is not None]
    if unread:
        raise ValueError(f"{reason}: leave out {', '.join(unread)}")


def _listed(found, labels, path):
    """The images of which an .npz file has no more than labels and, maybe, names."""
    from keras_ms.data.image_list import ImageList

    names, paths = found["class_names"], found["paths"]
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
        [f"row {row}" for row in range(len(labels))] if paths is None else paths,
        ids,
        classes if names is None else names[classes],
        ["train"] * len(labels),
        name=Path(path).stem,
    )


def _settings(options, data, given):
    """Settings of the images: those saved with embeddings or of --config, then what was given."""
    unknown = sorted(set(data) - set(Settings.__dataclass_fields__))
    if unknown:
        raise ValueError(f"Unknown settings in {options['model']}: {', '.join(unknown)}")
    if not options["config"]:
        # noise is looked for in all training classes
        data = {"validation_fraction": 0.0} | data
    if options["config"] or given:
        return image_settings(options, data | given)
    with naming_file(options["model"], "in `data` settings of images, as keras-ms evaluate writes"):
        return image_settings(options, data)
