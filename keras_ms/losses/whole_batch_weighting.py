"""How much each pair counts where an anchor's loss depends on other rows of the batch than its own.

As in weighting.py everything is a closed form of dL/dS, with no autodiff. Each weighting takes
square Pairs and one number per anchor, and returns the derivative of the sum of number times loss
with respect to every similarity, S_ij and S_ji being separate variables.
"""

from keras import ops

from keras_ms.pairs.positives import visit_positives


def n_pair_weights(pairs, upstream, regularization=0.002):
    """Pair weights of the N-pair loss with its L2 term, signed off the diagonal.

    With q_pn = e^{S_in - S_ip} / (1 + sum_k e^{S_ik - S_ip}): on a negative 1/|P_i| sum_P q_pn,
    on a positive -1/|P_i| sum_N q_pn. On the diagonal, which holds the squared norms, what the L2
    terms of all anchors give.

    Args:
        pairs: Pairs, the dot products of the batch with itself.
        upstream: (anchors,), what each anchor's loss is multiplied by.
        regularization: as in `keras_ms.NPairLoss`.

    Returns:
        (anchors, anchors), same dtype as the similarities.
    """
    scale = n_pair_scale(pairs) * ops.expand_dims(upstream, 1)
    zero = ops.zeros_like(pairs.similarity)
    own = scale[:, 0] * ops.sum(ops.cast(pairs.positive, scale.dtype), axis=-1)
    as_positive = ops.sum(ops.where(pairs.positive, scale, zero), axis=0)
    norms = 0.25 * regularization * (own + as_positive)
    diagonal = ops.where(_diagonal(pairs.similarity), norms, zero)
    return scale * n_pair_shares(pairs) + diagonal


def n_pair_shares(pairs):
    """Of every anchor, the sum over its positives of q_pn on negatives, and minus the sum over its
    negatives on positives; (anchors, candidates)."""
    similarity, total = pairs.similarity, negative_log_sum_exp(pairs)
    zero = ops.zeros_like(similarity)
    # sum_N q_pn = e^total / (e^{S_ip} + e^total), and q_pn is the share of e^{S_in} in it
    pull = ops.where(pairs.positive, ops.sigmoid(total - similarity), zero)
    share = ops.exp(ops.where(pairs.negative, similarity - total, zero))
    push = ops.where(pairs.negative, share, zero) * ops.sum(pull, axis=-1, keepdims=True)
    return push - pull


def n_pair_scale(pairs):
    """1/|P_i|, and 0 for an anchor without a positive or without a negative; (anchors, 1)."""
    number = ops.sum(ops.cast(pairs.positive, pairs.similarity.dtype), axis=-1, keepdims=True)
    has_negative = ops.any(pairs.negative, axis=-1, keepdims=True)
    one = ops.ones_like(number)
    usable = ops.logical_and(number > 0, has_negative)
    return ops.where(usable, one / ops.maximum(number, one), ops.zeros_like(one))


def negative_log_sum_exp(pairs):
    """log(sum over the negatives of e^similarity), (anchors, 1); for an anchor without negatives
    some finite number."""
    similarity = pairs.similarity
    least = ops.min(similarity, axis=-1, keepdims=True)
    # over negatives only: no other entry sets the scale of dot products of any size
    largest = ops.max(ops.where(pairs.negative, similarity, least), axis=-1, keepdims=True)
    shifted = ops.where(pairs.negative, similarity - largest, ops.zeros_like(similarity))
    terms = ops.where(pairs.negative, ops.exp(shifted), ops.zeros_like(shifted))
    total = ops.sum(terms, axis=-1, keepdims=True)
    return largest + ops.log(ops.where(total > 0, total, ops.ones_like(total)))


