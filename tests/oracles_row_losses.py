"""Literal versions of the losses whose anchors stand apart, and of the two-sided lifted structure
loss. They share no code with keras_ms.

Each loss stands here twice: as slow NumPy float64 loops that read like the equation (`ROWS`), for
its values, and as a plain TensorFlow float64 forward (`FORWARD`), one anchor at a time, to be
differentiated automatically. An anchor is `(positives, negatives)`, the similarities of its pairs.
"""

import math

import numpy as np
import tensorflow as tf

# Distances below it are those of equal vectors, but for rounding: their derivative is defined as 0.
EQUAL = 1e-6


def kinds(labels):
    """Indices of every anchor's positives and of its negatives."""
    items = range(len(labels))
    positives = [[k for k in items if labels[k] == labels[i] and k != i] for i in items]
    negatives = [[k for k in items if labels[k] != labels[i]] for i in items]
    return positives, negatives


# NumPy loops: every function takes the lists of similarities of one anchor.


def mean(values):
    return sum(values) / len(values) if values else 0.0


def contrastive(positives, negatives, threshold):
    return sum(max(s - threshold, 0) for s in negatives) + sum(1 - s for s in positives)


def binomial_deviance(positives, negatives, alpha, beta, threshold):
    return mean([math.log(1 + math.exp(alpha * (threshold - s))) for s in positives]) + mean(
        [math.log(1 + math.exp(beta * (s - threshold))) for s in negatives]
    )


def lifted_structure(positives, negatives, threshold):
    if not positives or not negatives:
        return 0.0
    pull = math.log(sum(math.exp(threshold - s) for s in positives))
    push = math.log(sum(math.exp(s) for s in negatives))
    return max(pull + push, 0)


def circle(positives, negatives, margin, gamma):
    if not positives or not negatives:
        return 0.0
    # e^Z is beyond float64 for some batches, and within the 80 bits of a long double
    push = [gamma * max(s + margin, 0) * (s - margin) for s in negatives]
    pull = [-gamma * max(1 + margin - s, 0) * (s - (1 - margin)) for s in positives]
    product = sum(np.exp(np.longdouble(push))) * sum(np.exp(np.longdouble(pull)))
    return float(np.log1p(product))


def supervised_contrastive(positives, negatives, temperature):
    if not positives:
        return 0.0
    whole = sum(math.exp(s / temperature) for s in positives + negatives)
    return -mean([math.log(math.exp(s / temperature) / whole) for s in positives])


def distance(similarity):
    squared = 2 - 2 * similarity
    return math.sqrt(squared) if squared > EQUAL**2 else 0.0


def draw_probabilities(negatives, cutoff, dimension):
    """p of distance-weighted sampling, from the density as it is published."""
    logs = []
    for s in negatives:
        d = distance(s)
        if cutoff is not None and d >= cutoff:
            logs.append(-math.inf)
            continue
        d = max(d, 0.5)
        # the density vanishes at d = 2; its inverse is kept finite there
        rest = max(1 - d * d / 4, 1e-6 / d**2)
        logs.append((2 - dimension) * math.log(d) - (dimension - 3) / 2 * math.log(rest))
    largest = max(logs, default=-math.inf)
    if largest == -math.inf:
        return [0.0] * len(negatives)
    inverse = [math.exp(value - largest) for value in logs]
    return [value / sum(inverse) for value in inverse]


def margin(positives, negatives, margin, boundary, cutoff, dimension):
    p = draw_probabilities(negatives, cutoff, dimension)
    return mean([max(distance(s) - boundary + margin, 0) for s in positives]) + sum(
        p_k * max(margin - distance(s) + boundary, 0) for p_k, s in zip(p, negatives, strict=True)
    )


ROWS = {
    "contrastive": contrastive,
    "binomial_deviance": binomial_deviance,
    "lifted_structure": lifted_structure,
    "circle": circle,
    "supervised_contrastive": supervised_contrastive,
    "margin": margin,
}


def rows(name, similarity, labels, **settings):
    """One value per anchor."""
    return np.array(
        [
            ROWS[name]([similarity[i, k] for k in p], [similarity[i, k] for k in n], **settings)
            for i, (p, n) in enumerate(zip(*kinds(labels), strict=True))
        ]
    )


