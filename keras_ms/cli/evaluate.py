"""keras-ms evaluate: every metric of a model on a data set, or of saved embeddings."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from keras_ms.cli.image_options import (
    IMAGE_SETTINGS,
    check_before_reading,
    config_settings,
    image_options,
    image_settings,
    load_option_images,
    with_image_size,
)
from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, check_output_file, option, parsed
from keras_ms.cli.setting_options import with_commas
from keras_ms.run.settings.declaration import flag
from keras_ms.run.settings.groups import SETTINGS
from keras_ms.terminal.counted import counted

# those of keras_ms.evaluation, which would import Keras
METRICS = ("recall", "r_precision", "map_at_r", "nmi", "ami", "f1")
_DESCRIPTION = (
    "Embeds the test images of a data set with a .keras file, a SavedModel folder or an .onnx file "
    "and prints Recall@K, R-Precision and MAP@R with intervals; on request NMI, AMI and F1. "
    "Without a model it measures saved embeddings."
)
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


if TYPE_CHECKING:
    _Images = dict[str, Any]
else:
    _Images = image_options(_EXPLANATIONS)


@dataclass(frozen=True)
class _Options:
    model: Annotated[
        Positional[str],
        option(
            "a .keras file, a SavedModel folder, an .onnx file; or an .npz file of embeddings and "
            "labels",
            "MODEL_OR_EMBEDDINGS",
        ),
    ]
    data: Annotated[
        Positional[str],
        option(
            "name of a data set, or the folder or CSV file: short for --dataset or --data-dir",
            "DATASET",
            default="",
        ),
    ] = ""
    config: Annotated[
        str, option("settings.json of the run: its images, as in training", "FILE", default="")
    ] = ""
    split: Annotated[
        Literal["train", "validation", "test"], option("which images are measured")
    ] = "test"
    ks: Annotated[
        tuple[int, ...],
        with_commas("ks"),
        option("the K of Recall@K", default="those of --config, else 1,2,4,8"),
    ] = ()
    metrics: Annotated[
        str,
        option(
            f"of {','.join(METRICS)}, or all. nmi, ami and f1 take a k-means with a cluster for "
            "each class: long for many classes",
            "NAMES",
        ),
    ] = "recall,r_precision,map_at_r"
    batch_size: Annotated[
        int | None,
        option(
            "images embedded at a time",
            "N",
            default="64; a model of a fixed batch takes its own, one that prepares photos 1",
        ),
    ] = None
    bootstrap: Annotated[
        # see keras_ms/evaluation/class_bootstrap.py
        int,
        option("times that classes are drawn for the intervals; 0: no intervals", "N"),
    ] = 1000
    save_embeddings: Annotated[str, option("write them into an .npz file", "FILE", default="")] = ""
    to: Annotated[str, option("write the figures, as .json or .md", "FILE", default="")] = ""
    images: _Images = field(default_factory=dict)


def run(words: Sequence[str]) -> None:
    """Measures as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    options = parsed(_Options, "evaluate", _DESCRIPTION, words)
    from keras_ms.files import whole_file

    ks, metrics = _checked_options(options)
    check_before_reading(options)
    is_saved = Path(options.model).suffix == ".npz"
    if is_saved:
        _check_saved(options)
    check_is_there(options.model, "a model's file, or an .npz file of embeddings")
    import_keras()
    from keras_ms.evaluation import evaluate_embeddings
    from keras_ms.evaluation.all_metrics import checked_metrics
    from keras_ms.evaluation.saved_embeddings import read_embeddings

    checked_metrics(metrics)  # whether their library is installed
    embedded = read_embeddings(options.model) if is_saved else _embedded(options)
    evaluation = evaluate_embeddings(
        embedded["embeddings"],
        embedded["labels"],
        ks=ks,
        metrics=metrics,
        is_query=embedded["is_query"],
        is_gallery=embedded["is_gallery"],
        num_resamples=options.bootstrap,
        seed=options.images.get("seed", 0),
        verbose=True,
    )
    table = f"{options.model}: {evaluation.table()}"
    print(table)
    if options.to:
        with whole_file(options.to) as temporary:
            if Path(options.to).suffix == ".md":
                temporary.write_text(table + "\n", encoding="utf-8")
            else:
                figures = {"model": options.model} | dataclasses.asdict(evaluation)
                if "measured" in embedded:
                    figures["measured"] = embedded["measured"]
                del figures["ranks"]  # one number an image
                names = embedded["class_names"]
                if names is not None:
                    figures["recall_per_class"] = {
                        str(names[label]): value
                        for label, value in evaluation.recall_per_class.items()
                    }
                temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print(f"Wrote {options.to}")