def angular_weights(pairs, upstream, squared_tangent=1.0):
    """Pair weights of the angular loss, signed.

    With r_ap = e^{-2(1+t^2) S_ap} / (1 + sum_n e^{f_apn}) and M = e^{4 t^2 S} on negatives, the
    weight of a triplet is M_an M_pn r_ap: 4 t^2 times it on (a, n) and on (p, n), -2 (1+t^2) times
    its sum over n on (a, p). Row i gathers, over its positives j, the triplets with the anchor i
    (divided by |P_i|) and those with the anchor j (divided by |P_j|).

    Args:
        pairs: Pairs of a batch with itself: a positive has the negatives of its anchor.
        upstream: (anchors,), what each anchor's loss is multiplied by.
        squared_tangent: t^2, from 0 to 3.

    Returns:
        (anchors, anchors), same dtype as the similarities.
    """
    pairs = pairs._replace(similarity=ops.stop_gradient(pairs.similarity))
    number = ops.sum(ops.cast(pairs.positive, upstream.dtype), axis=-1)
    per_positive = upstream / ops.maximum(number, ops.ones_like(number))

    def visit(column, partner, partner_factors, sum_of_triplets, weights):
        ratio = angular_pull(pairs, partner, squared_tangent)
        share = ratio / (1 + ratio * sum_of_triplets)
        own = ops.expand_dims(per_positive, 1)
        others = ops.expand_dims(ops.take(per_positive, partner), 1)
        is_left = column < ops.shape(pairs.similarity)[1]
        both = ops.where(is_left, share * (own + others), ops.zeros_like(share))
        pull = -2 * (1 + squared_tangent) * own * share * sum_of_triplets
        # `partner_factors` is 0 on positives, so these are two separate parts of one matrix
        return (
            weights
            + both * partner_factors
            + ops.where(_columns(pairs.similarity) == column, pull, ops.zeros_like(pull)),
        )

    factors, (weights,) = visit_triplet_sums(
        visit, pairs, squared_tangent, ops.zeros_like(pairs.similarity)
    )
    return ops.where(pairs.positive, weights, 4 * squared_tangent * factors * weights)


def angular_weights_again(pairs, upstream, squared_tangent=1.0):
    """`angular_weights` in matrix products instead of a loop, to be differentiated.

    The sum over n of M_an M_pn for all a and p is M M^T: for batches of many images a class it
    takes fewer passes, for those of a few, which are the rule, more time.

    Args:
        pairs, upstream, squared_tangent: as in `angular_weights`.

    Returns:
        (anchors, anchors), as `angular_weights` to rounding.
    """
    zero = ops.zeros_like(pairs.similarity)
    number = ops.sum(ops.cast(pairs.positive, upstream.dtype), axis=-1)
    own = ops.expand_dims(upstream / ops.maximum(number, ops.ones_like(number)), 1)
    factors = ops.exp(4 * squared_tangent * ops.where(pairs.negative, pairs.similarity, zero))
    factors = ops.where(pairs.negative, factors, zero)
    sums = ops.matmul(factors, ops.transpose(factors))
    ratio = ops.exp(-2 * (1 + squared_tangent) * ops.where(pairs.positive, pairs.similarity, zero))
    share = ops.where(pairs.positive, ratio / (1 + ratio * sums), zero)
    pull = -2 * (1 + squared_tangent) * own * share * sums
    push = 4 * squared_tangent * factors * ops.matmul(share * (own + ops.transpose(own)), factors)
    return pull + push


def angular_pull(pairs, partner, squared_tangent):
    """e^{-2(1+t^2) S_ap} of the positives visited, (anchors, 1)."""
    similarity = ops.take_along_axis(pairs.similarity, ops.expand_dims(partner, 1), axis=1)
    return ops.exp(-2 * (1 + squared_tangent) * similarity)


def visit_triplet_sums(visit, pairs, squared_tangent, state):
    """Visits the positives of all anchors with their sums over negatives n of M_an M_pn.

    Args:
        visit: function `(column, partner, partner_factors, sum_of_triplets, state) -> (state,)`:
            the positive's column (anchors, 1), the number of columns where an anchor has none
            left; the same as an index that always exists, (anchors,); row p of M for every
            anchor, (anchors, candidates); the sums, (anchors, 1).
        pairs: Pairs of a batch with itself.
        squared_tangent: t^2, from 0 to 3, for which nothing overflows: a product of two factors
            is at most e^{8 t^2} = e^24.
        state: what `visit` starts with.

    Returns:
        `(M, (state,))`.
    """
    factors = ops.where(
        pairs.negative,
        ops.exp(4 * squared_tangent * pairs.similarity),
        ops.zeros_like(pairs.similarity),
    )
    size = ops.shape(pairs.similarity)[1]
    columns = _columns(pairs.similarity)

    def visit_column(column, state):
        partner = ops.minimum(column[:, 0], size - 1)
        partner_factors = ops.take(factors, partner, axis=0)
        sums = ops.sum(factors * partner_factors, axis=-1, keepdims=True)
        return visit(column, partner, partner_factors, sums, state)

    numbers = ops.where(pairs.positive, columns, ops.full_like(columns, size))
    return factors, visit_positives(visit_column, numbers, size, state)


