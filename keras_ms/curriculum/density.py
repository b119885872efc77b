"""How densely the images of one class lie, in memory that does not grow with its square.

Everything here is about one class: features (n, dimension) in, a number for each image out. The n²
distances are made in square blocks, as often as they are needed, and never kept together.
"""

from typing import NamedTuple

import numpy as np

from keras_ms.arguments import real_number, whole_number

DENSITIES = ("count", "gaussian")
# Products of centred float64 rows are exact to some 1e-16 of the norms. What is closer than float32
# features can tell apart is the same point, and distances that differ by less are equal: without
# this, rounding decided how many of equally far points are "nearer than the cut-off".
_SAME_POINT = 1e-12  # of the squared norms
_EQUAL = 1e-9
_BLOCK = 1024  # rows and columns of a block, 8 MiB; a few are alive at a time
_MOST_KEPT = 2 * _BLOCK**2  # distances that are sorted at once, 16 MiB; no fewer than a block has
_BITS = 20  # of a number that one round of counting tells: 8 MiB of counters


class ClassDensity(NamedTuple):
    """What `class_density` finds about the n images of one class.

    Attributes:
        density: ρ float64 (n,).
        delta: δ float64 (n,), distance to the nearest image of higher density.
        centre: row of the densest image, the first of equals.
        to_centre: float64 (n,), distance to it.
        cutoff: d_c, the distance below which images count as near; NaN for Gaussian densities.
    """

    density: np.ndarray
    delta: np.ndarray
    centre: int
    to_centre: np.ndarray
    cutoff: float


def class_density(
    features: np.ndarray,
    density: str = "count",
    *,
    distance_quantile: float = 0.6,  # the published one; 0.5 to 0.7 are said to make no difference
    max_dimension: int | None = 256,  # as in the official code
) -> ClassDensity:
    """Density of each image of one class, and its distance to the nearest denser one.

    Reference: Guo et al.: CurriculumNet, ECCV 2018, after Rodriguez, Laio: Clustering
    by Fast Search and Find of Density Peaks, Science 2014.

    With D the n × n matrix of Euclidean distances:

        d_c = sorted(all n² entries of D)[int(distance_quantile · n²)]
        ρ_i = number of j ≠ i with D_ij < d_c                          ("count")
        ρ_i = Σ_j exp(−(D_ij / max D)² / 2) / √(2π)                    ("gaussian", j = i included)
        δ_i = min of D_ij over j with ρ_j > ρ_i; max of D_ij over j where there is no such j

    - One image: ρ = 0 (Gaussian: 1/√2π), δ = 0.
    - d_c = 0, where most images are the same: the count is that of D_ij = 0, the limit of a small
      d_c, so that repeated images are dense and not sparse.
    - The zeros of the diagonal are n of the n² entries: at a quantile below 1/n, d_c = 0, and of
      the count only repeated images are dense.
    - Distances within 1e-9 of d_c (relative, squared) are equal to it, densities of the Gaussian
      kind within 1e-9 · n are equal.

    Args:
        features: (n, dimension), finite.
        density: "count" or "gaussian".
        distance_quantile: between 0 and 1.
        max_dimension: more dimensions than that are reduced to it by a principal component analysis
            of these features, where there are more images than that: with fewer it would only turn
            them. None: never.

    Returns:
        `ClassDensity`.

    Raises:
        ValueError: as `check_density_options`.
    """
    check_density_options(density, distance_quantile, max_dimension)
    points = principal_components(np.asarray(features, np.float64), max_dimension)
    blocks, n = _DistanceBlocks(points), len(points)
    cutoff = np.nan
    if density == "count":
        cutoff = _order_statistic(blocks, int(distance_quantile * n**2))
        # of the points that coincide where d_c = 0, and of those that are nearer where it is not
        near = cutoff * (1 - _EQUAL) if cutoff else np.finfo(np.float64).tiny
        # a point is not its own neighbour
        densities = blocks.row_sums(lambda squared: squared < near) - 1
    else:
        largest = blocks.largest() or 1.0
        # a mean of at most 1, so that 9 decimals are the same share of it for every n
        densities = blocks.row_sums(lambda squared: np.exp(squared / (-2 * largest))) / n
        densities = np.round(densities, 9) * n / np.sqrt(2 * np.pi)
    centre = int(np.argmax(densities))
    to_centre = np.sqrt(blocks.from_row(centre))
    return ClassDensity(
        densities, _delta(blocks, densities), centre, to_centre, float(np.sqrt(cutoff))
    )


