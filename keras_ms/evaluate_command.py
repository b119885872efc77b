"""keras-ms evaluate: every metric of a model on a data set, or of saved embeddings."""

import argparse
import dataclasses
import json
from pathlib import Path

from keras_ms.settings import Settings

_METRICS = "recall,r_precision,map_at_r,nmi,ami,f1"
# Settings that say which images are read, and how; the others belong to a training
_OF_IMAGES = (
    "dataset", "data_dir", "check_counts", "test_fraction", "test_classes", "validation_fraction",
    "skip_unreadable", "skip_small_classes", "image_size", "resize_to", "seed",
)
_EMBEDDINGS = (
    ".npz file with `embeddings` (N, dimension), `labels` (N,) and, if wanted, `is_query` and "
    "`is_gallery` (N,)"
)


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
        "model", metavar="MODEL_OR_EMBEDDINGS",
        help=f"a .keras file, a SavedModel folder, an .onnx file; or a {_EMBEDDINGS}",
    )
    parser.add_argument(
        "data", nargs="?", metavar="DATASET",
        help="name of a data set, or the folder or CSV file: short for --dataset or --data-dir",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="settings.json of the run: its images, as in training"
    )
    fields = {option.name: option for option in dataclasses.fields(Settings)}
    for name in _OF_IMAGES:
        option, flag = fields[name], _flag(name)
        explanation = option.metadata["explanation"].replace("%", "%%")
        # None marks what was not given, so that --config is overridden only by what was
        if isinstance(option.default, bool):
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=explanation
            )
        else:
            parser.add_argument(
                flag, type=type(option.default), choices=option.metadata["choices"],
                help=explanation, metavar=name.upper(),
            )
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="default: test"
    )
    parser.add_argument("--ks", default="1,2,4,8", help="the K of Recall@K (default: 1,2,4,8)")
    parser.add_argument(
        "--metrics", default="recall,r_precision,map_at_r", metavar="NAMES",
        help=f"of {_METRICS}, or all (default: recall,r_precision,map_at_r). nmi, ami and f1 take "
        "a k-means with a cluster for each class: long for many classes",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images embedded at a time")
    parser.add_argument(
        # see keras_ms/evaluation/class_bootstrap.py
        "--bootstrap", type=int, default=1000, metavar="N",
        help="times that classes are drawn for the intervals (default: 1000; 0: no intervals)",
    )
    parser.add_argument("--save-embeddings", metavar="FILE", help="write them into an .npz file")
    parser.add_argument("--to", metavar="FILE", help="write the figures, as .json or .md")


def _evaluate(options):
    from keras_ms.evaluation import evaluate_embeddings
    from keras_ms.whole_files import whole_file

    ks, metrics = _checked_options(options)
    if Path(options["model"]).suffix == ".npz":
        found = _saved_embeddings(options)
    else:
        found = _embedded(options)

    if options["save_embeddings"]:
        import numpy as np

        with whole_file(options["save_embeddings"]) as temporary:
            np.savez(temporary, **{name: found[name] for name in found if found[name] is not None})
        print(f"Wrote {options['save_embeddings']}")
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
    from keras_ms.evaluation.all_metrics import METRICS, checked_metrics
    from keras_ms.evaluation.retrieval import checked_ks
    from keras_ms.whole_files import check_writable

    for name, suffixes in (("save_embeddings", (".npz",)), ("to", (".json", ".md"))):
        path = options[name]
        if path is None:
            continue
        if Path(path).suffix not in suffixes:
            raise ValueError(
                f"Expected {_flag(name)} to end in {' or '.join(suffixes)}. Received: {path}"
            )
        check_writable(Path(path).parent)
    for name, least in (("bootstrap", 0), ("batch_size", 1)):
        if options[name] < least:
            raise ValueError(
                f"Expected {_flag(name)} of at least {least}. Received: {options[name]}"
            )
    try:
        ks = [int(k) for k in options["ks"].split(",")]
    except ValueError:
        raise ValueError(
            f"Expected --ks as whole numbers, such as 1,2,4,8. Received: {options['ks']}"
        ) from None
    metrics = METRICS if options["metrics"] == "all" else options["metrics"].split(",")
    return checked_ks(ks), checked_metrics(metrics)


def _flag(name):
    return "--" + name.replace("_", "-")


def _saved_embeddings(options):
    import numpy as np

    path = options["model"]
    given = [name for name in (*_OF_IMAGES, "data", "config") if options[name] is not None]
    if set(given) - {"seed"} or options["save_embeddings"] or options["split"] != "test":
        raise ValueError(
            f"{path} holds embeddings already: leave out the data set and everything else about "
            "images, --split and --save-embeddings"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an {_EMBEDDINGS}. Nothing is at {path}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = ("embeddings", "labels", "is_query", "is_gallery", "class_names")
            found = {name: arrays[name] if name in arrays else None for name in names}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise ValueError(f"{path} cannot be read as an {_EMBEDDINGS}: {error}") from error
    missing = [name for name in ("embeddings", "labels") if found[name] is None]
    if missing:
        raise ValueError(f"{path} lacks {' and '.join(missing)}. Expected an {_EMBEDDINGS}")
    return found


def _embedded(options):
    from keras_ms.data.load_images import load_images
    from keras_ms.embed import embed_images, load_embedder

    embedder = load_embedder(options["model"])
    settings = _settings(options, embedder.image_size)
    images = load_images(settings).subset(options["split"])
    size = settings.image_size
    # of photos the border is cut, as in training
    margin = 256 / 227 if images.images is None else 1
    embeddings = embed_images(
        embedder,
        images,
        image_size=size,
        resize_to=settings.resize_to or round(size * margin),
        batch_size=options["batch_size"],
    )
    return {
        "embeddings": embeddings,
        "labels": images.labels,
        "is_query": images.is_query,
        "is_gallery": images.is_gallery,
        "class_names": images.class_names,
    }


def _settings(options, model_size):
    """Settings of the images: those of --config, the model's size, then what was given."""
    given = {name: options[name] for name in _OF_IMAGES if options[name] is not None}
    if options["data"] is not None:
        if "dataset" in given or "data_dir" in given:
            raise ValueError(
                f"Give the data set once: either {options['data']} or --dataset and --data-dir"
            )
        choices = Settings.__dataclass_fields__["dataset"].metadata["choices"]
        is_name = options["data"] in choices and not Path(options["data"]).exists()
        given["dataset" if is_name else "data_dir"] = options["data"]
    if "image_size" not in given and model_size:
        given["image_size"] = model_size
    if options["split"] == "test":
        if "validation_fraction" in given:
            raise ValueError("--validation-fraction says nothing about --split test: leave it out")
        # no need for enough training classes to hold some out
        given["validation_fraction"] = 0.0
    settings = Settings.read(options["config"]) if options["config"] else Settings()
    return dataclasses.replace(settings, **given)
