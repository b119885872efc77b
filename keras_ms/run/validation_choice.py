"""The choice among the weights of one training, by held-out validation classes."""

from collections.abc import Callable, Mapping
from typing import Any

from keras_ms.models.saved_files import write_weights
from keras_ms.run.choice import MeasuredWeights, WeightsChoice, choice_table, read_choice
from keras_ms.run.damaged_files import load_weights
from keras_ms.run.data import RunData
from keras_ms.run.fitting import Fitted
from keras_ms.run.folder import RunFolder
from keras_ms.run.model import RunModels
from keras_ms.run.settings import Settings


def choose_by_validation(
    run: RunFolder,
    settings: Settings,
    *,
    models: RunModels,
    data: RunData,
    fitted: Fitted,
    baselines: Mapping[str, Any],
    log: Callable[[str], Any],
) -> WeightsChoice:
    """The choice among the steps measured, and the weights between the start and the last ones.

    Made once in a run and kept in its folder; the model ends with the chosen weights.

    Args:
        run: the run's folder.
        settings: its `Settings`.
        models: its models, with the last weights.
        data: its data, with validation classes.
        fitted: of `fit_model`, with the best step.
        baselines: recalls of the validation classes before training, by stage.
        log: function that takes a line of text for the user.

    Raises:
        DamagedFile: the files of an earlier session.
    """
    model = models.trained
    if run.choice_file.is_file() and run.chosen_weights_file.is_file():
        choice = read_choice(run, steps=settings.training.steps, ks=settings.evaluation.ks)
        load_weights(model, run.chosen_weights_file, run.remedy(run.chosen_weights_file))
    else:
        num_classes, _ = data.images.counts()["validation"]
        by = f"{num_classes} held-out classes"
        choice = _measured_choice(settings, fitted, baselines, by, log)
        write_weights(model, run.chosen_weights_file)
        run.write_json(run.choice_file, choice.to_json())
    log(choice_table(choice))
    return choice


def _measured_choice(settings, fitted, baselines, by, log):
    ks, history, interpolation = settings.evaluation.ks, fitted.history, fitted.interpolation
    last = int(history[-1]["step"])
    # by (step, alpha)
    recalls = {(0, 0.0): {k: baselines["step_0"][str(k)] for k in ks}}
    recalls |= {(int(row["step"]), 1.0): {k: row[f"val_recall@{k}"] for k in ks} for row in history}
    if interpolation:
        log("Measuring the weights between the start and the last ones")
        known = {0.0: dict(fitted.recall_callback.history).get(0), 1.0: recalls[last, 1.0]}
        best = interpolation.choose(known)
        # step 0 is alpha 0 of the last weights
        chosen = (best.step, best.alpha) if best.step else (last, 0.0)
        del recalls[0, 0.0]
        recalls |= {(last, c.alpha): c.recalls for c in interpolation.candidates if c.step == last}
    else:
        fitted.best_keeper.load()
        step = fitted.recall_callback.best_step
        chosen = (step, 1.0 if step else 0.0)
    candidates = {
        weights: MeasuredWeights(
            *weights,
            {k: float(recall[k]) for k in ks},
            settings.model.head_initializer,
            settings.training.learning_rate,
        )
        for weights, recall in sorted(recalls.items())
    }
    pooled = baselines.get("pooled_features")
    return WeightsChoice(
        by,
        list(candidates.values()),
        candidates[chosen],
        pooled and {int(k): value for k, value in pooled.items()},
    )
