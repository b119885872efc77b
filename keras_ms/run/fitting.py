"""The training of a run: fit from its last complete epoch to its last step."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_ms.callbacks import (
    InterpolateWeights,
    KeepBestWeights,
    RecallAtK,
    WithAveragedWeights,
)
from keras_ms.htl.callback import RebuildClassTree
from keras_ms.htl.class_tree import ClassTree
from keras_ms.models.checkpointed_blocks import checkpointed_blocks
from keras_ms.models.lora import merge_lora
from keras_ms.models.saved_files import write_weights
from keras_ms.optimizers import take_averages
from keras_ms.run.damaged_files import load_weights
from keras_ms.run.data import RunData
from keras_ms.run.folder import RunFolder
from keras_ms.run.model import RunModels
from keras_ms.run.settings import Settings
from keras_ms.run.told_zero_loss import TellZeroLoss
from keras_ms.run.tracking import tracking_callbacks
from keras_ms.run.training_state import SaveRun
from keras_ms.terminal.keras_progress import TrainingLines
from keras_ms.terminal.progress import shown_progress


class Fitted(NamedTuple):
    """What a training leaves beside the last weights in its model.

    Attributes:
        recall_callback: what measured the validation classes, or the test classes without any.
        best_keeper: what kept the best weights; None without validation classes.
        interpolation: what knows the weights that training began with; None where they cannot be
            kept.
        history: a dict of numbers for each epoch.
    """

    recall_callback: RecallAtK
    best_keeper: KeepBestWeights | None
    interpolation: InterpolateWeights | None
    history: list[dict[str, float]]

    def take(self, alpha: float) -> None:
        """Leaves the model with weights between the start and the last ones.

        Args:
            alpha: share of the last weights, 0 to 1.

        Raises:
            ValueError: the start was not kept.
        """
        if self.interpolation is None:
            raise ValueError(f"Expected a start to go back to, for alpha={alpha}. None was kept")
        self.interpolation.take(alpha)


def fit_model(
    run: RunFolder,
    settings: Settings,
    *,
    models: RunModels,
    data: RunData,
    log: Callable[[str], Any],
    start: Mapping[str, float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Fitted:
    """Trains the steps that are left, an epoch at a time, and keeps the last weights.

    Args:
        run: the run's folder, with what earlier sessions left.
        settings: its `Settings`.
        models: its models, compiled.
        data: its data.
        log: function that takes a line of text for the user.
        start: Recall@K of the validation classes before training, by K as text, where it is known.
            Defaults to None: it is measured.
        callbacks: more of the user's, behind those that measure. Defaults to none.

    Raises:
        DamagedFile: the files of an earlier session.
    """
    model = models.trained
    recall_callback = _recall_at_k(settings, data, start)
    # what is chosen by is not the test classes
    best_keeper = (
        KeepBestWeights(recall_callback, run.best_weights_file)
        if recall_callback.prefix == "val_"
        else None
    )
    with models.scope():
        for callback in (recall_callback, best_keeper):
            if callback:
                callback.set_model(model)
        interpolation = _interpolation(run, settings, model, recall_callback, best_keeper)
        epoch, history = _restored(run, model, recall_callback, best_keeper)
        # the margins of its loss are variables too
        trees = _class_tree_callbacks(run, settings, models, data)
        # else the first trace of the step makes its variables, and fit traces it again; not
        # sooner, since the start is kept without them; HDML builds its own
        if settings.hdml.mode == "off" and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    epochs = settings.training.steps // settings.training.steps_per_epoch
    steps_done = epoch * settings.training.steps_per_epoch
    # an optimizer counts fewer where float16 left steps out, and after the last epoch no fit tells
    recall_callback.count_from(steps_done)
    if epoch < epochs:
        verbose = shown_progress()
        log(f"Training: steps {steps_done} to {settings.training.steps}")
        lines = TrainingLines(settings.training.steps, steps_done, beside_bar=verbose == 1, log=log)
        measuring = [recall_callback, *([best_keeper] if best_keeper else [])]
        with _checkpointing(settings, models):
            model.fit(
                data.training(start_step=steps_done),
                # batches that follow a class tree come an epoch at a time
                steps_per_epoch=(
                    None if data.neighbour_indices else settings.training.steps_per_epoch
                ),
                initial_epoch=epoch,
                epochs=epochs,
                shuffle=False,  # the batches come in the sampler's order
                verbose=verbose,
                callbacks=[
                    *trees,
                    *([WithAveragedWeights(measuring)] if settings.training.ema else measuring),
                    lines,
                    TellZeroLoss(log),
                    *tracking_callbacks(settings, run.path),
                    *callbacks,
                    SaveRun(
                        run,
                        settings.training.steps_per_epoch,
                        history=history,
                        best=lambda: {
                            "value": recall_callback.best_value,
                            "step": recall_callback.best_step,
                        },
                    ),
                ],
            )
    if settings.training.ema:
        # fit has left it in the model, unless there was nothing to train any more
        take_averages(model.optimizer)
    if settings.training.lora_rank:
        merge_lora(models.embedder)
        # the start of the same weights, without LoRA's
        interpolation = _interpolation(run, settings, model, recall_callback, best_keeper)
    write_weights(model, run.last_weights_file)
    return Fitted(recall_callback, best_keeper, interpolation, history)


def _checkpointing(settings, models):
    if settings.training.gradient_checkpointing:
        return checkpointed_blocks(models.embedder.get_layer("backbone"))
    return contextlib.nullcontext()


def _recall_at_k(settings, data, start):
    validation = data.evaluation("validation")
    split = "test" if validation is None else "validation"
    return RecallAtK(
        data.evaluation("test") if validation is None else validation,
        ks=settings.evaluation.ks,
        images=data.images.subset(split),
        # without validation classes the curve shows the test classes: reported, not chosen by
        prefix="test_" if validation is None else "val_",
        at_start=validation is not None and ({int(k): start[k] for k in start} if start else True),
    )


def _interpolation(run, settings, model, recall_callback, best_keeper):
    """An `InterpolateWeights` that knows the start; None where no weights in between are asked."""
    # folds choose between the start and the trained weights at least
    if not settings.training.interpolate and settings.training.tune != "folds":
        return None
    interpolation = InterpolateWeights(
        recall_callback, best=best_keeper, start_path=run.start_weights_file
    )
    interpolation.set_model(model)
    is_there = run.start_weights_file.is_file()
    with run.errors_name_file(run.start_weights_file) if is_there else contextlib.nullcontext():
        interpolation.keep_start()
    return interpolation


def _restored(
    run: RunFolder,
    model: keras.Model,
    recall_callback: RecallAtK,
    best_keeper: KeepBestWeights | None,
) -> tuple[int, list[dict[str, float]]]:
    """Restores the last complete epoch into model and callback: its number and the history."""
    progress = run.read_progress()
    if best_keeper and progress and progress["best"].get("step") is not None:
        # needed at the end, so it is read now; the state replaces what it sets
        load_weights(model, run.best_weights_file, run.remedy(run.best_weights_file))
    epoch, history, measured = run.restore_state(model)
    if history:
        # the file of them may have been cut off meanwhile
        run.write_history(history)
    else:
        run.chosen_weights_file.unlink(missing_ok=True)
    if measured:
        recall_callback.best_value, recall_callback.best_step = measured["value"], measured["step"]
    return epoch, history


def _class_tree_callbacks(run, settings, models, data):
    """What builds the class tree before every epoch, for the loss or the batches."""
    if settings.loss.name == "hierarchical_triplet":
        loss = models.loss
        if settings.loss.tree_margins == "first" and run.first_class_tree_file.is_file():
            with run.errors_name_file(run.first_class_tree_file):
                loss.assign_tree(ClassTree.load(run.first_class_tree_file))
        options: dict[str, Any] = {
            "levels": settings.loss.tree_levels,
            "linkage": settings.loss.tree_linkage,
            "margins": settings.loss.tree_margins,
            "folder": run.path,
        }
    elif data.neighbour_indices is not None:
        # the batches ask for the nearest classes alone: no levels, and the faster linkage
        loss, options = None, {"levels": 1, "linkage": "single"}
    else:
        return []
    items, labels = data.plain_training()
    return [RebuildClassTree(loss, items, labels, data.neighbour_indices, **options)]
