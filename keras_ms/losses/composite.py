"""Several losses on one output."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number


@keras.saving.register_keras_serializable(package="keras_ms")
class CompositeLoss(keras.losses.Loss):
    """Computes the sum of several losses of one output, each times a factor.

    Keras 3 takes `compile(loss=[A, B])` as one loss for each output. With a single output it
    trains on A alone and says nothing: use `compile(loss=CompositeLoss([A, B]))`.

    Relations: it adds up whole losses, each with its own miner; `WeightedPairLoss` makes one loss
    of a miner and a weighting. Keras adds up the losses of several outputs by itself, with
    `loss_weights`.

    Args:
        losses: `keras.losses.Loss` instances, pair-based or any others. Each gets the labels, the
            output and the sample weights as they are, and keeps its own reduction and dtype.
        factors: one finite number a loss. They stay what they are: a `keras.Variable`, whose value
            may change, is refused. Defaults to None: 1 for each, the plain sum.
        name: name of the loss. Defaults to "composite".

    Raises:
        ValueError: no loss, something else than losses, losses of which only some reduce to one
            number, or other factors than one finite number a loss.

    Example:

    >>> loss = CompositeLoss(
    ...     [keras.losses.MeanSquaredError(), keras.losses.MeanAbsoluteError()], [1.0, 0.5]
    ... )
    >>> float(loss([[0.0]], [[2.0]]))  # 1.0 * 4 + 0.5 * 2
    5.0
    """

    def __init__(
        self,
        losses: list[keras.losses.Loss] | tuple[keras.losses.Loss, ...] | keras.losses.Loss,
        factors: Sequence[float] | None = None,
        *,
        name: str = "composite",
    ):
        losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
        strangers = [loss for loss in losses if not isinstance(loss, keras.losses.Loss)]
        if strangers or not losses:
            raise ValueError(
                "Expected `losses` to be one or more keras.losses.Loss instances, such as "
                "keras.losses.MeanSquaredError() in place of 'mse'. Received: "
                f"{strangers or losses}"
            )
        reductions = [loss.reduction for loss in losses]
        if len({reduction in (None, "none") for reduction in reductions}) > 1:
            raise ValueError(
                "Expected losses that all give one number, or none of them. Received: "
                f"reductions {reductions}"
            )
        try:
            each = [1.0] * len(losses) if factors is None else list(factors)
        except TypeError:  # one number
            each = []
        if len(each) != len(losses):
            raise ValueError(
                f"Expected `factors` to be {len(losses)} finite numbers, one a loss, such as "
                f"{[1.0] * len(losses)}. Received: factors={factors!r}"
            )
        super().__init__(name=name, reduction=reductions[0])
        self.losses = losses
        self.factors = [
            real_number(f"factors[{place}]", factor) for place, factor in enumerate(each)
        ]

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        # not in `call`: Keras would have cast the labels to float32 by then
        total = None
        for loss, factor in zip(self.losses, self.factors):
            value = ops.multiply(loss(y_true, y_pred, sample_weight), factor)
            total = value if total is None else ops.add(total, value)
        return total

    def get_config(self) -> dict[str, Any]:
        return {
            "losses": [keras.saving.serialize_keras_object(loss) for loss in self.losses],
            "factors": self.factors,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CompositeLoss":
        losses = [keras.saving.deserialize_keras_object(loss) for loss in config["losses"]]
        return cls(**{**config, "losses": losses})
