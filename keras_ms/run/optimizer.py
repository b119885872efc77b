"""The optimizer of a run, and its learning rate over the steps."""

from collections.abc import Sequence

import keras

from keras_ms.optimizers import GroupedAdam, StageSchedule, WarmUp
from keras_ms.run.settings import Settings

LearningRate = float | keras.optimizers.schedules.LearningRateSchedule


def run_optimizer(
    settings: Settings,
    schedule: LearningRate,
    *,
    decayed: Sequence[bool],
    factors: Sequence[float] | None = None,
) -> GroupedAdam:
    """The optimizer of the settings.

    Args:
        settings: `Settings`.
        schedule: learning rate as Keras takes it, of `learning_rate_schedule`.
        decayed: whether each trained variable is one that weight decay is for.
        factors: of each trained variable's learning rate. Defaults to None: 1.
    """
    training = settings.training
    return GroupedAdam(
        schedule,
        factors,
        coupled_l2=training.coupled_l2,
        weight_decay=training.weight_decay or None,
        decayed=list(decayed) if training.weight_decay else None,
        global_clipnorm=training.clip_norm or None,
        use_ema=training.ema > 0,
        ema_momentum=training.ema,
    )


def learning_rate_schedule(settings: Settings, highest: float, *, stages: int = 1) -> LearningRate:
    """The learning rate as Keras takes it, run `stages` times in as many parts of the steps.

    Args:
        settings: `Settings`.
        highest: the highest learning rate.
        stages: how often the schedule is run.

    Raises:
        ValueError: `decay_steps` or `warmup_steps` that do not fit into a stage.
    """
    steps, warmup_steps = settings.training.steps // stages, settings.training.warmup_steps
    if warmup_steps >= steps:
        raise ValueError(
            f"Invalid value for warmup_steps. Expected less than {steps}, the steps of a stage. "
            f"Received: {warmup_steps}"
        )
    schedule = _whole_schedule(settings, highest, steps)
    if warmup_steps:
        schedule = WarmUp(schedule, warmup_steps)
    if stages == 1 or not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return schedule
    return StageSchedule(schedule, steps, stages)


def check_schedule(settings: Settings, *, stages: int = 1) -> None:
    """Raises ValueError for `decay_steps` or `warmup_steps` that do not fit into a stage.

    Args:
        settings: `Settings`, with or without a learning rate.
        stages: how often the schedule is run.
    """
    learning_rate_schedule(settings, settings.training.learning_rate or 1.0, stages=stages)


def _whole_schedule(settings, highest, steps):
    if settings.training.schedule == "constant":
        return highest
    if settings.training.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(highest, steps)
    boundaries = settings.training.decay_boundaries(steps)
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        list(boundaries), [highest * 0.1**number for number in range(len(boundaries) + 1)]
    )
