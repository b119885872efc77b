"""How far classes are apart, and which of them share a node at which level: what a ClassTree holds.

Everything follows from the mean mu_c of each class's unit vectors, not normalised again: the mean
squared distance of two classes is 2 - 2 mu_p . mu_q, and so is that of two groups of classes, with
the means over their classes. No pair of images is ever listed. Ge et al., ECCV 2018.
"""

import numpy as np

from keras_ms.arguments import Tensor, class_ids, whole_number

FARTHEST = 4.0  # the squared distance of opposite unit vectors
LEVELS = 16  # as published
LINKAGES = ("average", "single")
BLOCK = 1024  # rows of 11,318 distances: 93 MB
# Distances and thresholds are equal if they are to so many decimals. What the data makes equal,
# such as classes that coincide or stand at right angles, differs by 1e-15, on each processor
# otherwise.
DECIMALS = 9


def class_means(embeddings: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of each class's unit vectors, not normalised again.

    Args:
        embeddings: (N, dimension), any float dtype; they are normalised here.
        labels: integers (N,) or (N, 1).

    Returns:
        `(class_ids, means, counts)`: the ids in sorted order, int64 (C,); float64 (C, dimension);
        images of each class, int64 (C,).

    Raises:
        ValueError: other shapes or dtypes, no image, an embedding with a NaN or infinity or of
            zeros only.

    Example:

    >>> class_means([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]], [5, 5, 7])[1]
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    embeddings, labels = _checked(embeddings, labels)
    ids, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(ids), embeddings.shape[1]))
    for start in range(0, len(labels), BLOCK):
        rows = np.asarray(embeddings[start : start + BLOCK], np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        usable = np.isfinite(norms) & (norms > 0)
        if not usable.all():
            row = int(np.argmin(usable))
            raise ValueError(
                "Expected finite embeddings that are not all zeros, which have no direction. "
                f"Received: row {start + row} (class {labels[start + row]}) is "
                f"{embeddings[start + row]}. The model has diverged or is broken"
            )
        np.add.at(sums, index[start : start + BLOCK], rows / norms)
    return ids, sums / counts[:, None], counts


def class_distances(means: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Mean squared distance of the images of two classes, d(p, q) = 2 - 2 mu_p . mu_q.

    Args:
        means: (C, dimension), of `class_means`.
        others: the means of other classes, (D, dimension). Defaults to None: the same classes,
            each at distance 0 from itself (the closed form holds for two different classes).

    Returns:
        (C, C) or (C, D), from 0 to 4.
    """
    distances = np.clip(2 - 2 * (means @ (means if others is None else others).T), 0, FARTHEST)
    if others is None:
        np.fill_diagonal(distances, 0)
    return distances


def rounded_distances(
    means: np.ndarray, others: np.ndarray | None, decimals: int = DECIMALS
) -> np.ndarray:
    """`class_distances` to so many decimals: equal ones are so on every processor."""
    distances = class_distances(means, others)
    return np.round(distances, decimals, out=distances)


def class_spreads(means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean squared distance of the images of a class, s_c = 2n/(n - 1) (1 - |mu_c|^2).

    Args:
        means: (C, dimension), of `class_means`.
        counts: images of each class, (C,).

    Returns:
        float64 (C,), from 0 to 4. A class of one image, which has no spread, gets the mean of the
        others.

    Raises:
        ValueError: no class has two images.
    """
    several = counts > 1
    if not several.any():
        raise ValueError(
            f"Expected a class of two or more images. Received: {len(counts)} classes of one "
            "image each, which have no spread. Are the labels class ids?"
        )
    spreads = np.zeros(len(counts))
    n = counts[several]
    squared_norms = np.sum(np.asarray(means, np.float64)[several] ** 2, axis=1)
    spreads[several] = np.clip(2 * n / (n - 1) * (1 - squared_norms), 0, FARTHEST)
    spreads[~several] = spreads[several].mean()
    return spreads


def level_thresholds(spreads: np.ndarray, counts: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """d_l = d_0 + l (4 - d_0)/L for l = 0 … L, where d_0 is the mean spread of the classes of two
    or more images: float64 (L + 1,)."""
    lowest = spreads[counts > 1].mean()
    thresholds = lowest + np.arange(levels + 1) * (FARTHEST - lowest) / levels
    thresholds[-1] = FARTHEST
    return thresholds


def merge_nodes(means: np.ndarray, thresholds: np.ndarray, linkage: str = "average") -> np.ndarray:
    """Which node every class belongs to at every level.

    At level l, nodes closer than d_l share a node, again and again until none are; those whose
    distance is d_l to 9 decimals are not closer. At level L all classes share one, opposite ones
    too.

    Args:
        means: (C, dimension), of `class_means`.
        thresholds: (L + 1,), rising.
        linkage: the distance of two nodes: `"average"`, the mean over their pairs of classes, or
            `"single"`, the least, so that a level's nodes are the connected parts of d < d_l.

    Returns:
        int32 (C, L + 1). Numbers count from 0 in the order of each node's first class.
    """
    num_classes = len(means)
    nodes = np.zeros((num_classes, len(thresholds)), np.int32)
    merges, heights = _merges(means, linkage)
    parent = np.arange(2 * num_classes - 1)
    done = 0
    for level, threshold in enumerate(thresholds[:-1]):
        while done < len(merges) and heights[done] < threshold - 10.0**-DECIMALS:
            parent[merges[done]] = num_classes + done
            done += 1
        root = np.arange(len(parent))
        # a node's parent has a higher number: from the top down, every root is known in time
        for node in range(num_classes + done - 1, -1, -1):
            if parent[node] != node:
                root[node] = root[parent[node]]
        nodes[:, level] = _numbered_by_first(root[:num_classes])
    return nodes


def _merges(means, linkage):
    """The two nodes of each merge, (C - 1, 2), and its distance, in rising order; node C + i is
    what merge i makes."""
    if len(means) == 1:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    from scipy.cluster import hierarchy

    # Half of the distances, in float64, as SciPy takes them: 512 MB for 11,318 classes; "average"
    # makes one copy.
    tree = hierarchy.linkage(_condensed_distances(means), linkage)
    return tree[:, :2].astype(np.int64), tree[:, 2]


def _condensed_distances(means):
    num_classes = len(means)
    condensed = np.empty(num_classes * (num_classes - 1) // 2)
    end = 0
    for start in range(0, num_classes, BLOCK):
        block = rounded_distances(means[start : start + BLOCK], means[start:])
        for row, distances in enumerate(block, 1):
            begin, end = end, end + len(distances) - row
            condensed[begin:end] = distances[row:]
    return condensed


def _numbered_by_first(roots):
    _, first, index = np.unique(roots, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[index]


def checked_levels(levels: int, linkage: str) -> int:
    """The levels as int, once they and the linkage are known to be usable for a tree.

    Raises:
        ValueError: levels that are no whole number of at least 1, unknown linkage.
    """
    if linkage not in LINKAGES:
        raise ValueError(
            f"Invalid value for argument `linkage`. Expected one of {LINKAGES}. "
            f"Received: linkage={linkage!r}"
        )
    return whole_number("levels", levels)


def _checked(embeddings, labels):
    embeddings = embeddings if hasattr(embeddings, "shape") else np.asarray(embeddings)
    labels = class_ids(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "Expected embeddings of shape (N, dimension) and N labels. Received: "
            f"shapes {tuple(embeddings.shape)} and {labels.shape}"
        )
    return embeddings, labels
