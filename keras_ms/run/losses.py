"""The losses that a run can be given, by name: all pair-based ones, and hierarchical triplets.

Their options, and those of HDML around a loss, are read from the source: nothing here imports Keras
before `named_loss` is called.
"""

import functools
from collections.abc import Mapping
from typing import Any

from keras_ms.losses import catalogue

_SOURCES = (*catalogue.LOSS_SOURCES, "htl/loss")

# what a run makes by itself during training
_MADE_BY_A_RUN = ("tree",)
# what a run says of HDML by other settings
_SET_BESIDE_HDML = ("metric_loss", "mode", "name")
# of the two optimizers that HDML has beside the embedder's; HDML itself has these defaults
_HDML_RATES = tuple(
    catalogue.LossOption(
        f"{name}_learning_rate", None, f"Adam's, of HDML's {name}. Defaults to {rate}.", (float,)
    )
    for name, rate in (("generator", "1e-2"), ("classifier", "1e-3"))
)


def loss_names() -> tuple[str, ...]:
    """The names of all losses, in alphabetical order."""
    return catalogue.loss_names(_SOURCES)


def pair_loss_names() -> tuple[str, ...]:
    """The names of the losses that need embeddings and labels and nothing else."""
    return catalogue.loss_names()


def loss_options(name: str) -> tuple[catalogue.LossOption, ...]:
    """The options of a loss that a user chooses: of each its name, default and help.

    Raises:
        ValueError: an unknown name.
    """
    options = catalogue.loss_options(name, _SOURCES)
    return tuple(option for option in options if option.name not in _MADE_BY_A_RUN)


@functools.cache
def hdml_options() -> tuple[catalogue.LossOption, ...]:
    """The options of `keras_ms.hdml.model.HDML` that a user chooses, its learning rates among them.

    Example:

    >>> hdml_options()[1].name
    'beta'
    """
    options = catalogue.class_options("hdml/model", "HDML")
    own = (option for option in options if option.name not in _SET_BESIDE_HDML)
    return (*own, *_HDML_RATES)


def chosen_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a loss that shape it, those that are given and the defaults of the others.

    Example:

    >>> chosen_options("triplet", {"margin": 0.2})
    {'margin': 0.2, 'mining': 'semi_hard'}
    """
    shared = {option.name for option in catalogue.class_options("losses/pair_loss", "PairLoss")}
    own = {option.name: option.default for option in loss_options(name)}
    return {key: value for key, value in own.items() if key not in shared} | dict(options)


def named_loss(name: str, **options: Any) -> Any:
    """The loss of this name with these options; the others keep their defaults.

    Raises:
        ValueError: an unknown name, an unknown option or a value out of range.

    Example:

    >>> named_loss("contrastive", threshold=0.3).threshold
    0.3
    """
    return catalogue.named_loss(name, sources=_SOURCES, **options)
