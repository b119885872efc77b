"""Where the head begins when the features under it are pretrained: at their own axes.

A random projection of pretrained features loses neighbours before the first step. Axes computed
from the training images lose little or nothing, and training then starts from what they know.
"""

from typing import Any

import keras
import numpy as np
from scipy.linalg import solve_triangular

from keras_ms.arguments import real_number
from keras_ms.evaluation.embed import embed_batches
from keras_ms.models.embedding import split_embedder

STARTS = ("pca", "whitened")

# Above it, a matrix of features by features takes more than half a gigabyte and a minute.
MOST_FEATURES = 8192

# Share of a multiple of the identity in the scatter within classes. By folds over the training
# classes of eight sets of features, 0.3 and 0.7 were better by 0.4 points at most, and up to 0.7
# and 1.3 points worse.
_SHRINKAGE = 0.5

# Losses of dot products, as N-pair, learn nothing where these are in the hundreds, as along axes
# of pretrained features: their softmax then sees the nearest negative alone. Of 1, 10 and 100, with
# MobileNetV2 on held-out classes of CUB-200 2010, 10 was best (docs/fine_tuning.md).
UNNORMALIZED_SQUARED_NORM = 10.0

# Rows that are held in float64 at a time.
_PART = 4096


def initialize_head(
    embedder: keras.Model,
    images: Any,
    labels: Any = None,
    *,
    start: str = "pca",
    squared_norm: float | None = None,
) -> None:
    """Begins the head of an embedder at the axes of its pooled features, in place.

    - "pca": the principal axes of the features, their mean subtracted through the bias. Without
      training, the embedding then ranks as the centred features do, up to the variance that is left
      out.
    - "whitened": directions in which images of one class vary are shrunk, then principal axes. Of a
      similarity that is to tell classes apart, such directions are the noise (Mikolajczyk, Matas,
      Improving Descriptors for Fast Tree Matching by Optimal Linear Projection, ICCV 2007; as a
      head, Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval, TPAMI 2019). It needs the
      labels, and classes of several images.

    Args:
        embedder: a model of `build_embedder`, or the head of `split_embedder`.
        images: what the axes are computed from, training images only: batches (images, labels), as
            of `evaluation_batches`, or their pooled features, float (N, channels).
        labels: class ids (N,), with features. Defaults to None: not needed for "pca".
        start: "pca" or "whitened". Defaults to "pca".
        squared_norm: mean squared norm of the embeddings of `images` to begin with, for a loss
            that does not normalise them, such as `NPairLoss`; 10 suits that. Defaults to None:
            that of the axes, which such a loss cannot learn from where it is in the hundreds.

    Raises:
        ValueError: an unknown start, features of another size than the head takes, fewer features
            than the embedding has dimensions, labels missing or without a class of two images, NaN
            or infinity, a `squared_norm` that is not above 0.

    Example:
        >>> embedder = build_embedder("small", image_size=32, embedding_size=8)
        >>> features = np.random.default_rng(0).normal(size=(50, 128))
        >>> initialize_head(embedder, features)
    """
    if squared_norm is not None:
        squared_norm = real_number("squared_norm", squared_norm, above=0, reason="or None")
    if not hasattr(images, "shape"):
        features_model, _ = split_embedder(embedder)
        of_batches = []

        def batches():
            for batch, ids in images:
                of_batches.append(np.asarray(ids))
                yield batch

        features = embed_batches(features_model.predict_on_batch, batches())
        labels = np.concatenate(of_batches)
    else:
        features = np.asarray(images)
    layer = embedder.get_layer("embedding")
    channels, size = layer.kernel.shape
    if features.ndim != 2 or features.shape[1] != channels:
        raise ValueError(
            f"Expected pooled features of shape (N, {channels}), as the head takes them. Received "
            f"shape: {features.shape}"
        )
    kernel, bias = head_axes(features, labels, size, start)
    if squared_norm is not None:
        kernel, bias = with_squared_norm(kernel, bias, features, squared_norm)
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)


