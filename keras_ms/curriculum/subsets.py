"""Curriculum of noisy labels: each class divided by density, from clean to highly noisy images."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np

from keras_ms.arguments import class_ids, whole_number
from keras_ms.curriculum.density import check_density_options, class_density, split_values
from keras_ms.terminal.cores import num_cores
from keras_ms.terminal.progress import Progress

METHODS = ("k-means", "distance")
# each works on some 100 MB of its own
_MOST_WORKERS = 8
# the loss counts images of the first subset whole and others half, as in the paper
STAGE_WEIGHTS = (1.0, 0.5, 0.5)


class CurriculumSubsets(NamedTuple):
    """Which subset of its class each of N images belongs to, and why.

    Attributes:
        subset: int8 (N,), 0 for clean, 1 for noisy, 2 for highly noisy images.
        density: float64 (N,), ρ: among the images of its class, how many are near.
        delta: float64 (N,), δ: distance to the nearest image of its class with a higher density.
        centre: bool (N,), True for the densest image of each class.
    """

    subset: np.ndarray
    density: np.ndarray
    delta: np.ndarray
    centre: np.ndarray


class Stage(NamedTuple):
    """What one stage of a curriculum trains on.

    Attributes:
        rows: int64 (M,), rows of the images, in order.
        weights: float32 (M,), how much the loss of each counts.
    """

    rows: np.ndarray
    weights: np.ndarray


def curriculum_subsets(
    features: np.ndarray,
    labels: np.ndarray,
    subsets: int = 3,  # the published number: better than 2 there
    *,
    method: str = "k-means",  # as in the official code; the paper clusters distances to the centre
    density: str = "count",
    distance_quantile: float = 0.6,
    max_dimension: int | None = 256,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CurriculumSubsets:
    """Divides the images of each class into clean, noisy and highly noisy ones by their density.

    Images with a right label look alike, so they lie close together in the feature space of a
    network; wrong ones are of many kinds and lie apart. Train on the dense images first, then add
    the others (`curriculum_stages`, `keras_ms.curriculum.batches`).

    Reference: Guo et al.: CurriculumNet: Weakly Supervised Learning from Large-Scale Web Images,
    ECCV 2018. Definitions of ρ and δ: `keras_ms.curriculum.density.class_density`.

    - "k-means" divides the densities of a class with the least squared distance to the means of
      the subsets, exactly; subset 0 has the highest densities;
    - "distance" divides the distances of the other images to the densest one likewise; subset 0 is
      the nearest, with the densest image itself. Its own distance, 0, is left out: in many
      dimensions the others are all about equally far, and it would be a subset alone.
    - A class has no more subsets than different densities (or distances): where all images are
      equal, or there is one, all are clean.

    Nothing is drawn: the same features give the same subsets. Memory grows with the features of
    the largest classes, not with their squares: n² distances are made in blocks, three to six
    times.

    Args:
        features: (N, dimension), of a network that has not learned the wrong labels by heart: one
            trained on something else, or briefly on all of these images. A memory-mapped array is
            read a class at a time.
        labels: integers (N,), the labels as they are, wrong ones included.
        subsets: at most how many for each class, 1 to 127. Defaults to 3.
        method: "k-means" or "distance". Defaults to "k-means".
        density: "count", of images nearer than the cut-off distance, or "gaussian", a smooth sum.
            Defaults to "count".
        distance_quantile: share of a class's distances that are below the cut-off, between 0 and 1.
            Defaults to 0.6.
        max_dimension: features of more dimensions are reduced to it by a principal component
            analysis of each class (with more images than that). None: never. Defaults to 256.
        workers: classes worked on at the same time, by threads. Defaults to None: one for each
            processor core, at most 8.
        progress: function called with (classes done, classes in all) after each class. Defaults to
            None.

    Returns:
        `CurriculumSubsets`.

    Raises:
        ValueError: features or labels of another shape, NaN or infinity in the features, an
            unknown method or density, or a number out of its range.

    Example:

    >>> features = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5])[:, None]
    >>> curriculum_subsets(features, np.zeros(11, int)).subset
    array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2], dtype=int8)
    """
    features, labels = _checked_arrays(features, labels)
    check_curriculum_options(
        subsets=subsets,
        method=method,
        density=density,
        distance_quantile=distance_quantile,
        max_dimension=max_dimension,
        workers=workers,
    )
    subsets = int(subsets)
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    members = np.split(order, starts[1:])
    divided = CurriculumSubsets(
        np.zeros(len(labels), np.int8),
        np.zeros(len(labels)),
        np.zeros(len(labels)),
        np.zeros(len(labels), bool),
    )

    def divide(rows):
        part = np.asarray(features[rows])
        if not np.isfinite(part).all():
            row = rows[np.argmin(np.isfinite(part).all(axis=1))]
            raise ValueError(f"Expected finite features. Row {row} has NaN or infinity")
        one = class_density(
            part, density, distance_quantile=distance_quantile, max_dimension=max_dimension
        )
        divided.subset[rows] = _subset(one, subsets, method)
        divided.density[rows], divided.delta[rows] = one.density, one.delta
        divided.centre[rows[one.centre]] = True

    number = min(int(workers or 0) or min(num_cores(), _MOST_WORKERS), len(classes))
    with _blas_threads(max(1, num_cores() // number)), ThreadPoolExecutor(number) as pool:
        # the largest first: no long one is left over for the end
        tasks = [pool.submit(divide, rows) for rows in sorted(members, key=len, reverse=True)]
        try:
            for done, task in enumerate(as_completed(tasks), 1):
                task.result()
                if progress is not None:
                    progress(done, len(tasks))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return divided


def check_curriculum_options(
    *,
    subsets: int,
    method: str,
    density: str,
    distance_quantile: float,
    max_dimension: int | None,
    workers: int | None,
) -> None:
    """Checks the options of `curriculum_subsets`, before the features are made, say.

    Raises:
        ValueError: an unknown method or density, or a number out of its range.
    """
    if method not in METHODS:
        raise ValueError(f"Expected `method` as one of {METHODS}. Received: {method!r}")
    whole_number("subsets", subsets, most=127)  # they are int8
    check_density_options(density, distance_quantile, max_dimension)
    if workers is not None:
        whole_number("workers", workers)


def _blas_threads(number):
    """Limits the threads of each matrix product, where scikit-learn has brought what it takes.

    Products that share their cores with other workers wait for each other's threads: on a busy
    machine classes of 30 images took ten times as long.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(number, "blas")


