"""Adam with groups of parameters, its average of the weights, and schedules of its rate."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ms.arguments import Tensor, real_number, whole_number


@keras.saving.register_keras_serializable(package="keras_ms")
class GroupedAdam(keras.optimizers.Adam):
    """Adam with a learning-rate factor per variable, and L2 in the gradient or decoupled decay.

    Fine-tuning recipes train the pretrained backbone at a lower rate than the new head, and the
    official Multi-Similarity recipe adds L2 to the gradient of every parameter, so that Adam
    scales it along. AdamW's decoupled decay is not equivalent:

        variable -= rate * factor * weight_decay * variable

    References: Kingma and Ba: Adam, ICLR 2015; Loshchilov and Hutter: Decoupled Weight Decay
    Regularization, ICLR 2019.

    Args:
        learning_rate: float or schedule, as in `keras.optimizers.Adam`. Defaults to 1e-3.
        learning_rate_factors: one factor per trainable variable, in the model's order, finite and
            at least 0, which leaves a variable as it is; or None for 1 everywhere. Defaults to
            None.
        coupled_l2: adds `coupled_l2 * variable` to every gradient, biases and batch
            normalisation included. Defaults to 0.
        name: of the optimizer.
        weight_decay: decoupled decay, of the decayed variables. Each is decayed at its own rate,
            its factor included. Defaults to None: no decay.
        decayed: whether each trainable variable is decayed, in the model's order, as
            `decayed_kernels` gives it; None for all, as in `keras.optimizers.AdamW`. Defaults to
            None.
        **kwargs: as in `keras.optimizers.Adam`, such as `global_clipnorm` and `use_ema`; the
            gradient is clipped before L2 is added.

    Raises:
        ValueError: both L2 and decoupled decay; one of them, or a factor, that is negative or no
            finite number; when built, if there are not as many factors or flags as variables.

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
        *,
        weight_decay: float | None = None,
        decayed: Sequence[bool] | None = None,
        **kwargs: Any,
    ):
        coupled_l2 = real_number("coupled_l2", coupled_l2, least=0)
        if weight_decay is not None:
            weight_decay = real_number("weight_decay", weight_decay, least=0)
        if coupled_l2 and weight_decay:
            raise ValueError(
                "Expected coupled_l2, in the gradient, or weight_decay, beside it. Received both: "
                f"coupled_l2={coupled_l2}, weight_decay={weight_decay}"
            )
        super().__init__(
            learning_rate=learning_rate, name=name, weight_decay=weight_decay, **kwargs
        )
        # what can be saved with a model, as an array cannot
        factors, flags = learning_rate_factors, decayed
        if factors is not None:
            factors = [
                real_number(f"learning_rate_factors[{place}]", factor, least=0)
                for place, factor in enumerate(factors)
            ]
        self.learning_rate_factors = factors
        self.coupled_l2 = coupled_l2
        self.decayed = None if flags is None else [bool(flag) for flag in flags]

    def build(self, variables: Sequence[Any]) -> None:
        factors, flags = self.learning_rate_factors, self.decayed
        if factors is not None and len(factors) != len(variables):
            raise ValueError(
                "Expected one learning-rate factor per trainable variable. Received: "
                f"{len(factors)} factors and {len(variables)} variables"
            )
        if flags is not None and len(flags) != len(variables):
            raise ValueError(
                "Expected in `decayed` one flag per trainable variable. Received: "
                f"{len(flags)} flags and {len(variables)} variables"
            )
        super().build(variables)

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        if self.coupled_l2:
            gradient = ops.cast(gradient, variable.dtype) + self.coupled_l2 * variable
        if self.learning_rate_factors is not None:
            factor = self.learning_rate_factors[self._get_variable_index(variable)]
            learning_rate = learning_rate * factor
        if self._decays(variable):
            rate = ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * self.weight_decay * rate)
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Nothing: `update_step` decays, where each variable's own learning rate is known."""

    def _decays(self, variable):
        if not self.weight_decay or not self._use_weight_decay(variable):
            return False
        return self.decayed is None or self.decayed[self._get_variable_index(variable)]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "learning_rate_factors": self.learning_rate_factors,
            "coupled_l2": self.coupled_l2,
            "decayed": self.decayed,
        }


