"""Adam as the metric-learning recipes use it: a learning rate a parameter group, coupled L2."""

import keras
from keras import ops


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
        learning_rate=1e-3,
        learning_rate_factors=None,
        coupled_l2=0.0,
        name="grouped_adam",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.learning_rate_factors = learning_rate_factors
        self.coupled_l2 = coupled_l2

    def build(self, variables):
        factors = self.learning_rate_factors
        if factors is not None and len(factors) != len(variables):
            raise ValueError(
                "Expected one learning-rate factor per trainable variable. Received: "
                f"{len(factors)} factors and {len(variables)} variables"
            )
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        if self.coupled_l2:
            gradient = ops.cast(gradient, variable.dtype) + self.coupled_l2 * variable
        if self.learning_rate_factors is not None:
            factor = self.learning_rate_factors[self._get_variable_index(variable)]
            learning_rate = learning_rate * factor
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {
            **super().get_config(),
            "learning_rate_factors": self.learning_rate_factors,
            "coupled_l2": self.coupled_l2,
        }
