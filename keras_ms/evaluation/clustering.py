"""Do clusters of the embeddings match the classes: NMI, AMI and pairwise F1 after k-means."""

import importlib
from typing import NamedTuple

import numpy as np

from keras_ms.arguments import Tensor, class_ids
from keras_ms.evaluation.inputs import checked_embeddings, unit_rows


class ClusterScores(NamedTuple):
    """How well clusters match classes; 1 is perfect.

    Attributes:
        nmi: normalised mutual information, 2 I(C; Y) / (H(C) + H(Y)), 0 to 1. Grows with the
            number of clusters even for random ones: compare it at equal numbers only.
        ami: adjusted mutual information, (I − E I) / ((H(C) + H(Y)) / 2 − E I): 0 on average
            for random clusters of the same sizes.
        f1: harmonic mean of pairwise precision and recall, 2 TP / (2 TP + FP + FN), over all pairs
            of images: a pair is positive if its cluster is the same, true if its class is.
        num_clusters: clusters with at least one image; fewer than asked for where embeddings
            coincide.
    """

    nmi: float
    ami: float
    f1: float
    num_clusters: int


def cluster_scores(labels: Tensor, clusters: Tensor) -> ClusterScores:
    """Scores of given clusters.

    Args:
        labels: class ids, integers (N,) or (N, 1).
        clusters: cluster ids, integers (N,).

    Returns:
        A `ClusterScores`.

    Raises:
        ImportError: scikit-learn, the extra `evaluation`, is missing.
        ValueError: arrays of other types or lengths.

    Example:
        >>> cluster_scores([0, 0, 1, 1], [5, 5, 3, 3])
        ClusterScores(nmi=1.0, ami=1.0, f1=1.0, num_clusters=2)
    """
    metrics = _scikit_learn("metrics")
    clusters = np.asarray(clusters).reshape(-1)
    labels = class_ids(labels, rows=len(clusters), rows_of="clusters")
    clusters = class_ids(clusters, "clusters")
    (_, false_positives), (false_negatives, true_positives) = metrics.cluster.pair_confusion_matrix(
        labels, clusters
    ).tolist()
    wrong = false_positives + false_negatives
    return ClusterScores(
        # rounding may leave -1e-16 or 1 + 1e-16
        nmi=_clipped(metrics.normalized_mutual_info_score(labels, clusters), 0.0),
        ami=_clipped(metrics.adjusted_mutual_info_score(labels, clusters), -1.0),
        # one image to each class and each cluster: no pair to be found, and none was
        f1=2 * true_positives / (2 * true_positives + wrong) if true_positives + wrong else 1.0,
        num_clusters=len(np.unique(clusters)),
    )


def cluster_embeddings(embeddings: Tensor, num_clusters: int, *, seed: int = 0) -> np.ndarray:
    """K-means clusters of the unit rows.

    Args:
        embeddings: float array or tensor (N, dimension), L2-normalised inside.
        num_clusters: how many; the number of test classes by convention.
        seed: of the first centres (k-means++, drawn once: more draws multiply the time, and the
            best of them is chosen by its inertia, not by these scores).

    Returns:
        int64 array (N,). Equal rows share a cluster, so there may be fewer than `num_clusters`.
        Computed in float64: the same seed gives the same clusters on other processors.

    Raises:
        ImportError: scikit-learn, the extra `evaluation`, is missing.
        ValueError: NaN or a wrong shape, or `num_clusters` not in 1..N.
    """
    cluster = _scikit_learn("cluster")
    embeddings = checked_embeddings(embeddings, "embeddings")
    if not 1 <= num_clusters <= len(embeddings):
        raise ValueError(
            f"Expected `num_clusters` from 1 to the number of rows, {len(embeddings)}. "
            f"Received: {num_clusters}"
        )
    # equal rows, as of collapsed embeddings, would be told apart by the rounding of their distances
    # to equal centres: each is clustered once, weighing as many as there are
    rows, copies, counts = np.unique(
        unit_rows(embeddings), axis=0, return_inverse=True, return_counts=True
    )
    # in float32 a processor's rounding would decide which first centres are drawn
    rows = rows.astype(np.float64)
    k_means = cluster.KMeans(min(num_clusters, len(rows)), n_init=1, random_state=seed)
    clusters = k_means.fit_predict(rows, sample_weight=counts)
    return clusters[copies.reshape(-1)].astype(np.int64)


def require_scikit_learn() -> None:
    """Raises ImportError, which says what to install, where scikit-learn is missing."""
    _scikit_learn("cluster")


def _clipped(value, lowest):
    return min(1.0, max(lowest, float(value)))


def _scikit_learn(module):
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError(
            f"NMI, AMI and F1 need scikit-learn, which could not be imported ({error}). "
            'Install it with: pip install -e ".[evaluation]"'
        ) from error
