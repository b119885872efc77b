"""Functions of an anchor's row, in two parts: what the row sums up to, and each entry from that."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_ms.arguments import Tensor
from keras_ms.pairs.pairs import Pairs


def _as_they_are(*numbers):
    return numbers


class RowParts(NamedTuple):
    """What a row sums up to, so stated that it can be had from parts of the row: a function of
    Pairs that gives `whole` of all numbers.

    of: function `(Pairs, axis) -> tuple`, the numbers of the pairs that are there: (anchors, 1) of
        the rows, with axis -1, or (1, candidates) of the columns, with axis 0.
    join: for each number a function that makes one of those of two parts. A part without pairs
        changes nothing.
    whole: function of the joined numbers, each (anchors, 1). Defaults to the tuple of them.

    `num_pairs` for example is `RowParts(lambda pairs, axis: (num_pairs(…, axis),), (ops.add,))`.
    """

    of: Callable[[Pairs, int], tuple[Tensor, ...]]
    join: tuple[Callable[[Tensor, Tensor], Tensor], ...]
    whole: Callable[..., Any] = _as_they_are

    def __call__(self, pairs: Pairs) -> Any:
        return self.whole(*self.of(pairs, -1))


NO_STATISTICS = RowParts(lambda pairs, axis: (), ())


class RowForm(NamedTuple):
    """The two parts of a function of Pairs whose entry (i, j) depends on pair (i, j) and some
    numbers of anchor i.

    statistics: function `Pairs -> tuple of (anchors, 1)`, what the anchor's other pairs
        contribute, e.g. its hardest negative or a sum of exponentials. The tuple may be empty
        (`NO_STATISTICS`). Stated as `RowParts`, a large batch takes half the products.
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


class RowLoss:
    """The loss of an anchor from what its row sums up to, to be called with Pairs.

    Args:
        form: function `(**settings) -> RowParts` whose whole is (anchors, 1). Its settings have
            defaults; its name and docstring become those of the RowLoss.
    """

    def __init__(self, form: Callable[..., RowParts]):
        self.form = form
        functools.update_wrapper(self, form, updated=())

    def __call__(self, pairs: Pairs, **settings: Any) -> Tensor:
        return self.form(**settings)(pairs)[:, 0]


def row_form(function: Callable[..., Any]) -> RowForm | None:
    """The RowForm of a RowWise, or of a `functools.partial` of one with its settings as keywords;
    None for any other function."""
    function, settings = _with_settings(function)
    return function.form(**settings) if isinstance(function, RowWise) else None


def row_loss(function: Callable[..., Any]) -> RowParts | None:
    """The RowParts of a RowLoss, as `row_form` gives the RowForm of a RowWise."""
    function, settings = _with_settings(function)
    return function.form(**settings) if isinstance(function, RowLoss) else None


def _with_settings(function):
    if isinstance(function, functools.partial) and not function.args:
        return function.func, function.keywords
    return function, {}
