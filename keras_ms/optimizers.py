"""Adam with a learning rate a parameter group and coupled L2; a schedule that starts again."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, whole_number


@keras.saving.register_keras_serializable(package="keras_ms")
class GroupedAdam(keras.optimizers.Adam):
    """Adam with a learning-rate factor per variable and L2 regularisation in the gradient.

    Fine-tuning recipes train the pretrained backbone at a lower rate than the new head, and the
    official Multi-Similarity recipe adds L2 to the gradient of every parameter, so that Adam
    scales it along (AdamW's decoupled decay is not equivalent).

    Args:
        learning_rate: float or schedule, as in `keras.optimizers.Adam`. Defaults to 1e-3.
        learning_rate_factors: one factor per trainable variable, in the model's order, or None
            for 1 everywhere. Defaults to None.
        coupled_l2: adds `coupled_l2 * variable` to every gradient, biases and batch
            normalisation included. Defaults to 0.
        **kwargs: as in `keras.optimizers.Adam`.

    Raises:
        ValueError: when built, if there are not as many factors as variables.

    Example:

    >>> factors = [0.1] * len(backbone.trainable_variables) + [1.0, 1.0]
    >>> model.compile(keras_ms.GroupedAdam(1e-4, factors, coupled_l2=5e-4), loss)
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        learning_rate_factors: Sequence[float] | None = None,
        coupled_l2: float = 0.0,
        name: str = "grouped_adam",
        **kwargs: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.learning_rate_factors = learning_rate_factors
        self.coupled_l2 = coupled_l2

    def build(self, variables: Sequence[Any]) -> None:
        factors = self.learning_rate_factors
        if factors is not None and len(factors) != len(variables):
            raise ValueError(
                "Expected one learning-rate factor per trainable variable. Received: "
                f"{len(factors)} factors and {len(variables)} variables"
            )
        super().build(variables)

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        if self.coupled_l2:
            gradient = ops.cast(gradient, variable.dtype) + self.coupled_l2 * variable
        if self.learning_rate_factors is not None:
            factor = self.learning_rate_factors[self._get_variable_index(variable)]
            learning_rate = learning_rate * factor
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "learning_rate_factors": self.learning_rate_factors,
            "coupled_l2": self.coupled_l2,
        }


@keras.saving.register_keras_serializable(package="keras_ms")
class StageSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Runs a learning-rate schedule from its beginning in each stage.

    A curriculum trains in stages, each with more images than the one before; each runs the whole
    schedule, so that new images meet a learning rate they can still change something with.

    Reference: Guo et al.: CurriculumNet, ECCV 2018.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`, of one stage.
        steps_per_stage: training steps of a stage, at least 1.
        stages: number of stages; the last one goes on with the schedule for as long as the training
            does. Defaults to 3, those of the paper.
        name: of the schedule.

    Raises:
        ValueError: a schedule of another kind (a constant has nothing to start again), or less than
            one step or stage.

    Example:

    >>> cosine = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=1000)
    >>> schedule = StageSchedule(cosine, steps_per_stage=1000)
    >>> float(schedule(1000)) == float(schedule(0))
    True
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        steps_per_stage: int,
        stages: int = 3,
        name: str = "stage_schedule",
    ):
        super().__init__()
        if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            raise ValueError(
                "Expected a LearningRateSchedule, such as keras.optimizers.schedules.CosineDecay. "
                f"Received: {schedule!r}. A constant learning rate needs no stages"
            )
        self.schedule = schedule
        self.steps_per_stage = whole_number("steps_per_stage", steps_per_stage)
        self.stages = whole_number("stages", stages)
        self.name = name

    def __call__(self, step: Tensor) -> Tensor:
        # whole numbers: float32 does not hold every step beyond 2**24
        step = ops.cast(step, "int32")
        stage = ops.minimum(step // self.steps_per_stage, self.stages - 1)
        return self.schedule(step - stage * self.steps_per_stage)

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": keras.optimizers.schedules.serialize(self.schedule),
            "steps_per_stage": self.steps_per_stage,
            "stages": self.stages,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StageSchedule":
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(**{**config, "schedule": schedule})
