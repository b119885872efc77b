"""The report of a run, or of saved embeddings: find images and embeddings, write the page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ms.data.damaged_images import naming_damaged
from keras_ms.evaluation.embed import batches_without_labels, embed_batches
from keras_ms.evaluation.saved_embeddings import read_embeddings
from keras_ms.export.fingerprint import model_fingerprint
from keras_ms.files import check_writable
from keras_ms.models.embedding import split_embedder
from keras_ms.models.keras_file import load_keras_file
from keras_ms.report import collect_report, write_report
from keras_ms.run.backend import keep_tensorflow_off_gpus
from keras_ms.run.damaged_files import errors_name_file, load_weights
from keras_ms.run.data import run_data
from keras_ms.run.facts import (
    run_baseline_lines,
    run_choice,
    run_facts,
    run_history,
    run_pictures,
    run_remarks,
    shown_settings,
    unchosen_weights,
)
from keras_ms.run.features import described_plain_view
from keras_ms.run.folder import RunFolder
from keras_ms.run.images import load_images_of_a_run
from keras_ms.run.kept_embeddings import FOLDER, kept_embeddings
from keras_ms.run.model import build_models, run_loss
from keras_ms.run.origin import are_same_images, data_summary
from keras_ms.run.settings import Settings
from keras_ms.run.settings.groups import SETTINGS
from keras_ms.run.views import shorter_side
from keras_ms.terminal.command_words import UnfinishedRun
from keras_ms.terminal.keras_progress import work_progress
from keras_ms.terminal.progress import print_line, progress_lines


def run_report(
    run: RunFolder,
    path: str | Path,
    *,
    data_dir: str | None = None,
    test_classes: str | None = None,
    num_map_images: int | None = None,
    verbose: int = 2,
    log: Callable[[str], Any] = print_line,
) -> int:
    """Writes the page about the test images of a run, embedded anew where it has not kept that.

    The embedder is embedder.keras of a finished run; of a run that still trains, the best weights
    so far.

    Args:
        run: `RunFolder`.
        path: the HTML file.
        data_dir: where the images lie now. Defaults to None: where they lay during training.
        test_classes: where the list of test classes lies now. Defaults to None: likewise.
        num_map_images: most images on the map. Defaults to None: those of `collect_report`.
        verbose: 1 shows bars, 2 tells a line every half minute, 0 nothing of what takes long.
        log: function that takes a line of text for the user.

    Returns:
        Size of the page in bytes.

    Raises:
        FileNotFoundError: no weights yet, or the images are gone.
        ValueError: images that are not those of the run, or that cannot be read.
    """
    settings = run.read_settings()
    settings = settings.with_values(
        # cached features lie beside the run, wherever that was moved to
        runs_folder=str(run.path.parent),
        data_dir=data_dir or settings.data.data_dir,
        test_classes=test_classes or settings.data.test_classes,
        # the table of a curriculum is for training
        curriculum="",
    )
    _check_weights(run)
    keep_tensorflow_off_gpus()
    images = load_images_of_a_run(settings, log)
    _check_same(images, run)
    choice = run_choice(run)
    embedder, weights = _embedder(run, settings, images, choice)
    test = images.subset("test")
    with naming_damaged(test):
        embeddings = kept_embeddings(
            run.path,
            test,
            fingerprint=model_fingerprint(embedder),
            view=described_plain_view(
                test, settings.images.image_size, shorter_side(settings, test)
            ),
        )
        if embeddings is None:
            embeddings = _embeddings(embedder, settings, images, log, verbose)
        else:
            log(f"Embeddings of the {len(test):,} test images: read from {run.path / FOLDER}")
    history = run_history(run)
    report = collect_report(
        embeddings,
        test,
        settings.evaluation.ks,
        title=f"{images.name}: {settings.loss.name.replace('_', ' ')}",
        unseen=True,
        facts=run_facts(
            run,
            run.settled_settings(),
            data_name=images.name,
            counts=images.counts(),
            embedder=embedder,
            weights=weights,
        ),
        settings=shown_settings(run.settled_settings()),
        history=history,
        pictures=run_pictures(run),
        levels=run_baseline_lines(run, history),
        choice=choice,
        remarks=run_remarks(run, history),
        log=log,
        **_map_options(num_map_images),
    )
    return write_report(report, path, progress=work_progress("small pictures", verbose, log))


def embeddings_report(
    file: str | Path,
    path: str | Path,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    num_map_images: int | None = None,
    log: Callable[[str], Any] = print_line,
) -> int:
    """Writes the page about saved embeddings of the images of a data set.

    Args:
        file: .npz file with `embeddings` (N, dimension) and `labels` (N,). Of which images they
            are is read from it where `keras-ms evaluate` wrote it; else they are the test images.
        path: the HTML file.
        dataset, data_dir: the data set as in `Settings`. Defaults to None: what the file says,
            else what is found in `data_dir`.
        num_map_images: most images on the map. Defaults to None: those of `collect_report`.
        log: function that takes a line of text for the user.

    Returns:
        Size of the page in bytes.

    Raises:
        FileNotFoundError: no such file, or no such data.
        ValueError: a file of other content, of other images, or that does not say of which.
    """
    saved: Any = read_embeddings(file)
    settings, split = _data_of(file, saved["data"], dataset, data_dir)
    images = load_images_of_a_run(settings, log, needed=(split,)).subset(split)
    _check_rows(file, saved, images)
    embeddings = saved["embeddings"]
    report = collect_report(
        embeddings,
        images,
        facts={
            "Data": f"{images.name}, {split} images",
            "Embeddings": Path(file).name,
            "Dimensions": f"{embeddings.shape[1]:,}",
        },
        log=log,
        **_map_options(num_map_images),
    )
    return write_report(report, path, progress=progress_lines("small pictures", log))


def _data_of(file, data: dict[str, Any] | None, dataset, data_dir) -> tuple[Settings, str]:
    """(`Settings` of the images, their split): as saved, and as given."""
    if data is None and not dataset and not data_dir:
        raise ValueError(
            f"The page shows the images: give --data-dir or --dataset, {file} names none"
        )
    # all classes that do not test may stay together: nothing is trained
    data = {"validation_fraction": 0.0} | (data or {})
    split = data.pop("split", "test")
    given = {"dataset": dataset, "data_dir": data_dir}
    unknown = set(data) - set(SETTINGS)
    if unknown:
        raise ValueError(f"Unknown settings in {file}: {', '.join(sorted(unknown))}")
    given = {name: value for name, value in given.items() if value}
    with errors_name_file(file, "in `data` settings of images, as keras-ms evaluate writes"):
        return Settings.from_values(**(data | given)), split


def _check_rows(file, saved, images):
    """Raises ValueError unless the saved rows are those of the images, in their order."""
    labels = saved["labels"].reshape(-1)
    if not np.array_equal(labels, images.labels):
        raise ValueError(
            f"Expected in {file} the labels of the {len(images)} images of {images.name}, in "
            f"their order. Received: {len(labels)} labels"
            + (" in another order or of other classes" if len(labels) == len(images) else "")
        )
    if saved["paths"] is None:
        return
    # folders may have moved
    pairs = [(Path(a).name, Path(b).name) for a, b in zip(saved["paths"], images.paths)]
    other = [row for row, (a, b) in enumerate(pairs) if a != b]
    if other:
        in_file, here = pairs[other[0]]
        raise ValueError(
            f"Expected in {file} embeddings of the images of {images.name}, in their order. "
            f"{len(other)} of {len(pairs)} are of files of another name, the first is row "
            f"{other[0]}: {in_file}, here {here}"
        )


def _embeddings(embedder, settings, images, log, verbose):
    """Embeddings of the run's test images, of cached features where the backbone is frozen."""
    folder = Path(settings.training.runs_folder) / "features"
    if settings.model.freeze_backbone:
        try:
            check_writable(folder)
        except OSError as error:
            log(f"{error}. The features are computed once more and not kept")
            settings = settings.with_values(
                freeze_backbone=False, feature_views=1, tune="off", interpolate=False
            )
    features_model, head = split_embedder(embedder)
    data = run_data(settings, images, features_model=features_model, log=log, verbose=verbose)
    count = int((images.split == "test").sum())
    log(f"Embedding {count:,} test images")
    model = head if settings.model.freeze_backbone else embedder
    batches = batches_without_labels(data.evaluation("test"))
    return embed_batches(model, batches, total=count, verbose=verbose, log=log)