def _checked_options(options):
    """The values of K and the metrics; what would fail after minutes of work fails now."""
    settings = config_settings(options)
    for name, endings in (("save_embeddings", (".npz",)), ("to", (".json", ".md"))):
        path = getattr(options, name)
        if path:
            check_output_file(flag(name), path, endings, (options.config,))
    for name, least in (("bootstrap", 0), ("batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"Expected {flag(name)} of at least {least}. Received: {value}")
    ks = options.ks or settings.evaluation.ks
    if min(ks) < 1:
        raise ValueError(
            "Expected --ks as whole numbers of at least 1, such as 1,2,4,8. Received: "
            + ",".join(map(str, ks))
        )
    metrics = METRICS if options.metrics == "all" else options.metrics.split(",")
    if not set(metrics) <= set(METRICS):
        raise ValueError(
            f"Expected --metrics to be some of {', '.join(METRICS)}, or all. "
            f"Received: {options.metrics}"
        )
    return ks, metrics


def _check_saved(options):
    """Raises for options about images, of which saved embeddings need none."""
    others = (options.data, options.config, options.batch_size, options.save_embeddings)
    # the seed is that of the bootstrap too
    if set(options.images) - {"seed"} or any(others) or options.split != "test":
        raise ValueError(
            f"{options.model} holds embeddings already: leave out the data set and everything "
            "else about images, --split, --batch-size and --save-embeddings"
        )


def _embedded(options):
    from keras_ms.evaluation.saved_embeddings import write_embeddings
    from keras_ms.export.embedder import embed_images, load_embedder, view_sizes
    from keras_ms.run.backend import keep_tensorflow_off_gpus
    from keras_ms.run.origin import data_summary

    keep_tensorflow_off_gpus()
    embedder, split = load_embedder(options.model), options.split
    settings = _settings(options, embedder)
    rule = embedder.preprocessing
    if rule and rule.exif_orientation is not None:
        if options.images.get("apply_exif_orientation") not in (None, rule.exif_orientation):
            raise ValueError(
                f"{embedder.name} wants photos "
                + ("turned as their EXIF orientation says" * rule.exif_orientation or "as stored")
                + ", as its file records. Leave --apply-exif-orientation out"
            )
        settings = settings.with_values(apply_exif_orientation=rule.exif_orientation)
    every = load_option_images(options, settings, split)
    images = every.subset(split)
    size, resize_to = view_sizes(
        embedder,
        images,
        image_size=settings.images.image_size,
        resize_to=settings.images.resize_to or None,  # 0 stands for the default
    )
    print(
        f"Measured: the {counted(len(images), f'{split} image')} of {images.name}, at {size} x "
        f"{size} pixels" + (f" (the centre, shorter side {resize_to})" if resize_to != size else "")
    )
    if len(images) < len(every):
        print(
            f"Not measured: its other {counted(len(every) - len(images), 'image')} (choose with "
            "--split; --test-fraction 1 takes all of a plain folder)"
        )
    if rule and rule.before_resizing:
        print(f"{embedder.name} was evaluated on images prepared first: {rule.before_resizing}")
    embeddings = _kept(options, embedder, images, (size, resize_to))
    if embeddings is None:
        embeddings = embed_images(
            embedder,
            images,
            image_size=size,
            resize_to=resize_to,
            batch_size=options.batch_size or 64,
        )
    if options.save_embeddings:
        names = (*IMAGE_SETTINGS, "validation_groups", "rotated_classes")
        values = settings.values()
        data = {name: values[name] for name in names}
        data |= {"split": split, "resize_to": resize_to}
        for name in ("data_dir", "test_classes"):
            # they are read again from any folder
            data[name] = data[name] and str(Path(data[name]).resolve())
        model = {"name": embedder.name, "fingerprint": embedder.fingerprint}
        write_embeddings(options.save_embeddings, embeddings, images, data, model=model)
        print(f"Wrote {options.save_embeddings}")
    # tells whose figures they are: of which model, on which classes
    measured = {"data": images.name, "split": split, "model_fingerprint": embedder.fingerprint}
    measured |= {"image_size": size, "resize_to": resize_to, **data_summary(every)}
    names = ("labels", "is_query", "is_gallery", "class_names")
    return {"embeddings": embeddings, "measured": measured} | {
        name: getattr(images, name) for name in names
    }


def _kept(options, embedder, images, sizes):
    """What the run of --config has kept of these images by its own model; None without it."""
    from keras_ms.run.features import described_plain_view
    from keras_ms.run.folder import RunFolder
    from keras_ms.run.kept_embeddings import FOLDER, kept_embeddings

    if not options.config or options.batch_size:
        return None
    run = RunFolder(Path(options.config).parent)
    # another file is measured by itself, even where it holds the same weights
    if not run.model_file.is_file() or not run.model_file.samefile(options.model):
        return None
    view = described_plain_view(images, *sizes)
    found = kept_embeddings(run.path, images, fingerprint=embedder.fingerprint, view=view)
    if found is not None:
        print(f"Embeddings: read from {run.path / FOLDER} (with --batch-size they are made anew)")
    return found


def _settings(options, embedder):
    """Settings of the images: those of --config, the model's size, then what was given."""
    given = dict(options.images)
    if options.data:
        given |= _data_set(options.data, given)
    given = with_image_size(given, options, embedder.image_size, embedder.preprocessing)
    if options.split == "test":
        if "validation_fraction" in given:
            raise ValueError("--validation-fraction says nothing about --split test: leave it out")
        # no need for enough training classes to hold some out
        given["validation_fraction"] = 0.0
    return image_settings(options, given)


def _data_set(word, given):
    """The settings that the short form of --dataset or --data-dir stands for."""
    choices = SETTINGS["dataset"].declaration.choices
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