def decayed_kernels(variables: Sequence[Any]) -> list[bool]:
    """Which variables weight decay is for: what Keras calls a kernel, the matrices of the layers.

    Biases, normalisations, layer scales, position embeddings and class tokens are none: drawn
    towards zero they lose what they stand for, and a matrix is what regularisation is about.

    Args:
        variables: `keras.Variable`s, such as `model.trainable_variables`.

    Returns:
        list of bool, one for each variable: `decayed` of `GroupedAdam`.

    Example:

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 2))
    >>> decayed_kernels(layer.trainable_variables)
    [True, False]
    """
    return [len(v.shape) > 1 and "kernel" in v.name for v in variables]


def exchange_averages(optimizer: Any) -> None:
    """Exchanges the model's weights and an optimizer's average of them; twice, no bit has changed.

    (`keras.callbacks.SwapEMAWeights` does so on TensorFlow by sums and differences, which round.)

    Args:
        optimizer: of Keras, with `use_ema=True`, after a step at least; another is a ValueError.
    """
    for variable, average in _averages(optimizer):
        value = np.array(ops.convert_to_numpy(variable))
        variable.assign(average)
        average.assign(value)


def take_averages(optimizer: Any) -> None:
    """Sets the model's weights to an optimizer's average of them, as `fit` does when it ends.

    Args: as `exchange_averages`.
    """
    for variable, average in _averages(optimizer):
        variable.assign(average)


def _averages(optimizer):
    """(variable, average) of each trained variable."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    if not (getattr(inner, "use_ema", False) and inner.built and int(inner.iterations + 0)):
        raise ValueError(
            "Expected an optimizer with use_ema=True that has made a step: there is no average "
            f"of the weights yet. Received: {inner!r}"
        )
    return list(zip(inner._trainable_variables, inner._model_variables_moving_average))


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


@keras.saving.register_keras_serializable(package="keras_ms")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly over the first steps.

        rate(step) = schedule(step) * min(1, (step + 1) / steps)

    Adam's first steps follow the gradients of very few batches, and a new head sends the backbone
    gradients that mean little yet. The schedule runs from its beginning meanwhile, so that its own
    steps stay where they are.

    Reference: Goyal et al.: Accurate, Large Minibatch SGD, 2017.

    Args:
        schedule: a learning rate, or a `keras.optimizers.schedules.LearningRateSchedule`. In a
            `StageSchedule` it rises in each stage.
        steps: training steps until the whole rate is reached, at least 1.
        name: of the schedule.

    Raises:
        ValueError: less than one step, or what is no learning rate.

    Example:

    >>> schedule = WarmUp(0.5, steps=4)
    >>> [float(schedule(step)) for step in (0, 1, 3, 9)]
    [0.125, 0.25, 0.5, 0.5]
    """

    def __init__(
        self,
        schedule: float | keras.optimizers.schedules.LearningRateSchedule,
        steps: int,
        name: str = "warm_up",
    ):
        super().__init__()
        is_schedule = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
        if not is_schedule:
            why = "a learning rate, or a LearningRateSchedule"
            schedule = real_number("schedule", schedule, least=0, reason=why)
        self.schedule = schedule
        self.steps = whole_number("steps", steps)
        self.name = name

    def __call__(self, step: Tensor) -> Tensor:
        rate = self.schedule
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)
        return rate * ops.minimum((ops.cast(step, "float32") + 1.0) / self.steps, 1.0)

    def get_config(self) -> dict[str, Any]:
        schedule = self.schedule
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            schedule = keras.optimizers.schedules.serialize(schedule)
        return {"schedule": schedule, "steps": self.steps, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        schedule = config["schedule"]
        if isinstance(schedule, dict):
            schedule = keras.optimizers.schedules.deserialize(schedule)
        return cls(**{**config, "schedule": schedule})
