"""Any weighting of pairs as a loss: the General Pair Weighting framework itself."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor
from keras_ms.losses.pair_loss import PairLoss, checked_options
from keras_ms.pairs.mining import mine_all
from keras_ms.pairs.pairs import Pairs
from keras_ms.pairs.row_wise import RowWise


def weighted_pairs(pairs: Pairs, weighting: Callable) -> Tensor:
    """The sum of weight times similarity of every anchor: sum_j w_ij S_ij.

    Args:
        pairs: Pairs, after mining.
        weighting: function `Pairs -> (anchors, candidates)`, signed weights.

    Returns:
        (anchors,), same dtype as the similarities.
    """
    return ops.sum(weighting(pairs) * pairs.similarity, axis=-1)


def _weighted_pairs_of(pairs, weighting, **dimension):
    return weighted_pairs(pairs, partial(weighting, **dimension))


@keras.saving.register_keras_serializable(package="keras_ms")
class WeightedPairLoss(PairLoss):
    """Trains with any miner and any weighting of pairs.

    Use it to build a loss of your own from the two questions that every pair-based loss answers:
    which pairs count, and how much does each. The gradient with respect to a similarity is the
    pair's weight, whatever the weights depend on: they are constants of a step. With a miner and
    weighting that are `keras_ms.pairs.RowWise` (all of `keras_ms.mining` and `keras_ms.weighting`
    that can be), a step takes two matrix products.

    **Its value is no loss value.** It is the sum of weight times similarity, which has the right
    gradient at this step and may rise while training goes well. Watch Recall@K instead.

    Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning, CVPR 2019, Section 3.

    Relations: `PairLoss` takes the loss as a value beside its weighting, and so can be watched;
    each named loss is such a pair. `CompositeLoss` adds up losses, where this puts together one of
    a miner and a weighting.

    Args:
        weighting: function `Pairs -> (anchors, candidates)`: > 0 pushes a pair apart, < 0 pulls it
            together. It must be 0 where the pairs' masks do not hold.
        miner: function `Pairs -> Pairs` that only shrinks the masks. Defaults to `mine_all`.
        uses_dimension: whether the weighting gets the size of the embeddings as its keyword
            `dimension`. Defaults to None: as a `RowWise` weighting says of itself, such as
            `margin_weights`, unless a partial has set its dimension; False for other functions.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Raises:
        ValueError: something else than functions, or the weighting of a whole batch, such as
            `angular_weights`; in `get_config`, functions that Keras does not
            know; for the rest as `PairLoss`.

    Both may be a `functools.partial` with keywords, for their settings. To be saved with a model
    they must be known to Keras: those of keras_ms are, your own by
    `@keras.saving.register_keras_serializable(package=...)`.

    Example:

    >>> from functools import partial
    >>> from keras_ms.mining import mine_multi_similarity
    >>> from keras_ms.weighting import contrastive_weights
    >>> loss = WeightedPairLoss(
    ...     partial(contrastive_weights, threshold=0.4),
    ...     partial(mine_multi_similarity, epsilon=0.1),
    ... )

    is the contrastive loss's weighting on the Multi-Similarity loss's pairs.
    """

    def __init__(
        self,
        weighting: Callable,
        miner: Callable = mine_all,
        *,
        uses_dimension: bool | None = None,
        name: str = "weighted_pairs",
        **options: Any,
    ):
        for argument, function in (("weighting", weighting), ("miner", miner)):
            if not callable(function):
                raise ValueError(f"Expected `{argument}` to be a function. Received: {function!r}")
        if _is_of_whole_batch(weighting):
            raise ValueError(
                "Expected a `weighting` that takes pairs alone: the loss of each anchor is then "
                f"its own. {getattr(weighting, '__name__', weighting)} is of a whole batch and "
                "takes what each anchor is multiplied by too. Take the loss that it belongs to, "
                "or PairLoss with whole_batch=True"
            )
        self.weighting = weighting
        self.miner = miner
        self.uses_dimension = uses_dimension
        if uses_dimension is None:
            uses_dimension = _takes_dimension(weighting)
        settings = {"weighting": weighting, "miner": miner, "uses_dimension": self.uses_dimension}
        super().__init__(
            pair_loss=partial(_weighted_pairs_of, weighting=weighting),
            weighting=weighting,
            miner=miner,
            uses_dimension=uses_dimension,
            name=name,
            **checked_options(self, settings, options),
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weighting": _function_config(self.weighting),
            "miner": _function_config(self.miner),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WeightedPairLoss":
        functions = {name: _function(config[name]) for name in ("weighting", "miner")}
        return cls(**{**config, **functions})


def _is_of_whole_batch(weighting):
    """Whether a weighting needs an `upstream`, which nobody gives it here."""
    try:
        parameters = inspect.signature(weighting).parameters
    except (TypeError, ValueError):  # of some callables Python knows no signature
        return False
    return "upstream" in parameters and parameters["upstream"].default is inspect.Parameter.empty


def _takes_dimension(weighting):
    """Whether a weighting asks for the size of the embeddings, and a partial has not set it."""
    if isinstance(weighting, partial):
        return "dimension" not in weighting.keywords and _takes_dimension(weighting.func)
    return isinstance(weighting, RowWise) and weighting.uses_dimension


def _function_config(function):
    settings = {}
    if isinstance(function, partial):
        if function.args:
            raise ValueError(
                f"Expected a partial with keywords only, to be saved. Received: {function}"
            )
        function, settings = function.func, dict(function.keywords)
    name = keras.saving.get_registered_name(function)
    if keras.saving.get_registered_object(name) is not function:
        raise ValueError(
            f"{name} is unknown to Keras, so the loss cannot be saved. Decorate the function with "
            "@keras.saving.register_keras_serializable(package='your_package')"
        )
    return {"function": name, "settings": settings}


def _function(config):
    function = keras.saving.get_registered_object(config["function"])
    if function is None:
        raise ValueError(
            f"{config['function']} is unknown to Keras: import the module that registers it first"
        )
    return partial(function, **config["settings"]) if config["settings"] else function