def check_density_options(
    density: str, distance_quantile: float, max_dimension: int | None
) -> None:
    """Raises a ValueError that names an unknown density or a number out of its range."""
    if density not in DENSITIES:
        raise ValueError(f"Expected `density` as one of {DENSITIES}. Received: {density!r}")
    real_number("distance_quantile", distance_quantile, above=0, below=1)
    if max_dimension is not None:
        whole_number("max_dimension", max_dimension)


def principal_components(points: np.ndarray, max_dimension: int | None) -> np.ndarray:
    """The rows about their mean, in at most `max_dimension` dimensions: those of most variance."""
    points = points - points.mean(axis=0)
    n, dimension = points.shape
    if max_dimension is None or min(n, dimension) <= max_dimension:
        return points
    max_dimension = int(max_dimension)
    # of the two matrices with the same eigenvalues, the smaller one
    if dimension <= n:
        axes = np.linalg.eigh(points.T @ points)[1][:, -max_dimension:]
        return points @ axes
    values, vectors = np.linalg.eigh(points @ points.T)
    return vectors[:, -max_dimension:] * np.sqrt(np.maximum(values[-max_dimension:], 0))


def split_values(values: np.ndarray, parts: int) -> np.ndarray:
    """Divides numbers into `parts` groups with the least squared distance to the groups' means.

    This is k-means of scalars, solved exactly: in sorted order the best groups are runs, and the
    best last run's start only moves up with its end, so that each of `parts` rounds takes
    O(u log u) for u different values. No seed, no start, no local optimum.

    Args:
        values: (n,).
        parts: at least 1. Fewer different values than that make as many groups as there are.

    Returns:
        int64 (n,), 0 for the group of the lowest values. Of several best divisions, the one whose
        upper groups are the largest.
    """
    unique, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    unique = unique - unique[0]  # sums of squares of smaller numbers
    weight, first, second = (
        np.concatenate([[0.0], np.cumsum(counts * unique**power)]) for power in (0, 1, 2)
    )

    def cost(start, end):
        """Squared distances to the mean, of the values from `start` to before `end`."""
        total = first[end] - first[start]
        return second[end] - second[start] - total**2 / (weight[end] - weight[start])

    size, parts = len(unique), min(parts, len(unique))
    ends = np.arange(1, size + 1)
    best = np.concatenate([[np.inf], cost(0, ends)])  # by number of values, in one group
    starts = []
    for groups in range(2, parts + 1):
        best, start = _one_more_group(best, cost, groups, size)
        starts.append(start)
    bounds, end = [], size
    for start in reversed(starts):
        end = start[end]
        bounds.append(end)
    return np.searchsorted(np.sort(bounds), where, side="right")


def _one_more_group(best, cost, groups, size):
    """(least cost of `groups` groups by number of values, start of the last one there)."""
    least_costs, starts = np.full(size + 1, np.inf), np.zeros(size + 1, np.int64)
    # ends from low to high, and the range in which the last group of each starts
    todo = [(groups, size, groups - 1, size - 1)]
    while todo:
        low, high, least, most = todo.pop()
        end = (low + high) // 2
        tried = np.arange(least, min(most, end - 1) + 1)
        costs = best[tried] + cost(tried, end)
        choice = int(np.argmin(costs))
        least_costs[end], starts[end] = costs[choice], tried[choice]
        if low < end:
            todo.append((low, end - 1, least, starts[end]))
        if end < high:
            todo.append((end + 1, high, starts[end], most))
    return least_costs, starts


