"""A flat map of an embedding: images that the embedder finds alike lie near each other."""

from typing import Any

import numpy as np

from keras_ms.evaluation.inputs import unit_rows

# what t-SNE's authors reduce to first: it suppresses noise and makes the search for neighbours fast
_PCA_DIMENSIONS = 50
# scikit-learn's default, in the middle of the 5 to 50 that t-SNE's authors advise
_PERPLEXITY = 30
# fewer images have too few neighbours for t-SNE to arrange
_FEWEST_FOR_TSNE = 10


def check_map_library() -> None:
    """Raises ImportError where scikit-learn is missing, before any image is embedded."""
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'The map of the report needs scikit-learn: pip install -e ".[evaluation]"'
        ) from error


def map_embeddings(embeddings: Any, seed: int = 0) -> np.ndarray:
    """Places embeddings on a square by PCA, then t-SNE (van der Maaten & Hinton, 2008).

    Distances within a cluster and who lies beside whom mean something; the distances between far
    clusters and their sizes do not.

    Args:
        embeddings: float (N, dimension), N at least 1; compared by their cosine.
        seed: integer; equal seeds and versions of scikit-learn give equal maps.

    Returns:
        float32 (N, 2), each coordinate from 0 to 1. Of fewer than 10 images, PCA alone; equal
        embeddings all lie in the middle.

    Raises:
        ImportError: scikit-learn is missing.

    Example:

    >>> map_embeddings([[1.0, 0.0], [0.0, 1.0]]).shape
    (2, 2)
    """
    check_map_library()
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = unit_rows(np.asarray(embeddings))
    if _are_equal(rows):
        return np.full((len(rows), 2), 0.5, np.float32)
    dimensions = min(_PCA_DIMENSIONS, *rows.shape)
    flat = PCA(dimensions, random_state=seed).fit_transform(rows)
    if len(rows) >= _FEWEST_FOR_TSNE and dimensions >= 2:
        perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        flat = tsne.fit_transform(flat.astype(np.float32))
    places = np.zeros((len(rows), 2), np.float32)
    places[:, : min(2, flat.shape[1])] = flat[:, :2]
    low, high = places.min(axis=0), places.max(axis=0)
    # each axis fills the square: t-SNE's axes have no unit
    return (places - low) / np.where(high > low, high - low, 1)


def _are_equal(rows):
    """Whether unit rows differ by no more than rounding; t-SNE would arrange that as it does data.

    Rounding moves a unit row by about one unit in the last place of float32, and the sum of
    `dimension` squares in its norm by about the root of that many; both are relative to the row's
    length, 1, not to its coordinates, which are smaller the more of them there are. Measured over
    rows of one direction and lengths from 1e-8 to 1e8: at most 2 units at 2 dimensions, 5 at 8,192.
    """
    unit = np.finfo(np.float32).eps
    # from the first row: of a mean over thousands of rows, rounding alone is larger
    distances = np.linalg.norm((rows - rows[0]).astype(np.float64), axis=1)
    return distances.max() <= unit * (4 + np.sqrt(rows.shape[1]) / 2)
