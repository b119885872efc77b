"""keras-ms evaluate: every metric of a model on a data set, or of saved embeddings."""

import dataclasses
import json
from pathlib import Path

from keras_ms.cli.image_options import (
    IMAGE_SETTINGS,
    add_image_options,
    config_settings,
    given_settings,
    image_settings,
    with_image_size,
)
from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.setting_options import flag
from keras_ms.run.settings import Settings

# those of keras_ms.evaluation, which would import Keras
METRICS = ("recall", "r_precision", "map_at_r", "nmi", "ami", "f1")
# what differs from training
_EXPLANATIONS = {
    "image_size": "height and width the network sees, pixels; needed, without --config, where the "
    "model takes any and its file records none",
    "resize_to": "shorter side before the centre crop, pixels (default: that of --config, else "
    "what the model's file records, else image_size * 256 / 227 for photos, image_size for "
    "characters)",
    "seed": "of drawn glyphs and held-out validation classes (default: that of --config), of the "
    "bootstrap and of k-means (default: 0)",
    "test_fraction": "share of the classes of a plain folder, last in sorted order, that test "
    "(default: 0.5, as in training; 1 measures all images)",
}


def add_parser(commands):
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on a data set, or saved embeddings",
        description="Embeds the test images of a data set with a .keras file, a SavedModel folder "
        "or an .onnx file and prints Recall@K, R-Precision and MAP@R with intervals; on request "
        "NMI, AMI and F1. Without a model it measures saved embeddings.",
    )
    parser.set_defaults(command=_evaluate)
    parser.add_argument(
        "model",
        metavar="MODEL_OR_EMBEDDINGS",
        help="a .keras file, a SavedModel folder, an .onnx file; or an .npz file of embeddings "
        "and labels",
    )
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATASET",
        help="name of a data set, or the folder or CSV file: short for --dataset or --data-dir",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="settings.json of the run: its images, as in training"
    )
    add_image_options(parser, _EXPLANATIONS)
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="default: test"
    )
    parser.add_argument("--ks", help="the K of Recall@K (default: those of --config, else 1,2,4,8)")
    parser.add_argument(
        "--metrics",
        default="recall,r_precision,map_at_r",
        metavar="NAMES",
        help=f"of {','.join(METRICS)}, or all (default: recall,r_precision,map_at_r). nmi, ami "
        "and f1 take a k-means with a cluster for each class: long for many classes",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images embedded at a time (default: 64; a model of a fixed batch takes its own)",
    )
    parser.add_argument(
        # see keras_ms/evaluation/class_bootstrap.py
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="times that classes are drawn for the intervals (default: 1000; 0: no intervals)",
    )
    parser.add_argument("--save-embeddings", metavar="FILE", help="write them into an .npz file")
    parser.add_argument("--to", metavar="FILE", help="write the figures, as .json or .md")


def _evaluate(options):
    from keras_ms.files import whole_file

    ks, metrics = _checked_options(options)
    import_keras()
    from keras_ms.evaluation import evaluate_embeddings
    from keras_ms.evaluation.all_metrics import checked_metrics

    checked_metrics(metrics)  # whether their library is installed
    found = _saved(options) if Path(options["model"]).suffix == ".npz" else _embedded(options)
    evaluation = evaluate_embeddings(
        found["embeddings"],
        found["labels"],
        ks=ks,
        metrics=metrics,
        is_query=found["is_query"],
        is_gallery=found["is_gallery"],
        num_resamples=options["bootstrap"],
        seed=options["seed"] or 0,
        verbose=True,
    )
    table = f"{options['model']}: {evaluation.table()}"
    print(table)
    if options["to"]:
        with whole_file(options["to"]) as temporary:
            if Path(options["to"]).suffix == ".md":
                temporary.write_text(table + "\n", encoding="utf-8")
            else:
                figures = {"model": options["model"]} | dataclasses.asdict(evaluation)
                del figures["ranks"]  # one number an image
                names = found["class_names"]
                if names is not None:
                    figures["recall_per_class"] = {
                        str(names[label]): value
                        for label, value in evaluation.recall_per_class.items()
                    }
                temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print(f"Wrote {options['to']}")


def _checked_options(options):
    """The values of K and the metrics; what would fail after minutes of work fails now."""
    from keras_ms.files import check_writable

    for name, suffixes in (("save_embeddings", (".npz",)), ("to", (".json", ".md"))):
        path = options[name]
        if path is None:
            continue
        if Path(path).suffix not in suffixes:
            raise ValueError(
                f"Expected {flag(name)} to end in {' or '.join(suffixes)}. Received: {path}"
            )
        check_writable(Path(path).parent)
    for name, least in (("bootstrap", 0), ("batch_size", 1)):
        if options[name] is not None and options[name] < least:
            raise ValueError(
                f"Expected {flag(name)} of at least {least}. Received: {options[name]}"
            )
    text = options["ks"] or config_settings(options).ks
    try:
        ks = [int(k) for k in text.split(",")]
    except ValueError:
        ks = [0]
    if min(ks) < 1:
        raise ValueError(
            f"Expected --ks as whole numbers of at least 1, such as 1,2,4,8. Received: {text}"
        )
    metrics = METRICS if options["metrics"] == "all" else options["metrics"].split(",")
    if not set(metrics) <= set(METRICS):
        raise ValueError(
            f"Expected --metrics to be some of {', '.join(METRICS)}, or all. "
            f"Received: {options['metrics']}"
        )
    return ks, metrics


