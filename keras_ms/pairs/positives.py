"""Every anchor's positives in turn: what depends on triplets, without a matrix of triplets."""

from collections.abc import Callable

from keras import ops

from keras_ms.arguments import Tensor


def visit_positives(
    visit: Callable,
    visiting_order: Tensor,
    none_left: float,
    *state: Tensor,
    limit: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Visits the positives of all anchors at once, each anchor's in their visiting order.

    One pass takes the next positive of every anchor, so that there are as many passes as the
    anchor with the most positives has, each of memory (anchors, candidates). The number of passes
    depends on the data: nothing can be differentiated through it, and nothing needs to be where
    the gradient is a closed form.

    Args:
        visit: function `(current, *state) -> state`; `current` (anchors, 1) is the number of the
            positive visited, or `none_left` for an anchor that has none: such an anchor's state
            must not change.
        visiting_order: (anchors, candidates), the numbers that the positives are ordered by, e.g.
            their similarity or their column; `none_left` for all other candidates. Equal numbers
            are visited once.
        none_left: a number above those of all positives.
        *state: a tensor or several.
        limit: optional (anchors, 1): the visits end when no anchor has a positive left whose
            number is below it.

    Returns:
        The state after all visits, as a tuple.
    """
    least = ops.min(visiting_order, axis=-1, keepdims=True)
    limit = ops.full_like(least, none_left) if limit is None else limit

    def is_left(current, *state):
        return ops.any(current < limit)

    def take(current, *state):
        state = visit(current, *state)
        later = ops.where(
            visiting_order > current, visiting_order, ops.full_like(visiting_order, none_left)
        )
        return (ops.min(later, axis=-1, keepdims=True), *state)

    _, *last_state = ops.while_loop(is_left, take, (least, *state))
    return tuple(last_state)
