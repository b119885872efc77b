"""Functions of an anchor's row, in two parts: what the row sums up to, and each entry from that."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_ms.arguments import Tensor
from keras_ms.pairs.pairs import Pairs


class RowForm(NamedTuple):
    """The two parts of a function of Pairs whose entry (i, j) depends on pair (i, j) and some
    numbers of anchor i.

    statistics: function `Pairs -> tuple of (anchors, 1)`, what the anchor's other pairs
        contribute, e.g. its hardest negative or a sum of exponentials. The tuple may be empty.
    entry: function `(Pairs, *statistics)` that works element by element: it broadcasts the
        statistics and reduces nothing.
    """

    statistics: Callable[[Pairs], tuple[Tensor, ...]]
    entry: Callable[..., Any]


class RowWise:
    """A miner or a weighting whose row form is known, to be called as any other.

    Most miners and weightings of the field are such functions. Stated in two parts, the entry
    (j, i) can be computed beside (i, j) without transposing a matrix, and row block by row block:
    a step takes one matrix product less.

    Args:
        form: function `(**settings) -> RowForm`. Its settings have defaults; its name and
            docstring become those of the RowWise.
        uses_dimension: whether one of the settings is `dimension`, the size of the embeddings,
            which `PairLoss` then gives. Defaults to False.

    Example:

    >>> @RowWise
    ... def mine_similar_negatives(threshold=0.5):
    ...     def kept(pairs):
    ...         close = pairs.similarity > threshold
    ...         return pairs._replace(negative=ops.logical_and(pairs.negative, close))
    ...
    ...     return RowForm(statistics=lambda pairs: (), entry=kept)

    `mine_similar_negatives(pairs, threshold=0.3)` is a call.
    """

    def __init__(self, form: Callable[..., RowForm], *, uses_dimension: bool = False):
        self.form = form
        self.uses_dimension = uses_dimension
        functools.update_wrapper(self, form, updated=())

    def __call__(self, pairs: Pairs, **settings: Any) -> Any:
        statistics, entry = self.form(**settings)
        return entry(pairs, *statistics(pairs))


def row_form(function: Callable[..., Any]) -> RowForm | None:
    """The RowForm of a RowWise, or of a `functools.partial` of one with its settings as keywords;
    None for any other function."""
    settings = {}
    if isinstance(function, functools.partial) and not function.args:
        function, settings = function.func, function.keywords
    return function.form(**settings) if isinstance(function, RowWise) else None
