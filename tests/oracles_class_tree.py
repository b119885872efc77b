"""Slow, literal versions of the class tree and the hierarchical triplet loss, in float64: pair by
pair and triplet by triplet. They share no code with keras_ms."""

import numpy as np


def unit(embeddings):
    embeddings = np.asarray(embeddings, np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def squared(x, y):
    return float(np.sum((x - y) ** 2))


def class_distance(rows, labels, p, q):
    found = [squared(x, y) for x in rows[labels == p] for y in rows[labels == q]]
    return sum(found) / len(found)


def spreads(rows, labels):
    """s_c of every class by its pairs of different images; d_0; one-image classes get d_0."""
    found = {}
    for c in np.unique(labels):
        of = rows[labels == c]
        n = len(of)
        if n > 1:
            total = sum(squared(x, y) for x in of for y in of)
            found[c] = total / (n * n - n)
    lowest = sum(found.values()) / len(found)
    return {c: found.get(c, lowest) for c in np.unique(labels)}, lowest


def tree(embeddings, labels, levels, linkage):
    """(spreads, thresholds, merge level of every ordered pair of classes, margin to a jump).

    The last: how close any comparison of a distance with a threshold, or of two distances that
    may merge first, was to a tie.
    """
    labels = np.asarray(labels)
    rows = unit(embeddings)
    spread, lowest = spreads(rows, labels)
    thresholds = [lowest + level * (4 - lowest) / levels for level in range(levels + 1)]
    classes = [int(c) for c in np.unique(labels)]
    distance = {
        (p, q): class_distance(rows, labels, p, q) for p in classes for q in classes if p != q
    }
    closest = np.inf

    def between(a, b):
        found = [distance[p, q] for p in a for q in b]
        return min(found) if linkage == "single" else sum(found) / len(found)

    groups = [(c,) for c in classes]
    merged_at = {}
    for level, threshold in enumerate(thresholds):
        while len(groups) > 1:
            found = sorted(
                (between(a, b), i, i + 1 + j)
                for i, a in enumerate(groups)
                for j, b in enumerate(groups[i + 1 :])
            )
            nearest, i, j = found[0]
            if level < levels:
                closest = min(closest, abs(nearest - threshold))
            if len(found) > 1 and linkage == "average":
                closest = min(closest, found[1][0] - nearest)
            if level < levels and not nearest < threshold:
                break
            for p in groups[i]:
                for q in groups[j]:
                    merged_at[p, q] = merged_at[q, p] = level
            groups = [g for k, g in enumerate(groups) if k not in (i, j)] + [groups[i] + groups[j]]
    return spread, thresholds, merged_at, closest


def loss(embeddings, labels, spread, thresholds, merged_at, beta):
    """1/(2Z) sum over all triplets of [|x_a - x_p|^2 - |x_a - x_n|^2 + alpha]+ with Z the number
    of triplets, for batches with equally many images of each class; and how close a triplet is to
    where the gradient jumps."""
    rows, labels = unit(embeddings), np.asarray(labels)
    total, number, closest = 0.0, 0, np.inf
    for a, p, n in np.ndindex((len(rows),) * 3):
        if a == p or labels[a] != labels[p] or labels[a] == labels[n]:
            continue
        alpha = beta + thresholds[merged_at[labels[a], labels[n]]] - spread[labels[a]]
        violation = squared(rows[a], rows[p]) - squared(rows[a], rows[n]) + alpha
        total += max(violation, 0)
        closest = min(closest, abs(violation))
        number += 1
    return total / (2 * number), closest


def gradient(function, embeddings, step=1e-6):
    """Central differences of a function of the embeddings."""
    embeddings = np.asarray(embeddings, np.float64)
    found = np.zeros_like(embeddings)
    for index in np.ndindex(embeddings.shape):
        values = []
        for sign in (1, -1):
            moved = embeddings.copy()
            moved[index] += sign * step
            values.append(function(moved))
        found[index] = (values[0] - values[1]) / (2 * step)
    return found
