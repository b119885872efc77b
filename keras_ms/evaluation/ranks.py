"""Rank of every query's best positive, from one pass over the similarities, tile by tile.

Rows are sorted by class first: positives then lie next to each other, and only their products are
needed to find the best one. Because similarity is symmetric, each tile of a set against itself
counts for its rows and for its columns: half of the products are never computed, and no more than
one tile is held at a time.
"""

import keras
import numpy as np

from keras_ms.arguments import Tensor, whole_number
from keras_ms.evaluation import device_ranks, processor_ranks
from keras_ms.evaluation.inputs import retrieval_sets
from keras_ms.terminal.progress import Progress

# Rows of one tile: products of 1024 rows run at nearly full speed, and the largest tile, with twice
# as many columns, takes 8 MB.
BLOCK_SIZE = 1024


def best_positive_ranks(
    embeddings: Tensor,
    labels: Tensor,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    query_positions: Tensor | None = None,
    block_size: int = BLOCK_SIZE,
    progress: Progress | None = None,
) -> np.ndarray:
    """Rank of each query's most similar item of its own class: what Recall@K is counted from.

    Args:
        embeddings: float array or tensor of any backend, shape (num_queries, dimension);
            L2-normalised inside, and rounded to float32.
        labels: class ids, any integer dtype, shape (num_queries,) or (num_queries, 1).
        gallery_embeddings: rows to search, shape (num_items, dimension). Defaults to None: each
            query searches all other queries.
        gallery_labels: their class ids.
        query_positions: where each query's own image stands in the gallery, -1 if it is not in
            it, integers of shape (num_queries,). It is left out, by index. Defaults to None: no
            query is in the gallery.
        block_size: most rows of one tile of similarities; it has up to twice as many columns.
        progress: called with (queries done, queries in all) now and then.

    Returns:
        int64 array, shape (num_queries,): 1 + the number of items of other classes at least as
        similar as the best positive (to within 1e-6); 0 where no item has the query's class.

    Raises:
        ValueError: as `keras_ms.recall_at_k`.

    Example:
        >>> best_positive_ranks([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [7, 7, 8])
        array([1, 1, 0])
    """
    block_size = whole_number("block_size", block_size)
    queries, gallery = retrieval_sets(
        embeddings, labels, gallery_embeddings, gallery_labels, query_positions
    )
    ranks_module = device_ranks if on_accelerator() else processor_ranks
    count = len(queries.rows)

    def tell(share: float) -> None:
        if progress:
            progress(round(share * count), count)

    sorted_ranks = ranks_module.sorted_ranks(queries, gallery, block_size, tell)
    ranks = np.empty(count, np.int64)
    ranks[queries.original_positions] = sorted_ranks
    return ranks


def on_accelerator() -> bool:
    """Whether Keras's backend computes on something else than the processor, such as a GPU."""
    backend = keras.backend.backend()
    # keras.distribution knows the devices of TensorFlow and JAX only
    if backend == "torch":
        import torch

        return torch.cuda.is_available()
    if backend not in ("tensorflow", "jax"):
        return False
    devices = keras.distribution.list_devices()
    return any(not device.startswith("cpu") for device in devices)