def _saved(options):
    from keras_ms.evaluation.saved_embeddings import read_embeddings

    about_images = (*IMAGE_SETTINGS, "data", "config", "batch_size", "save_embeddings")
    given = {name for name in about_images if options[name] is not None}
    # the seed is that of the bootstrap too
    if given - {"seed"} or options["split"] != "test":
        raise ValueError(
            f"{options['model']} holds embeddings already: leave out the data set and everything "
            "else about images, --split, --batch-size and --save-embeddings"
        )
    return read_embeddings(options["model"])


def _embedded(options):
    from keras_ms.evaluation.saved_embeddings import write_embeddings
    from keras_ms.export.embedder import embed_images, load_embedder, view_sizes
    from keras_ms.run.images import load_run_images

    embedder, split = load_embedder(options["model"]), options["split"]
    settings = _settings(options, embedder)
    rule = embedder.preprocessing
    if rule and rule.exif_orientation is not None:
        if options["apply_exif_orientation"] not in (None, rule.exif_orientation):
            raise ValueError(
                f"{embedder.name} wants photos "
                + ("turned as their EXIF orientation says" * rule.exif_orientation or "as stored")
                + ", as its file records. Leave --apply-exif-orientation out"
            )
        settings = dataclasses.replace(settings, apply_exif_orientation=rule.exif_orientation)
    every = load_run_images(settings, needed=(split,))
    images = every.subset(split)
    size, resize_to = view_sizes(
        embedder,
        images,
        image_size=settings.image_size,
        resize_to=settings.resize_to or None,  # 0 stands for the default
    )
    print(
        f"Measured: the {len(images):,} {split} images of {images.name}, at {size} x {size} pixels"
        + (f" (the centre, shorter side {resize_to})" if resize_to != size else "")
    )
    if len(images) < len(every):
        print(
            f"Not measured: its other {len(every) - len(images):,} images (choose with --split; "
            "--test-fraction 1 takes all of a plain folder)"
        )
    if rule and rule.before_resizing:
        print(f"{embedder.name} was evaluated on images prepared first: {rule.before_resizing}")
    embeddings = embed_images(
        embedder,
        images,
        image_size=size,
        resize_to=resize_to,
        batch_size=options["batch_size"] or 64,
    )
    if options["save_embeddings"]:
        names = (*IMAGE_SETTINGS, "validation_groups", "rotated_classes")
        data = {name: getattr(settings, name) for name in names}
        data |= {"split": split, "resize_to": resize_to}
        for name in ("data_dir", "test_classes"):
            # they are read again from any folder
            data[name] = data[name] and str(Path(data[name]).resolve())
        write_embeddings(options["save_embeddings"], embeddings, images, data)
        print(f"Wrote {options['save_embeddings']}")
    names = ("labels", "is_query", "is_gallery", "class_names")
    return {"embeddings": embeddings} | {name: getattr(images, name) for name in names}


def _settings(options, embedder):
    """Settings of the images: those of --config, the model's size, then what was given."""
    given = given_settings(options)
    if options["data"] is not None:
        given |= _data_set(options["data"], given)
    given = with_image_size(given, options, embedder.image_size, embedder.preprocessing)
    if options["split"] == "test":
        if "validation_fraction" in given:
            raise ValueError("--validation-fraction says nothing about --split test: leave it out")
        # no need for enough training classes to hold some out
        given["validation_fraction"] = 0.0
    return image_settings(options, given)


def _data_set(word, given):
    """The settings that the short form of --dataset or --data-dir stands for."""
    choices = Settings.__dataclass_fields__["dataset"].metadata["choices"]
    is_name = word in choices and ("data_dir" in given or not Path(word).exists())
    name = "dataset" if is_name else "data_dir"
    if name in given:
        raise ValueError(
            f"Give the data set once: {word} is short for {flag(name)} {word}, and "
            f"{flag(name)} {given[name]} is given too"
        )
    if not is_name:
        # another folder than the run's may hold another data set
        return {name: word} | ({} if "dataset" in given else {"dataset": "auto"})
    # glyphs are drawn: the run's folder has nothing to do with them
    drawn = word == "glyphs" and "data_dir" not in given
    return {name: word} | ({"data_dir": ""} if drawn else {})
