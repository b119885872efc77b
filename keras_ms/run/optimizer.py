"""The optimizer of a run, and its learning rate over the steps."""

from collections.abc import Sequence

import keras

from keras_ms.optimizers import GroupedAdam, StageSchedule
from keras_ms.run.settings import Settings

LearningRate = float | keras.optimizers.schedules.LearningRateSchedule


def run_optimizer(
    settings: Settings, schedule: LearningRate, *, factors: Sequence[float] | None = None
) -> GroupedAdam:
    """The optimizer of the settings.

    Args:
        settings: `Settings`.
        schedule: learning rate as Keras takes it, of `learning_rate_schedule`.
        factors: of each trained variable's learning rate. Defaults to None: 1.
    """
    return GroupedAdam(schedule, factors, coupled_l2=settings.training.coupled_l2)


def learning_rate_schedule(settings: Settings, highest: float, *, stages: int = 1) -> LearningRate:
    """The learning rate as Keras takes it, run `stages` times in as many parts of the steps.

    Args:
        settings: `Settings`.
        highest: the highest learning rate.
        stages: how often the schedule is run.

    Raises:
        ValueError: `decay_steps` that do not fit into a stage.
    """
    steps = settings.training.steps // stages
    if settings.training.schedule == "constant":
        return highest
    if settings.training.schedule == "cosine":
        schedule = keras.optimizers.schedules.CosineDecay(highest, steps)
    else:
        boundaries = settings.training.decay_boundaries(steps)
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
            list(boundaries), [highest * 0.1**number for number in range(len(boundaries) + 1)]
        )
    return schedule if stages == 1 else StageSchedule(schedule, steps, stages)


def check_schedule(settings: Settings, *, stages: int = 1) -> None:
    """Raises ValueError for `decay_steps` that do not fit into a stage.

    Args:
        settings: `Settings`, with or without a learning rate.
        stages: how often the schedule is run.
    """
    learning_rate_schedule(settings, settings.training.learning_rate or 1.0, stages=stages)
