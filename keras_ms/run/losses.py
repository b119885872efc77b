"""The losses that a run can be given, by name: all pair-based ones, and hierarchical triplets.

Nothing here imports Keras before `named_loss` is called.
"""

from typing import Any

from keras_ms.losses import catalogue

_SOURCES = (*catalogue.LOSS_SOURCES, "htl/loss")

# what a run makes by itself during training
_MADE_BY_A_RUN = ("tree",)


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


def named_loss(name: str, **options: Any) -> Any:
    """The loss of this name with these options; the others keep their defaults.

    Raises:
        ValueError: an unknown name, an unknown option or a value out of range.

    Example:

    >>> named_loss("contrastive", threshold=0.3).threshold
    0.3
    """
    return catalogue.named_loss(name, sources=_SOURCES, **options)
