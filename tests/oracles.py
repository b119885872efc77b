"""Slow, literal NumPy float64 versions of the formulas, pair by pair. They share no code with
keras_ms: each loop reads like its equation."""

import math

import numpy as np


def unit_rows(embeddings):
    embeddings = np.asarray(embeddings, np.float64)
    return np.stack([row / math.sqrt(sum(v * v for v in row)) for row in embeddings])


def similarities(embeddings):
    unit = unit_rows(embeddings)
    return unit @ unit.T


def mine(similarity, labels, epsilon):
    """Eqs 11 and 12: for each anchor the kept positives and the kept negatives (lists of indices).
    `epsilon=None` keeps all."""
    count = len(labels)
    kept_positives, kept_negatives = [], []
    for i in range(count):
        positives = [k for k in range(count) if labels[k] == labels[i] and k != i]
        negatives = [k for k in range(count) if labels[k] != labels[i]]
        if epsilon is not None:
            if positives and negatives:
                least_positive = min(similarity[i, k] for k in positives)
                most_negative = max(similarity[i, k] for k in negatives)
                positives = [k for k in positives if similarity[i, k] < most_negative + epsilon]
                negatives = [k for k in negatives if similarity[i, k] > least_positive - epsilon]
            else:
                positives, negatives = [], []
        kept_positives.append(positives)
        kept_negatives.append(negatives)
    return kept_positives, kept_negatives


def smallest_distance_to_a_threshold(similarity, labels, epsilon):
    """How far the closest similarity is from flipping a comparison of the mining."""
    if epsilon is None:
        return math.inf
    closest = math.inf
    count = len(labels)
    for i in range(count):
        positives = [similarity[i, k] for k in range(count) if labels[k] == labels[i] and k != i]
        negatives = [similarity[i, k] for k in range(count) if labels[k] != labels[i]]
        if positives and negatives:
            closest = min(closest, *(abs(s - max(negatives) - epsilon) for s in positives))
            closest = min(closest, *(abs(s - min(positives) + epsilon) for s in negatives))
    return closest


def multi_similarity_rows(similarity, kept, alpha, beta, threshold):
    """Eq. 15 without the mean: one value per anchor."""
    rows = []
    for i, (positives, negatives) in enumerate(zip(*kept, strict=True)):
        pull = sum(math.exp(-alpha * (similarity[i, k] - threshold)) for k in positives)
        push = sum(math.exp(beta * (similarity[i, k] - threshold)) for k in negatives)
        rows.append(math.log1p(pull) / alpha + math.log1p(push) / beta)
    return np.array(rows)


def multi_similarity_weights(similarity, kept, alpha, beta, threshold):
    """Eqs 13 and 14, signed: + on negatives, - on positives."""
    weights = np.zeros_like(similarity)
    for i, (positives, negatives) in enumerate(zip(*kept, strict=True)):
        for j in negatives:
            others = np.exp(beta * (similarity[i, negatives] - similarity[i, j])).sum()
            weights[i, j] = 1 / (math.exp(beta * (threshold - similarity[i, j])) + others)
        for j in positives:
            others = np.exp(-alpha * (similarity[i, positives] - similarity[i, j])).sum()
            weights[i, j] = -1 / (math.exp(-alpha * (threshold - similarity[i, j])) + others)
    return weights


def multi_similarity(embeddings, labels, alpha, beta, threshold, epsilon, anchor_weights=None):
    """The loss (a mean over anchors, each times its weight) and its gradient with respect to the
    embeddings, through the normalisation."""
    embeddings = np.asarray(embeddings, np.float64)
    count = len(labels)
    anchor_weights = np.ones(count) if anchor_weights is None else np.asarray(anchor_weights)
    similarity = similarities(embeddings)
    kept = mine(similarity, labels, epsilon)
    rows = multi_similarity_rows(similarity, kept, alpha, beta, threshold)
    by_pair = multi_similarity_weights(similarity, kept, alpha, beta, threshold)

    unit = unit_rows(embeddings)
    # the similarity of i and j moves with the row of either
    derivative = anchor_weights[:, None] * by_pair / count
    by_unit = derivative @ unit + derivative.T @ unit
    gradient = np.zeros_like(unit)
    for i in range(count):
        norm = math.sqrt(sum(v * v for v in embeddings[i]))
        gradient[i] = (by_unit[i] - (by_unit[i] @ unit[i]) * unit[i]) / norm
    return float(np.mean(anchor_weights * rows)), gradient
