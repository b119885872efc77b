"""The report of a run, or of saved embeddings: find images and embeddings, write the page."""

import csv
import dataclasses
import functools
from pathlib import Path

import keras
import numpy as np

from keras_ms.data.load_images import load_images
from keras_ms.html_report import collect_report, write_report
from keras_ms.html_report.markup import percent
from keras_ms.models.embedding import embedder_of, split_embedder
from keras_ms.run_data import RunData
from keras_ms.settings import Settings

# they name folders of one computer; the last part says enough
_PATHS = ("data_dir", "test_classes", "weights", "runs_folder", "export_folder")


def run_report(
    run,
    path,
    *,
    data_dir=None,
    num_map_images=None,
    verbose=2,
    log=functools.partial(print, flush=True),
):
    """Embeds the test images of a run once more and writes the page about them.

    The embedder is embedder.keras of a finished run; of a run that still trains, the best weights
    so far.

    Args:
        run: `RunFolder`.
        path: the HTML file.
        data_dir: where the images lie now. Defaults to None: where they lay during training.
        num_map_images: most images on the map. Defaults to None: those of `collect_report`.
        verbose: as in `keras.Model.predict`.
        log: function that takes a line of text for the user.

    Returns:
        Size of the page in bytes.

    Raises:
        FileNotFoundError: no weights yet, or the images are gone.
        ValueError: images that are not those of the run.
    """
    settings = run.read_settings()
    # cached features lie beside the run, wherever that was moved to
    settings = dataclasses.replace(
        settings, runs_folder=str(run.path.parent), data_dir=data_dir or settings.data_dir
    )
    embedder, weights = _embedder(run, settings)
    images = load_images(settings, log)
    _check_same(images, run)
    test = images.subset("test")
    features_model, head = split_embedder(embedder)
    data = RunData(settings, images, features_model, log, verbose)
    log(f"Embedding {len(test):,} test images")
    model = head if settings.freeze_backbone else embedder
    batches = data.evaluation("test").map(lambda item, label: item)
    embeddings = model.predict(batches, verbose=verbose)
    report = collect_report(
        embeddings,
        test,
        settings.recall_ks(),
        title=f"{images.name}: {settings.loss.replace('_', ' ')}",
        facts=_facts(run, settings, images, embedder, weights),
        settings=_settings(settings),
        history=_history(run),
        log=log,
        **_map_options(num_map_images),
    )
    return write_report(report, path)


def embeddings_report(
    file,
    path,
    *,
    dataset=None,
    data_dir=None,
    num_map_images=None,
    log=functools.partial(print, flush=True),
):
    """Writes the page about saved embeddings of the test images of a data set.

    Args:
        file: .npz file with `embeddings` (N, dimension) and `labels` (N,).
        path: the HTML file.
        dataset, data_dir: the data set as in `Settings`. Defaults to None: class folders.
        num_map_images: most images on the map. Defaults to None: those of `collect_report`.
        log: function that takes a line of text for the user.

    Returns:
        Size of the page in bytes.

    Raises:
        FileNotFoundError: no such file, or no such data.
        ValueError: a file of other content, or of other images.
    """
    embeddings, labels = _saved_embeddings(file)
    # all classes that do not test may stay together: nothing is trained
    settings = Settings(
        dataset=dataset or "auto", data_dir=data_dir or "", validation_fraction=0.0
    )
    test = load_images(settings, log).subset("test")
    if not np.array_equal(labels.reshape(-1), test.labels):
        raise ValueError(
            f"Expected in {file} the labels of the {len(test)} test images of {test.name}, in "
            f"their order. Received: {len(labels)} labels"
            + (" in another order or of other classes" if len(labels) == len(test) else "")
        )
    report = collect_report(
        embeddings,
        test,
        facts={"Data": f"{test.name}, test images", "Embeddings": Path(file).name,
               "Dimensions": f"{embeddings.shape[1]:,}"},
        log=log,
        **_map_options(num_map_images),
    )
    return write_report(report, path)