def two_sided_lifted_structure(similarity, labels, margin):
    """The published value: a sum over unordered pairs."""
    positives, negatives = kinds(labels)
    total, pairs = 0.0, 0
    for i in range(len(labels)):
        for j in positives[i]:
            if j < i:
                continue
            pairs += 1
            push = sum(math.exp(margin - distance(similarity[i, k])) for k in negatives[i])
            push += sum(math.exp(margin - distance(similarity[j, k])) for k in negatives[j])
            if push > 0:
                total += max(distance(similarity[i, j]) + math.log(push), 0) ** 2
    return total / (2 * pairs) if pairs else 0.0


# Plain TensorFlow: p and n are vectors of one anchor's similarities, without any entry at times.


def tf_contrastive(p, n, threshold):
    return tf.reduce_sum(tf.nn.relu(n - threshold)) + tf.reduce_sum(1 - p)


def tf_mean(values):
    return tf.reduce_mean(values) if len(values) else tf.constant(0.0, "float64")


def tf_binomial_deviance(p, n, alpha, beta, threshold):
    pull = tf_mean(tf.math.log(1 + tf.exp(alpha * (threshold - p))))
    return pull + tf_mean(tf.math.log(1 + tf.exp(beta * (n - threshold))))


def tf_lifted_structure(p, n, threshold):
    if not len(p) or not len(n):
        return tf.constant(0.0, "float64")
    pull, push = tf.reduce_sum(tf.exp(threshold - p)), tf.reduce_sum(tf.exp(n))
    return tf.nn.relu(tf.math.log(pull) + tf.math.log(push))


def tf_circle(p, n, margin, gamma):
    if not len(p) or not len(n):
        return tf.constant(0.0, "float64")
    alpha_p = tf.stop_gradient(tf.nn.relu(1 + margin - p))
    alpha_n = tf.stop_gradient(tf.nn.relu(n + margin))
    pull = tf.reduce_logsumexp(-gamma * alpha_p * (p - (1 - margin)))
    push = tf.reduce_logsumexp(gamma * alpha_n * (n - margin))
    return tf.nn.softplus(pull + push)


def tf_supervised_contrastive(p, n, temperature):
    if not len(p):
        return tf.constant(0.0, "float64")
    whole = tf.reduce_logsumexp(tf.concat([p, n], 0) / temperature)
    return -tf.reduce_mean(p / temperature - whole)


def tf_distance(similarity):
    squared = 2 - 2 * similarity
    equal = squared <= EQUAL**2
    root = tf.sqrt(tf.where(equal, tf.ones_like(squared), squared))
    return tf.where(equal, tf.zeros_like(squared), root)


def tf_margin(p, n, margin, boundary, cutoff, dimension):
    drawn = tf.constant(draw_probabilities(n.numpy().tolist(), cutoff, dimension), "float64")
    pull = tf_mean(tf.nn.relu(tf_distance(p) - boundary + margin))
    return pull + tf.reduce_sum(drawn * tf.nn.relu(margin - tf_distance(n) + boundary))


FORWARD = {
    "contrastive": tf_contrastive,
    "binomial_deviance": tf_binomial_deviance,
    "lifted_structure": tf_lifted_structure,
    "circle": tf_circle,
    "supervised_contrastive": tf_supervised_contrastive,
    "margin": tf_margin,
}


def forward(name, similarity, labels, **settings):
    """One value per anchor, (anchors,) float64, from a float64 tensor of similarities."""
    return tf.stack(
        [
            FORWARD[name](
                tf.gather(similarity[i], tf.constant(p, "int32")),
                tf.gather(similarity[i], tf.constant(n, "int32")),
                **settings,
            )
            for i, (p, n) in enumerate(zip(*kinds(labels), strict=True))
        ]
    )


def two_sided_forward(similarity, labels, margin):
    """What the ordered pairs of every anchor add, times anchors per ordered pair."""
    positives, negatives = kinds(labels)
    pairs = max(sum(len(p) for p in positives), 1)
    push = []
    for i, n in enumerate(negatives):
        away = tf_distance(tf.gather(similarity[i], tf.constant(n, "int32")))
        push.append(tf.reduce_sum(tf.exp(margin - away)))
    values = []
    for i in range(len(labels)):
        value = tf.constant(0.0, "float64")
        for j in positives[i]:
            if negatives[i]:
                bracket = tf_distance(similarity[i, j]) + tf.math.log(push[i] + push[j])
                value += tf.nn.relu(bracket) ** 2 / 2
        values.append(value * len(labels) / pairs)
    return tf.stack(values)