class _DistanceBlocks:
    """The squared distances of points, in blocks (rows, columns, values) on and above the diagonal.

    A block stands for its transpose as well, so no distance is on both sides of a bound.
    """

    def __init__(self, points):
        self.points = points
        self._norms = np.einsum("ij,ij->i", points, points)
        starts = range(0, len(points), _BLOCK)
        self._places = [
            (slice(row, row + _BLOCK), slice(column, column + _BLOCK))
            for row in starts
            for column in starts
            if column >= row
        ]
        # a single block is kept, others are made again
        self._only = self._squared(*self._places[0]) if len(self._places) == 1 else None

    def __len__(self):
        return len(self.points)

    def __iter__(self):
        for rows, columns in self._places:
            squared = self._squared(rows, columns) if self._only is None else self._only
            yield rows, columns, squared

    def _squared(self, rows, columns):
        norms = self._norms[rows, None] + self._norms[None, columns]
        squared = self.points[rows] @ self.points[columns].T
        squared *= -2
        squared += norms
        squared[squared <= _SAME_POINT * norms] = 0
        if rows == columns:
            np.fill_diagonal(squared, 0)
            # no product is promised to be symmetric to the last bit
            squared = np.minimum(squared, squared.T)
        return squared

    def from_row(self, row):
        """D² of one point to all, float64 (n,)."""
        differences = self.points - self.points[row]
        squared = np.einsum("ij,ij->i", differences, differences)
        squared[squared <= _SAME_POINT * (self._norms + self._norms[row])] = 0
        return squared

    def largest(self):
        return max(float(squared.max()) for _, _, squared in self)

    def row_sums(self, function):
        """Σ_j function(D²_ij), float64 (n,)."""
        sums = np.zeros(len(self))
        for rows, columns, squared in self:
            values = function(squared)
            sums[rows] += values.sum(axis=1)
            if rows != columns:
                sums[columns] += values.sum(axis=0)
        return sums


def _order_statistic(blocks, rank):
    """The value at place `rank`, from 0, of all n² squared distances in order; exact.

    Floats from 0 on are ordered like their bits read as integers. Their leading bits are counted,
    then the next ones of those that share the right leading bits, until few enough are left.
    """
    number, known, unknown = len(blocks) ** 2, 0, 63  # of 64 bits, the sign is 0
    while number > _MOST_KEPT and unknown:
        bits = min(_BITS, unknown)
        counts = np.zeros(2**bits, np.int64)
        for patterns, times in _bit_patterns(blocks, known, unknown):
            following = (patterns >> (unknown - bits)) & (2**bits - 1)
            counts += times * np.bincount(following, minlength=2**bits)
        chosen = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
        rank -= int(counts[:chosen].sum())
        number = int(counts[chosen])
        known, unknown = (known << bits) | chosen, unknown - bits
    if not unknown:
        return np.int64(known).view(np.float64)  # more equal distances than can be kept
    kept = [np.repeat(patterns, times) for patterns, times in _bit_patterns(blocks, known, unknown)]
    return np.partition(np.concatenate(kept), rank)[rank].view(np.float64)


def _bit_patterns(blocks, known, unknown):
    """(bits of the squared distances whose leading ones are `known`, how often each counts)."""
    for rows, columns, squared in blocks:
        patterns = squared.view(np.int64).ravel()
        if unknown < 63:
            patterns = patterns[patterns >> unknown == known]
        yield patterns, 1 if rows == columns else 2


def _delta(blocks, density):
    nearest, farthest = np.full(len(blocks), np.inf), np.zeros(len(blocks))
    for rows, columns, squared in blocks:
        # the block, then its transpose, in which rows and columns change places
        for here, there, axis in ((rows, columns, 1), (columns, rows, 0)):
            if axis == 0 and rows == columns:
                continue
            denser = np.expand_dims(density[there], 1 - axis) > np.expand_dims(density[here], axis)
            to_denser = squared.min(axis=axis, where=denser, initial=np.inf)
            nearest[here] = np.minimum(nearest[here], to_denser)
            farthest[here] = np.maximum(farthest[here], squared.max(axis=axis))
    return np.sqrt(np.where(np.isinf(nearest), farthest, nearest))