def head_axes(
    features: np.ndarray, labels: np.ndarray | None, size: int, start: str
) -> tuple[np.ndarray, np.ndarray]:
    """`(kernel, bias)` of a head that begins at the axes of its features; see `initialize_head`.

    Args:
        features: float (N, channels).
        labels: class ids (N,); None for "pca".
        size: axes to take, at most `channels`.
        start: one of `STARTS`.

    Returns:
        float32 (channels, size), whose columns have norm 1 in the mean, as those of an orthogonal
        start, so that the same learning rate suits; and float32 (size,).
    """
    if start not in STARTS:
        raise ValueError(
            f"Invalid value for `start`. Expected one of {STARTS}. Received: {start!r}"
        )
    count, channels = features.shape
    if size > channels:
        raise ValueError(
            f"A head that begins at the axes of its features has at most as many dimensions as "
            f"there are features, {channels}. Received: embedding_size={size}. Lower it, or take "
            "head_initializer='orthogonal'"
        )
    if channels > MOST_FEATURES:
        raise ValueError(
            f"The axes of {channels:,} features are too many to compute (at most "
            f"{MOST_FEATURES:,}): take head_initializer='orthogonal', or another pooling"
        )
    if count < 2 or not all(np.isfinite(part).all() for part in _parts(features)):
        raise ValueError(f"Expected at least 2 rows of finite features. Received: {count} rows")
    mean = np.mean(features, axis=0, dtype=np.float64)
    total = _scatter(features, mean)
    if start == "pca":
        kernel = _axes(total, size)
    else:
        root = _root(_within_classes(features, labels, mean, total), np.trace(total))
        # x → root⁻¹ x makes the scatter within classes round; the axes of all are those of the rest
        half = solve_triangular(root, total, lower=True)
        kernel = _axes(solve_triangular(root, half.T, lower=True), size)
        kernel = solve_triangular(root, kernel, lower=True, trans=1)  # by its transpose
        kernel *= np.sqrt(size / np.sum(kernel**2))
    return kernel.astype("float32"), (-mean @ kernel).astype("float32")


def with_squared_norm(
    kernel: np.ndarray, bias: np.ndarray, features: np.ndarray, squared_norm: float
) -> tuple[np.ndarray, np.ndarray]:
    """The same head but for a factor, with which the embeddings have this mean squared norm.

    Args:
        kernel, bias: of the head, (channels, size) and (size,).
        features: float (N, channels).
        squared_norm: above 0. Features of which every embedding is 0 leave the head as it is.
    """
    squares = sum(
        np.square(part.astype(np.float64) @ kernel + bias).sum() for part in _parts(features)
    )
    if not squares:
        return kernel, bias
    factor = np.float32(np.sqrt(squared_norm * len(features) / squares))
    return kernel * factor, bias * factor


def usable_starts(features: np.ndarray, labels: np.ndarray, size: int) -> tuple[str, ...]:
    """Those of `STARTS` that the features allow, best first; none where their axes are too few.

    Args:
        features, labels: as in `head_axes`.
        size: dimensions of the embedding.

    Returns:
        Tuple: "whitened" is among them if the images of a class differ.
    """
    if size > features.shape[1] or features.shape[1] > MOST_FEATURES:
        return ()
    mean = np.mean(features, axis=0, dtype=np.float64)
    total = sum(np.square(part - mean).sum() for part in _parts(features)) / len(features)
    means = _class_means(features, labels, mean)
    differ = _is_variance(total - np.square(means).sum() / len(features), total)
    return ("whitened", "pca") if differ else ("pca",)


def _parts(features):
    return (features[first : first + _PART] for first in range(0, len(features), _PART))


def _scatter(features, mean):
    """Mean outer product of the centred rows, float64 (channels, channels)."""
    scatter = np.zeros((len(mean), len(mean)))
    for part in _parts(features):
        centred = part.astype(np.float64) - mean
        scatter += centred.T @ centred
    return scatter / len(features)


def _within_classes(features, labels, mean, total):
    """Scatter about the classes' own means: the total less that of the means."""
    if labels is None or len(labels) != len(features):
        given = "none" if labels is None else f"{len(labels)} labels"
        raise ValueError(
            f"start='whitened' needs the class of each of the {len(features)} images. Received: "
            f"{given}"
        )
    if np.unique(np.reshape(labels, -1), return_counts=True)[1].max() < 2:
        raise ValueError(
            "start='whitened' needs classes of at least 2 images, to see how images of one class "
            "differ. Received classes of one image each: take start='pca'"
        )
    means = _class_means(features, labels, mean)
    return total - means.T @ means / len(features)


def _class_means(features, labels, mean):
    """The classes' means about that of all, float64, each times the root of its images' number."""
    classes, counts = np.unique(np.reshape(labels, -1), return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((len(counts), len(mean)))
    for start, part in zip(range(0, len(features), _PART), _parts(features)):
        np.add.at(sums, classes[start : start + _PART], part.astype(np.float64) - mean)
    return sums / np.sqrt(counts)[:, None]


def _is_variance(within, total):
    """Whether images of one class differ: of equal images rounding leaves some variance."""
    return within > 1e-10 * total


def _root(within, total_variance):
    """The lower triangular root of a scatter that is drawn towards a multiple of the identity."""
    variance = np.trace(within)
    if not _is_variance(variance, total_variance):
        raise ValueError(
            "start='whitened' needs images of one class that differ in their features. Received "
            "classes of equal images: take start='pca'"
        )
    shrunk = (1 - _SHRINKAGE) * within
    shrunk[np.diag_indices_from(shrunk)] += _SHRINKAGE * variance / len(within)
    return np.linalg.cholesky(shrunk)


def _axes(scatter, size):
    """The axes of largest variance, as columns."""
    return np.linalg.eigh(scatter)[1][:, ::-1][:, :size]
