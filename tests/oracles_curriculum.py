"""Slow, literal NumPy float64 versions of the curriculum's densities and subsets. They share no
code with keras_ms: whole n × n matrices, loops, and a search through all divisions."""

import itertools
import math

import numpy as np


def distances(features):
    x = np.asarray(features, np.float64)
    return np.array([[math.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])


def cutoff(distance, quantile=0.6):
    n = len(distance)
    return sorted(distance.ravel())[int(quantile * n**2)]


def count_density(distance, near):
    n = len(distance)
    if near == 0:
        # more than 60 % of the pairs coincide: neighbours are the points that do
        return np.array([sum(distance[i, j] == 0 for j in range(n)) - 1 for i in range(n)])
    return np.array([sum(distance[i, j] < near for j in range(n)) - 1 for i in range(n)])


def gaussian_density(distance):
    n, largest = len(distance), distance.max() or 1.0
    return np.array(
        [
            sum(math.exp(-((distance[i, j] / largest) ** 2) / 2) for j in range(n))
            / math.sqrt(2 * math.pi)
            for i in range(n)
        ]
    )


def delta(distance, density, tolerance=0.0):
    n, found = len(distance), []
    for i in range(n):
        denser = [distance[i, j] for j in range(n) if density[j] > density[i] + tolerance]
        found.append(min(denser) if denser else max(distance[i]))
    return np.array(found)


def squared_distance_to_means(values, groups):
    return sum(((values[groups == g] - values[groups == g].mean()) ** 2).sum() for g in set(groups))


def best_divisions(values, parts):
    """(least cost, all divisions of the values into runs that reach it, 0 the lowest)."""
    values = np.asarray(values, np.float64)
    unique = np.unique(values)
    parts = min(parts, len(unique))
    tried = []
    for bounds in itertools.combinations(range(1, len(unique)), parts - 1):
        groups = np.array([sum(v >= unique[b] for b in bounds) for v in values])
        tried.append((squared_distance_to_means(values, groups), groups))
    least = min(cost for cost, _ in tried)
    return least, [groups for cost, groups in tried if cost <= least + 1e-9 * (1 + least)]
