"""The training run: settings -> images, model, choice by folds, fit, choice, evaluation, export."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_ms.data.damaged_images import naming_damaged
from keras_ms.files import remove_unfinished
from keras_ms.run.backend import check_same_backend, prepared_backend
from keras_ms.run.baselines import measured_baselines
from keras_ms.run.closing import (
    closing_words,
    finite_recall,
    kept_weights,
    next_words,
    run_summary,
)
from keras_ms.run.data import run_data, with_image_defaults
from keras_ms.run.embedder import check_backbone
from keras_ms.run.exports import check_exports, export_folder, exported_recall, write_exports
from keras_ms.run.fitting import fit_model
from keras_ms.run.fold_choice import choose_by_folds, with_fold_choice
from keras_ms.run.head_start import start_head, stays_at_start
from keras_ms.run.images import check_resumed_images, load_run_images
from keras_ms.run.kept_embeddings import keep_test_embeddings
from keras_ms.run.model import (
    build_models,
    compile_model,
    parameters_in_words,
    run_loss,
    save_deployed,
)
from keras_ms.run.optimizer import check_schedule
from keras_ms.run.pictures import write_pictures
from keras_ms.run.processes import joined_processes
from keras_ms.run.recalls import as_texts, split_embeddings, split_recall
from keras_ms.run.session import interruption_names_run, opened_run, precision
from keras_ms.run.settings import Settings
from keras_ms.run.tracking import check_tracking
from keras_ms.run.validation_choice import choose_by_validation
from keras_ms.run.views import check_augmentation
from keras_ms.terminal.progress import print_line
from keras_ms.terminal.streams import lasting_output


def train(
    settings: Settings,
    resume: str | Path | None = None,
    log: Callable[[str], Any] = print_line,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, Any]:
    """Trains an embedder as `settings` say, evaluates it on unseen classes and exports it.

    What counts is chosen without the test classes, which are only reported: with a frozen backbone
    by folds over the training classes, else on validation classes taken from them, among the steps
    measured (the start included) and the weights between the start and the last ones.

    Of two processes that begin a run of one name, one trains and the other is refused before it
    writes anything; without `run_name` each has a name of its own. Output that nobody reads any
    more, because a terminal or a pipe is gone, does not end the training.

    Args:
        settings: `Settings`; of a run to resume only `runs_folder` is read, it has its own.
        resume: folder of an interrupted run to continue, "latest", or None. The result is that
            of the uninterrupted run, bit for bit on one machine with one number of threads.
        log: function that takes a line of text for the user.
        callbacks: of Keras, behind those of the run: they find Recall@K in the logs, and a run that
            is resumed begins them anew at its epoch. Defaults to none.

    Returns:
        The summary that is also written to summary.json: a dict with the recalls on test and
        validation classes of every stage, what was chosen among what, and where the exports are.

    Raises:
        ValueError, OSError: bad data, settings or folders, or a training that diverged; the
            message says what to do.
        KeyboardInterrupt: as `keras_ms.terminal.command_words.RunInterrupted`, which names the run
            folder.
    """
    with (
        lasting_output(),
        joined_processes(),
        opened_run(settings, resume, log=log) as (run, settings),
        precision(settings.training.precision),
        interruption_names_run(run),
        prepared_backend(settings) as strategy,
    ):
        check_same_backend(run)
        check_exports(settings)
        check_tracking(settings)
        check_backbone(settings)
        loss = run_loss(settings)
        keras.utils.set_random_seed(settings.training.seed)

        images = load_run_images(settings, log)
        settings = with_image_defaults(settings, images)
        if not resume:
            check_augmentation(settings, images)
        labels = images.subset("train").labels
        models = build_models(settings, labels, loss=loss, strategy=strategy)
        data = run_data(settings, images, features_model=models.features_model, log=log)
        check_schedule(settings, stages=data.stages)
        log(f"{settings.model.backbone}: {parameters_in_words(models.embedder)}")
        if resume:
            check_resumed_images(images, run.read_data_summary(), log)
            run.write_missing_files(images)
        else:
            run.create(settings, images)
            log(f"Run folder: {run.path}")

        with naming_damaged(images):
            started, ks, choice = time.perf_counter(), settings.evaluation.ks, None
            remove_unfinished(run.path, alone=True)
            remove_unfinished(export_folder(run, settings))

            if settings.training.tune == "folds":
                choice = choose_by_folds(run, settings, models=models, data=data, log=log)
                settings = with_fold_choice(settings, choice)
            start_head(run, settings, models=models, data=data, log=log)
            recalls = measured_baselines(
                run, settings, models=models, data=data, choice=choice, log=log
            )
            validation, test = recalls["validation"], recalls["test"]
            data.features.release()

            compile_model(settings, models, stages=data.stages)
            fitted = fit_model(
                run, settings, models=models, data=data, log=log,
                start=validation.get("step_0"), callbacks=callbacks,
            )  # fmt: skip
            embeddings: Any = split_embeddings(models.trained, data, "test", log=log)
            test["last"] = split_recall(data, "test", embeddings, ks=ks)

            if choice:
                fitted.take(choice.chosen.alpha)
            elif settings.training.tune == "folds" and stays_at_start(settings):
                # nothing could be measured, and the start loses nothing
                fitted.take(0.0)
                test["chosen"] = test["step_0"]
                embeddings = split_embeddings(models.trained, data, "test", log=log)
            elif fitted.best_keeper and fitted.recall_callback.best_step is not None:
                choice = choose_by_validation(
                    run, settings, models=models, data=data, fitted=fitted, baselines=validation,
                    log=log,
                )  # fmt: skip
            write_pictures(
                run, settings, history=fitted.history, choice=choice, recalls=recalls,
                class_names=images.class_names,
            )  # fmt: skip

            if choice:
                last = choice.last(settings.training.steps)
                validation["last"] = as_texts(last.recall)
                validation["chosen"] = as_texts(choice.chosen.recall)
                test["chosen"] = test["last"]
                # embedding the test images takes long: not twice
                if choice.chosen != last:
                    embeddings = split_embeddings(models.trained, data, "test", log=log)
                    test["chosen"] = split_recall(data, "test", embeddings, ks=ks)
            reached = finite_recall(recalls, run.last_weights_file)

            deployed = save_deployed(models, run.model_file)
            keep_test_embeddings(
                run, settings, embeddings, models=models, deployed=deployed, data=data
            )
            exports = write_exports(run, settings, deployed, data=data, recall=reached, log=log)
            if exports:
                test["exported"] = exported_recall(settings, exports, data=data, log=log)

            kept = kept_weights(settings, choice, fitted.history)
            for words in closing_words(recalls, ks, kept):
                log(words)
            summary = run_summary(
                images, recalls, choice=choice, kept=kept, exports=exports,
                seconds=time.perf_counter() - started,
            )  # fmt: skip
            run.write_json(run.summary_file, summary)
            paths = [str(run.path), *(export["path"] for export in exports.values())]
            log("Written: " + ", ".join(paths))
            for words in next_words(run.path, settings.data.data_dir, exports):
                log(words)
            return summary
