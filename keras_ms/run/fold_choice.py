"""The choice of a head's start, learning rate and alpha, by folds over the training classes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.catalogue import chosen_data_set
from keras_ms.models.head_start import STARTS
from keras_ms.pairs.replicas import on_one_device
from keras_ms.run.choice import WeightsChoice, choice_table, read_choice
from keras_ms.run.data import RunData
from keras_ms.run.folder import RunFolder
from keras_ms.run.head_folds import ALPHAS, RATES, HeadFolds, class_folds
from keras_ms.run.head_start import run_starts, stays_at_start
from keras_ms.run.model import RunModels
from keras_ms.run.optimizer import learning_rate_schedule, run_optimizer
from keras_ms.run.settings import Settings
from keras_ms.run.settings.defaults import UNTUNED_HEAD


def choose_by_folds(
    run: RunFolder,
    settings: Settings,
    *,
    models: RunModels,
    data: RunData,
    log: Callable[[str], Any],
) -> WeightsChoice | None:
    """The choice of the head, made once in a run and kept in its folder.

    Args:
        run: the run's folder; every head that was trained is kept there too.
        settings: its `Settings`.
        models: its models.
        data: its data.
        log: function that takes a line of text for the user.

    Returns:
        `WeightsChoice`; None where no classes can be held out.

    Raises:
        DamagedFile: the files of an earlier session.
    """
    images = data.images.subset("train")
    folds = class_folds(images.labels, settings.training.seed, groups_held_out(settings, images))
    if not folds:
        log(
            "Fewer than 4 training classes of 2 images, or groups of them that leave fewer than 2 "
            "to a fold: none can be held out to choose by, so "
            + (
                "the head stays at its start"
                if stays_at_start(settings)
                else "the last weights count"
            )
        )
        return None
    if run.choice_file.is_file():
        choice = read_choice(run, steps=settings.training.steps, ks=settings.evaluation.ks)
    else:
        # a head is too small to be shared, and classes held out may leave batches of another size
        with on_one_device():
            heads = _heads(settings, models, data, folds, log)
            choice = heads.choice(_measured(run, settings, heads, log))
        run.write_json(run.choice_file, choice.to_json())
    log(choice_table(choice))
    return choice


def with_fold_choice(settings: Settings, choice: WeightsChoice | None) -> Settings:
    """The settings with a start and a learning rate of the head: as set, chosen, or usual.

    Args:
        settings: `Settings`.
        choice: of `choose_by_folds`.
    """
    start, rate = UNTUNED_HEAD["head_initializer"], UNTUNED_HEAD["learning_rate"]
    if choice:
        start, rate = choice.chosen.start, choice.chosen.learning_rate
    return settings.with_values(
        head_initializer=settings.model.head_initializer or start,
        learning_rate=settings.training.learning_rate or rate,
    )


def starts_to_try(
    given: str | None, usable: Sequence[Sequence[str]], *, log: Callable[[str], Any]
) -> tuple[str, ...]:
    """The starts of the head that the training part of every fold allows.

    Args:
        given: the start of the settings; None where it is to be chosen.
        usable: for each fold, the starts that its training part allows, best first.
        log: function that takes a line of text for the user.
    """
    common = tuple(start for start in usable[0] if all(start in starts for starts in usable))
    common = common or ("orthogonal",)
    if given is None:
        return common
    if given in STARTS and given not in common:
        log(
            f"The training classes of a fold do not allow the start {given}: the folds start "
            f"{common[0]}"
        )
        return common[:1]
    return (given,)


def _heads(settings, models, data, folds, log):
    rate = settings.training.learning_rate
    features = data.features.training_views()
    usable = [run_starts(models, data, rows=~held_out) for held_out in folds]
    return HeadFolds(
        features,
        data.images.subset("train").labels,
        folds,
        embedding_size=models.random_kernel.shape[1],
        loss=models.loss,
        normalize=models.loss.normalize,
        # of a head, its kernel and its bias
        optimizer=lambda schedule: run_optimizer(settings, schedule, decayed=(True, False)),
        schedule=learning_rate_schedule(settings, 1.0),
        batches=data.head_batches,
        steps=settings.training.steps,
        starts=starts_to_try(settings.model.head_initializer, usable, log=log),
        rates=RATES if rate is None else (rate,),
        alphas=ALPHAS if settings.training.interpolate else (0.0, 1.0),
        random_start=lambda start: models.random_kernel,
        ks=settings.evaluation.ks,
    )


def _measured(run, settings, heads, log):
    """{(fold, start, rate): [(alpha, {K: recall})]}, those done before included."""
    log(
        f"Choosing by {len(heads.folds)} folds over the training classes: "
        f"{len(heads.trainings())} heads of {settings.training.steps} steps"
    )
    # of an interrupted run
    with run.errors_name_file(run.folds_file):
        written = {
            tuple(training): recalls for training, recalls in run.read_json(run.folds_file) or []
        }
        for recalls in written.values():
            _from_json(recalls)
    measured = {}
    for training in heads.trainings():
        if training not in written:
            written[training] = _to_json(heads.measure(*training))
            run.write_json(run.folds_file, [[list(key), value] for key, value in written.items()])
        measured[training] = _from_json(written[training])
        fold, start, rate = training
        reached = [recall[1] for _, recall in measured[training]]
        log(
            f"  fold {fold + 1}, start {start}, learning rate {rate:g}: recall@1 "
            f"{reached[0]:.3f} at the start, {reached[-1]:.3f} trained, {max(reached):.3f} at "
            "best between"
        )
    return measured


def _to_json(recalls):
    return [[alpha, {str(k): value for k, value in recall.items()}] for alpha, recall in recalls]


def _from_json(recalls):
    return [
        (float(alpha), {int(k): float(value) for k, value in recall.items()})
        for alpha, recall in recalls
    ]


def groups_held_out(settings: Settings, images: ImageList) -> np.ndarray | None:
    """The group of each image's class, where whole groups are held out; else None."""
    whole = settings.data.validation_groups
    if whole is None:
        # characters of one alphabet are told apart more easily than those of a new one
        data_set = chosen_data_set(settings.data.dataset, settings.data.data_dir or None)
        whole = data_set.has_groups
    if not whole:
        return None
    return np.array([images.class_names[label].rpartition("/")[0] for label in images.labels])