def _subset(one, subsets, method):
    """int64 (n,), the subsets of one class."""
    if method == "k-means":
        groups = split_values(one.density, subsets)
        return groups.max() - groups
    subset = np.zeros(len(one.density), np.int64)
    others = np.arange(len(subset)) != one.centre
    if others.any():
        # rounded, so that images equally far from the centre stay together
        farthest = one.to_centre.max() or 1.0
        subset[others] = split_values(np.round(one.to_centre[others] / farthest, 9), subsets)
    return subset


def curriculum_stages(
    subset: np.ndarray, stages: int | None = None, weights: Sequence[float] = STAGE_WEIGHTS
) -> list[Stage]:
    """The images and their weights in each stage of a training: stage k has the subsets 0 to k.

    Args:
        subset: integers (N,), of `curriculum_subsets`.
        stages: number of stages; images of subsets from `stages` on are never trained on. Defaults
            to None: one for each subset.
        weights: by how much the loss of an image counts, for each subset in turn; subsets after
            the last one given weigh as it does. Defaults to 1, 0.5, 0.5, as published.

    Returns:
        List of `Stage`.

    Raises:
        ValueError: subsets that are not whole numbers from 0 on, none of subset 0, no stage, or
            weights that are negative, not finite or none.

    Example:

    >>> curriculum_stages(np.array([0, 2, 1]))[1]
    Stage(rows=array([0, 2]), weights=array([1. , 0.5], dtype=float32))
    """
    subset = np.asarray(subset)
    if subset.ndim != 1 or subset.dtype.kind not in "iu" or not len(subset) or subset.min() < 0:
        raise ValueError(
            "Expected `subset` as whole numbers from 0 on, shape (N,), of curriculum_subsets. "
            f"Received: {subset.dtype} of shape {subset.shape}"
            + (f", least {subset.min()}" if subset.size else "")
        )
    if not (subset == 0).any():
        raise ValueError("Expected images of subset 0, which the first stage trains on. None is")
    number = int(subset.max()) + 1 if stages is None else whole_number("stages", stages)
    by_subset = np.asarray(weights, np.float32)
    if (
        by_subset.ndim != 1
        or not by_subset.size
        or not (np.isfinite(by_subset) & (by_subset >= 0)).all()
    ):
        raise ValueError(
            f"Expected `weights` as numbers of at least 0, one for each subset. Got: {weights}"
        )
    each = by_subset[np.minimum(subset, len(by_subset) - 1)]
    chosen = (np.flatnonzero(subset <= stage) for stage in range(number))
    return [Stage(rows, each[rows]) for rows in chosen]


def _checked_arrays(features, labels):
    features = features if hasattr(features, "dtype") else np.asarray(features)
    labels = class_ids(labels)
    if features.ndim != 2 or len(features) != len(labels) or not features.size:
        raise ValueError(
            f"Expected features of shape (N, dimension), a row for each of {len(labels)} labels. "
            f"Received: shape {features.shape}"
        )
    if features.dtype.kind not in "fiu":
        raise ValueError(f"Expected features as numbers. Received: dtype {features.dtype}")
    return features, labels