def _saved_embeddings(file):
    if not Path(file).is_file():
        raise FileNotFoundError(f"Expected an .npz file of embeddings. Nothing is at {file}")
    expected = f"Expected {file} to be an .npz file with `embeddings` (N, dimension) and `labels`"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = arrays["embeddings"], arrays["labels"]
    except Exception as error:  # numpy and zipfile raise many kinds
        raise ValueError(f"{expected}. Reading it failed: {error}") from error
    if found[0].ndim != 2:
        raise ValueError(f"{expected}. Received embeddings of shape {found[0].shape}")
    return found


def _map_options(num_map_images):
    return {} if num_map_images is None else {"num_map_images": num_map_images}


def _embedder(run, settings):
    """(embedder, which weights it has in words)."""
    if run.model.is_file():
        best = (run.read_json(run.summary) or {}).get("best_step")
        words = f"of step {best:,}, the best on the validation classes" if best else "the last ones"
        # safe_mode: a file from elsewhere must not run code of its own
        return keras.saving.load_model(run.model, compile=False, safe_mode=True), words
    if not run.best_weights.is_file():
        raise FileNotFoundError(
            f"The run {run.path} has no weights yet: expected {run.model.name}, which it gets at "
            f"its end, or {run.best_weights.name}, which runs with validation classes get with "
            f"their first epoch. Continue it with: train --resume {run.path}"
        )
    embedder = embedder_of(settings)
    trained = split_embedder(embedder)[1] if settings.freeze_backbone else embedder
    trained.load_weights(run.best_weights)
    return embedder, "the best so far on the validation classes; the run is not finished"


def _check_same(images, run):
    counts = {split: list(count) for split, count in images.counts().items()}
    trained = (run.read_json(run.summary) or {}).get("data", counts)
    if counts != trained:
        raise ValueError(
            f"Expected the images of the run, (classes, images) in each split: {trained}. "
            f"Received: {counts}. Recall on classes that were trained on would mean nothing: give "
            "the data of the run (--data-dir)"
        )


def _facts(run, settings, images, embedder, weights):
    facts = {
        "Data": f"{images.name}: " + ", ".join(
            f"{split} {classes:,} classes ({count:,} images)"
            for split, (classes, count) in images.counts().items()
        ),
        "Embedder": f"{settings.backbone} at {settings.image_size} px, {settings.embedding_size} "
        f"dimensions, {embedder.count_params():,} parameters"
        + (", backbone frozen" if settings.freeze_backbone else ""),
        "Loss": settings.loss.replace("_", " ") + _in_brackets(settings.loss_options()),
        "Training": f"{settings.steps:,} steps of {settings.classes_per_batch} classes × "
        f"{settings.images_per_class} images, learning rate {settings.learning_rate:g} "
        f"({settings.schedule}), seed {settings.seed}",
        "Weights": weights,
    }
    baselines = run.read_json(run.baselines) or {}
    known = [f"{percent(recalls['1'], 1)} {name.replace('_', ' ')}"
             for name, recalls in baselines.items() if recalls]
    if known:
        facts["Recall@1 for comparison"] = ", ".join(known)
    environment = run.read_json(run.path / "environment.json") or {}
    versions = {"Python": environment.get("python"), **environment.get("packages", {})}
    shown = ("Python", "keras_ms", "tensorflow", "keras")
    known = [f"{name} {versions[name]}" for name in shown if versions.get(name)]
    if known:
        facts["Trained with"] = ", ".join(known)
    return facts


def _in_brackets(options):
    words = ", ".join(f"{name} {value}" for name, value in options.items())
    return f" ({words})" if words else ""


def _settings(settings):
    values = dataclasses.asdict(settings)
    return {name: Path(value).name if name in _PATHS and value else value
            for name, value in values.items()}


def _history(run):
    if not run.history.is_file():
        return []
    with open(run.history, newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)]
    return [row for row in rows if np.isfinite(row.get("step", np.nan))]
