"""Wrong labels and outlier images, made on purpose, for measuring how a training bears them."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from keras_ms.arguments import class_ids, real_number
from keras_ms.data.image_list import ImageList

KINDS = ("symmetric", "pairs")


class NoisyLabels(NamedTuple):
    """Labels, some of them wrong.

    Attributes:
        labels: int64 (N,).
        corrupted: bool (N,), True where the label is not the given one.
    """

    labels: np.ndarray
    corrupted: np.ndarray


class MixedImages(NamedTuple):
    """Images with outliers among them.

    Attributes:
        images: `ImageList`.
        outlier: bool (N,), True for images that are of none of the classes.
    """

    images: ImageList
    outlier: np.ndarray


def corrupt_labels(
    labels: np.ndarray,
    fraction: float,
    kind: str = "symmetric",
    *,
    similarity: np.ndarray | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Gives a share of the images of each class the label of another class.

    - "symmetric": any other class, each as likely;
    - "pairs": always the same one, the class it is most easily confused with. This is the harder
      noise: the wrong images of a class look alike, and near 0.5 they are as many as the right.

    Args:
        labels: integers (N,).
        fraction: share of each class, from 0 to 1, rounded to whole images.
        kind: "symmetric" or "pairs". Defaults to "symmetric".
        similarity: for "pairs": (C, C), how alike two of the C different classes are, in the order
            of `np.unique(labels)`, such as `class_similarity(features, labels)`. The diagonal is
            not read. Defaults to None: each class is confused with the next one.
        seed: of which images, and of their labels.

    Returns:
        `NoisyLabels`.

    Raises:
        ValueError: labels that are no integers, fewer than 2 classes, a fraction out of range,
            an unknown kind, or similarities of another shape or for "symmetric".

    Example:

    >>> noisy = corrupt_labels(np.arange(20) // 10, 0.3)
    >>> int(noisy.corrupted.sum())
    6
    """
    labels = class_ids(labels)
    if kind not in KINDS:
        raise ValueError(f"Expected `kind` as one of {KINDS}. Received: {kind!r}")
    fraction = real_number("fraction", fraction, least=0, most=1)
    classes, where = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"Expected labels of at least 2 classes. Received: {len(classes)}")
    confused = _confused_with(similarity, kind, len(classes))
    rng = np.random.default_rng(seed)
    noisy = where.copy()
    for label in range(len(classes)):
        rows = np.flatnonzero(where == label)
        rows = rng.permutation(rows)[: round(fraction * len(rows))]
        # 1 to C - 1 places on is every class but its own
        others = (label + rng.integers(1, len(classes), len(rows))) % len(classes)
        noisy[rows] = others if kind == "symmetric" else confused[label]
    return NoisyLabels(classes[noisy].astype(np.int64), noisy != where)


def class_similarity(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cosine between the mean features of each two classes, float64 (C, C).

    Args:
        features: (N, dimension).
        labels: integers (N,).

    Returns:
        Similarities in the order of `np.unique(labels)`.
    """
    features, (classes, where) = np.asarray(features), np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, where, features)
    # a sum points where the mean does; a zero mean is like nothing
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(float).tiny)
    return sums @ sums.T


def mix_in_outliers(
    images: ImageList, others: ImageList, fraction: float, *, seed: int = 0
) -> MixedImages:
    """Adds images of another set, each under a class of this one.

    Args:
        images: `ImageList`.
        others: `ImageList` of the other set; in memory if `images` is, and of their shape.
        fraction: share of outliers in the mixed list, from 0 to below 1.
        seed: of which images are drawn, each at most once, and of their classes: as likely as
            the class's images are many, so that all are mixed alike.

    Returns:
        `MixedImages`: the images of `images`, then the outliers, in the split of their class.

    Raises:
        ValueError: a fraction out of range, too few other images, or files with images in memory.

    Example:

    >>> mixed = mix_in_outliers(groceries, birds, 0.2)   # doctest: +SKIP
    """
    if (images.images is None) != (others.images is None):
        raise ValueError("Expected both lists to read their images from files, or both in memory")
    drawn, like = outlier_rows(len(images), len(others), fraction, seed=seed)
    columns = {
        "paths": (images.paths, others.paths[drawn]),
        "labels": (images.labels, images.labels[like]),
        "split": (images.split, images.split[like]),
    }
    if images.images is not None and others.images is not None:
        columns["images"] = images.images, others.images[drawn]
    masks = {"is_query": images.is_query, "is_gallery": images.is_gallery}
    columns |= {name: (mask, mask[like]) for name, mask in masks.items() if mask is not None}
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    outlier = np.arange(len(images) + len(drawn)) >= len(images)
    return MixedImages(replace(images, **joined), outlier)


def outlier_rows(
    num_images: int, num_others: int, fraction: float, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """What `mix_in_outliers` draws: for features, say, that stand for images.

    Args:
        num_images: number of images.
        num_others: number of images of the other set.
        fraction, seed: as in `mix_in_outliers`.

    Returns:
        (rows of the other set, for each the row of the image whose class it is given), int64
        (number of outliers,).

    Raises:
        ValueError: a fraction out of range, or too few other images.

    Example:

    >>> [len(rows) for rows in outlier_rows(60, 100, 0.4)]
    [40, 40]
    """
    fraction = real_number("fraction", fraction, least=0, below=1)
    number = round(num_images * fraction / (1 - fraction))
    if number > num_others:
        raise ValueError(
            f"A share of {fraction} outliers takes {number} images. The other set has {num_others}"
        )
    rng = np.random.default_rng(seed)
    return rng.choice(num_others, number, replace=False), rng.choice(num_images, number)


def _confused_with(similarity, kind, classes):
    """For each class the one that it is mistaken for."""
    if similarity is None:
        return (np.arange(classes) + 1) % classes
    if kind != "pairs":
        raise ValueError(f"`similarity` is for kind 'pairs'. Received: kind {kind!r}")
    similarity = np.array(similarity, np.float64)
    if similarity.shape != (classes, classes):
        raise ValueError(
            f"Expected `similarity` of shape ({classes}, {classes}), one row and column for each "
            f"class. Received: shape {similarity.shape}"
        )
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)
