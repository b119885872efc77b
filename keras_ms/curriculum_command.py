"""keras-ms curriculum: the classes of a data set divided from clean to highly noisy images."""

import dataclasses
import sys
from pathlib import Path

from keras_ms.setting_options import add_setting, flag
from keras_ms.settings import Settings

# Settings that say which images are read, and how
_OF_IMAGES = (
    "dataset", "data_dir", "check_counts", "test_fraction", "test_classes", "validation_fraction",
    "skip_unreadable", "skip_small_classes", "image_size", "resize_to", "seed",
)


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
        "model", metavar="MODEL_OR_FEATURES",
        help="a .keras file, a SavedModel folder, an .onnx file; or an .npz file with `embeddings` "
        "or `features` (N, dimension) and `labels` (N,), such as keras-ms evaluate "
        "--save-embeddings writes. The network should not have learned the wrong labels by heart",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="settings.json of a run: its images, as in training"
    )
    for name in _OF_IMAGES:
        add_setting(parser, name, Settings.__dataclass_fields__[name].metadata["explanation"])
    parser.add_argument(
        "--split", choices=("train", "validation", "test"),
        help="default: train, or that of the .npz file",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images embedded at a time (default: 64)"
    )
    # see keras_ms/data/curriculum.py for the reasons of the defaults
    parser.add_argument("--subsets", type=int, default=3, help="of each class (default: 3)")
    parser.add_argument(
        "--method", default="k-means", choices=("k-means", "distance"),
        help="divide the densities, or the distances to the densest image (default: k-means)",
    )
    parser.add_argument(
        "--density", default="count", choices=("count", "gaussian"),
        help="number of images nearer than a cut-off, or a smooth sum (default: count)",
    )
    parser.add_argument(
        "--distance-quantile", type=float, default=0.6, metavar="SHARE",
        help="share of the distances of a class that are below its cut-off (default: 0.6)",
    )
    parser.add_argument(
        "--max-dimension", type=int, default=256, metavar="N",
        help="features are reduced to it by a principal component analysis of each class with "
        "more images than that; 0: never (default: 256)",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="classes at the same time (default: one for each processor core, at most 8)",
    )
    parser.add_argument(
        "--to", default="curriculum.csv", metavar="FILE",
        help="the table to write (default: curriculum.csv)",
    )
    parser.add_argument(
        "--page", metavar="FILE", help="the page to write (default: the table's name with .html)"
    )
    parser.add_argument(
        "--page-classes", type=int, default=100, metavar="N",
        help="most classes on the page, those with the fewest clean images (default: 100; 0: no "
        "page)",
    )


def _curriculum(options):
    from keras_ms.curriculum_page import subset_name, write_curriculum_page
    from keras_ms.data.curriculum import curriculum_subsets
    from keras_ms.data.curriculum_table import write_curriculum

    page = _checked_page(options)
    saved = Path(options["model"]).suffix == ".npz"
    features, images, shown = _saved(options) if saved else _embedded(options)
    found = curriculum_subsets(
        features,
        images.labels,
        options["subsets"],
        method=options["method"],
        density=options["density"],
        distance_quantile=options["distance_quantile"],
        max_dimension=options["max_dimension"] or None,
        workers=options["workers"],
        progress=_progress if sys.stderr.isatty() else None,
    )
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
        "Divided by": {"k-means": "density", "distance": "distance to the densest image"}[
            options["method"]
        ],
    }
    size = write_curriculum_page(
        found, images, page, facts=facts, num_classes=options["page_classes"]
    )
    print(f"Wrote {page} ({size / 1e6:.1f} MB)")


def _progress(done, total):
    end = "\n" if done == total else ""
    print(f"\r\033[K{done:,} of {total:,} classes", end=end, file=sys.stderr, flush=True)


def _checked_page(options):
    """Where the page goes; what would fail after minutes of work fails now."""
    from keras_ms.whole_files import check_writable

    page = Path(options["page"] or Path(options["to"]).with_suffix(".html"))
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
    from keras_ms.data.load_images import load_images
    from keras_ms.embed import embed_images, load_embedder
    from keras_ms.run_data import shorter_side

    embedder, split = load_embedder(options["model"]), options["split"] or "train"
    settings = _settings(options, {})
    given = options["image_size"] is not None or options["config"]
    if not embedder.image_size and not given:
        raise ValueError(
            f"{options['model']} takes images of any size: give --image-size, the side in pixels "
            "that it was trained with"
        )
    if embedder.image_size and options["image_size"] is None:
        settings = dataclasses.replace(settings, image_size=embedder.image_size)
    every = load_images(settings, needed=(split,))
    images = every.subset(split)
    features = embed_images(
        embedder,
        images,
        image_size=settings.image_size,
        resize_to=shorter_side(settings, every),
        batch_size=options["batch_size"] or 64,
    )
    return features, images, True


def _saved(options):
    """(features, images, whether their pictures are known) of an .npz file."""
    import numpy as np

    from keras_ms.data.image_list import ImageList
    from keras_ms.data.load_images import load_images

    found = _arrays(options["model"])
    if options["batch_size"] is not None:
        raise ValueError(f"{options['model']} holds features already: leave out --batch-size")
    data, labels = found["data"] or {}, np.asarray(found["labels"]).reshape(-1)
    split = options["split"] or data.pop("split", "train")
    if data or options["dataset"] or options["data_dir"] or options["config"]:
        images = load_images(_settings(options, data), needed=(split,)).subset(split)
        if not np.array_equal(labels, images.labels):
            raise ValueError(
                f"Expected in {options['model']} the labels of the {len(images)} {split} images of "
                f"{images.name}, in their order. Received: {len(labels)} labels"
                + " of other classes or in another order" * (len(labels) == len(images))
            )
        return found["features"], images, True
    if labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
        raise ValueError(
            f"Expected labels in {options['model']} as class ids from 0 on. Received: "
            f"{labels.dtype}" + (f", least {labels.min()}" if len(labels) else ", none")
        )
    paths, names = found["paths"], found["class_names"]
    images = ImageList(
        [f"row {row}" for row in range(len(labels))] if paths is None else paths,
        labels,
        [str(label) for label in range(labels.max() + 1)] if names is None else names,
        ["train"] * len(labels),
        name=Path(options["model"]).stem,
    )
    return found["features"], images, False


def _arrays(path):
    """What `read_embeddings` returns, with `features`, which may be called so in the file too."""
    import numpy as np

    from keras_ms.evaluation.saved_embeddings import read_embeddings

    if Path(path).is_file():
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if "features" in arrays and "labels" in arrays and "embeddings" not in arrays:
                    more = dict.fromkeys(("paths", "class_names", "data"))
                    return more | {name: arrays[name] for name in ("features", "labels")}
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} cannot be read as an .npz file: {error}") from error
    found = read_embeddings(path)
    return found | {"features": found["embeddings"]}


def _settings(options, data):
    """Settings of the images: those saved with embeddings or of --config, then what was given."""
    config = Settings.read(options["config"]) if options["config"] else Settings()
    unknown = sorted(set(data) - set(Settings.__dataclass_fields__))
    if unknown:
        raise ValueError(f"Unknown settings in {options['model']}: {', '.join(unknown)}")
    given = {name: options[name] for name in _OF_IMAGES if options[name] is not None}
    if not options["config"]:
        # noise is looked for in all training classes
        data = {"validation_fraction": 0.0} | data
    return dataclasses.replace(config, **(data | given))
