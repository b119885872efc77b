"""Any weighting of pairs as a loss: the General Pair Weighting framework itself."""

import inspect
from functools import partial

import keras
from keras import ops

from keras_ms.losses.pair_loss import PairLoss, common_options
from keras_ms.pairs.mining import mine_all


def weighted_pairs(pairs, weighting):
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
    weighting that are `keras_ms.pairs.RowWise` (all of `keras_ms.pairs.mining` and
    `keras_ms.losses.weighting` that can be), a step takes two matrix products.

    **Its value is no loss value.** It is the sum of weight times similarity, which has the right
    gradient at this step and may rise while training goes well. Watch Recall@K instead.

    Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning, CVPR 2019, Section 3.

    Args:
        weighting: function `Pairs -> (anchors, candidates)`: > 0 pushes a pair apart, < 0 pulls it
            together. It must be 0 where the pairs' masks do not hold. If it has a keyword
            `dimension`, that is the size of the embeddings.
        miner: function `Pairs -> Pairs` that only shrinks the masks. Defaults to `mine_all`.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Both may be a `functools.partial` with keywords, for their settings. To be saved with a model
    they must be known to Keras: those of keras_ms are, your own by
    `@keras.saving.register_keras_serializable(package=...)`.

    Example:

    >>> from functools import partial
    >>> from keras_ms.pairs.mining import mine_multi_similarity
    >>> from keras_ms.losses.weighting import contrastive_weights
    >>> loss = WeightedPairLoss(
    ...     partial(contrastive_weights, threshold=0.4),
    ...     partial(mine_multi_similarity, epsilon=0.1),
    ... )

    is the contrastive loss's weighting on the Multi-Similarity loss's pairs.
    """

    def __init__(self, weighting, miner=mine_all, name="weighted_pairs", **options):
        for argument, function in (("weighting", weighting), ("miner", miner)):
            if not callable(function):
                raise ValueError(f"Expected `{argument}` to be a function. Received: {function!r}")
        self.weighting = weighting
        self.miner = miner
        super().__init__(
            pair_loss=partial(_weighted_pairs_of, weighting=weighting),
            weighting=weighting,
            miner=miner,
            uses_dimension=_is_free(weighting, "dimension"),
            name=name,
            **common_options(self, options),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "weighting": _function_config(self.weighting),
            "miner": _function_config(self.miner),
        }

    @classmethod
    def from_config(cls, config):
        functions = {name: _function(config[name]) for name in ("weighting", "miner")}
        return cls(**{**config, **functions})


def _is_free(function, keyword):
    """Whether a function takes this keyword and a partial has not set it yet."""
    bound = function.keywords if isinstance(function, partial) else ()
    return keyword not in bound and keyword in inspect.signature(function).parameters


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
