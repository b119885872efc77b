"""A learning-rate schedule that starts again with each stage of a training."""

import keras
from keras import ops

from keras_ms.whole_number import whole_number


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

    def __init__(self, schedule, steps_per_stage, stages=3, name="stage_schedule"):
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

    def __call__(self, step):
        # whole numbers: float32 does not hold every step beyond 2**24
        step = ops.cast(step, "int32")
        stage = ops.minimum(step // self.steps_per_stage, self.stages - 1)
        return self.schedule(step - stage * self.steps_per_stage)

    def get_config(self):
        return {
            "schedule": keras.optimizers.schedules.serialize(self.schedule),
            "steps_per_stage": self.steps_per_stage,
            "stages": self.stages,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(**{**config, "schedule": schedule})