def _map_options(num_map_images) -> dict[str, Any]:
    return {} if num_map_images is None else {"num_map_images": num_map_images}


def _check_weights(run):
    if not run.model_file.is_file() and not run.best_weights_file.is_file():
        raise UnfinishedRun(
            f"The run {run.path} has no weights yet: expected {run.model_file.name}, which it gets "
            f"at its end, or {run.best_weights_file.name}, which runs with validation classes get "
            "as they begin to train",
            run.path,
        )


def _embedder(run, settings, images, choice) -> tuple[keras.Model, str]:
    """(embedder, which weights it has in words)."""
    if run.model_file.is_file():
        words = unchosen_weights(run)
        if choice is not None:
            words = f"chosen among {len(choice.candidates):,}, see What was chosen"
        embedder: Any = load_keras_file(run.model_file)
        return embedder, words
    if settings.model.weights and not settings.model.freeze_backbone:
        # the best weights are those of the whole embedder: what it started from may be gone
        # given weights freeze the statistics unless the settings say otherwise
        frozen = settings.model.frozen_batch_norm is not False
        settings = settings.with_values(
            weights="", frozen_batch_norm=frozen, crop_scale=None, interpolate=False
        )
    models = build_models(settings, images.subset("train").labels, loss=run_loss(settings))
    load_weights(models.trained, run.best_weights_file, run.remedy(run.best_weights_file))
    return models.embedder, "the best so far on the validation classes; the run is not finished"


def _check_same(images, run):
    found = data_summary(images)
    trained = run.read_data_summary()
    if trained is None:
        # of a run of an earlier version the counts alone, once it is finished
        summary = run.read_json(run.summary_file) or {}
        with run.errors_name_file(run.summary_file):
            trained = {**found, "counts": summary.get("data", found["counts"])}
    if not are_same_images(found, trained):
        same = found["counts"] == trained["counts"]
        raise ValueError(
            f"Expected the images of the run, (classes, images) in each split: {trained['counts']}"
            f". Received: {'as many, of other classes' if same else found['counts']}. Recall "
            "on classes that were trained on would mean nothing: give the data of the run "
            "(--data-dir, --test-classes)"
        )