def histogram_weights(pairs, upstream, num_steps=101):
    """Pair weights of the histogram loss, signed.

    With h- and h+ the two histograms and Delta the distance of their nodes, a similarity between
    nodes r and r + 1 weighs h+_{r+1} / (Delta |S-|) as a negative and -h-_r / (Delta |S+|) as a
    positive: the mass that it moves from r to r + 1 per unit, times what that mass meets there.
    Every item's row holds the loss of the batch, so all weights are multiplied by the sum of
    `upstream` over the items that have a pair.

    Args:
        pairs: Pairs of a batch with itself.
        upstream: (anchors,), what each anchor's loss is multiplied by.
        num_steps: as in `keras_ms.HistogramLoss`.

    Returns:
        (anchors, anchors), same dtype as the similarities.
    """
    positive_share, negative_share, num_positives, num_negatives = histograms(pairs, num_steps)
    node, _ = histogram_position(pairs.similarity, num_steps)
    per_step = (num_steps - 1) / 2
    one = ops.ones_like(num_positives)
    up = positive_share[1:] * (per_step / ops.maximum(num_negatives, one))
    down = negative_share[:-1] * (per_step / ops.maximum(num_positives, one))
    total = ops.sum(upstream * ops.cast(has_pair(pairs), upstream.dtype))
    # one look-up for both kinds: first the steps of the positives, then those of the negatives
    table = total * ops.concatenate([-down, up])
    weights = ops.take(table, ops.where(pairs.positive, node, node + (num_steps - 1)))
    is_pair = ops.logical_or(pairs.positive, pairs.negative)
    return ops.where(is_pair, weights, ops.zeros_like(weights))


def histograms(pairs, num_steps):
    """The two histograms of similarities on `num_steps` nodes from -1 to 1.

    Each similarity shares its mass between its two neighbouring nodes, linearly.

    Returns:
        `(positive, negative, num_positives, num_negatives)`: shares of mass, (num_steps,) each,
        which sum to 1, or are 0 for a batch without such pairs; and the numbers of pairs,
        scalars of the same dtype.
    """
    node, fraction = histogram_position(pairs.similarity, num_steps)
    rows = ops.shape(node)[0]
    # A histogram per row first: a sum of millions of numbers in one place would lose its last
    # digits. In a row come the nodes of the positives, of the negatives, of what is no pair.
    kind = ops.where(pairs.positive, 0, ops.where(pairs.negative, 1, 2))
    place = (3 * ops.expand_dims(ops.arange(rows, dtype="int32"), 1) + kind) * num_steps + node
    place, fraction = ops.reshape(place, (-1,)), ops.reshape(fraction, (-1,))
    lower = ops.segment_sum(1 - fraction, place, num_segments=3 * rows * num_steps)
    upper = ops.segment_sum(fraction, place + 1, num_segments=3 * rows * num_steps)
    masses = ops.sum(ops.reshape(lower + upper, (rows, 3, num_steps)), axis=0)
    # counted, where summing the masses would round
    numbers = [
        ops.sum(ops.sum(ops.cast(mask, masses.dtype), axis=-1))
        for mask in (pairs.positive, pairs.negative)
    ]
    shares = [masses[i] / ops.maximum(n, ops.ones_like(n)) for i, n in enumerate(numbers)]
    return (*shares, *numbers)


def histogram_position(similarity, num_steps):
    """The node below each similarity (int32) and how far it is on its way to the next, 0 to 1.

    A similarity beyond -1 or 1, which only rounding makes, counts as -1 or 1. That of a broken
    embedding, NaN, counts as 0: no node has its number.
    """
    similarity = ops.where(ops.isnan(similarity), ops.zeros_like(similarity), similarity)
    steps = (ops.clip(similarity, -1.0, 1.0) + 1) * ((num_steps - 1) / 2)
    # the last node belongs to the last step; a NaN, whose cast is any number, gets some node
    node = ops.clip(ops.cast(ops.floor(steps), "int32"), 0, num_steps - 2)
    return node, steps - ops.cast(node, steps.dtype)


def has_pair(pairs):
    """Which items take part in a pair, (anchors,) bool."""
    return ops.any(ops.logical_or(pairs.positive, pairs.negative), axis=-1)


def _columns(matrix):
    """The column of each entry, (anchors, candidates) int32."""
    rows, columns = ops.shape(matrix)
    return ops.broadcast_to(ops.arange(columns, dtype="int32"), (rows, columns))


def _diagonal(matrix):
    columns = _columns(matrix)
    return columns == ops.transpose(columns)
