"""Slow, literal, float64: what Recall@K means, written without any of the library's ideas."""

import numpy as np


def unit_rows(embeddings):
    embeddings = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(norms > 0, norms, 1)


def ranked_items(query, items, relevant):
    """Order of the items, most similar first; of equal ones those of another class first."""
    similarity = np.round(items @ query, 9)
    return np.lexsort((relevant, -similarity))


def recall_at_k_oracle(embeddings, labels, ks, gallery_embeddings=None, gallery_labels=None):
    """Recall@K of each K, and the number of skipped queries, by sorting all items per query."""
    queries, labels = unit_rows(embeddings), np.asarray(labels).reshape(-1)
    same_set = gallery_embeddings is None
    gallery = queries if same_set else unit_rows(gallery_embeddings)
    gallery_labels = labels if same_set else np.asarray(gallery_labels).reshape(-1)
    hits, scored = dict.fromkeys(ks, 0), 0
    for i, query in enumerate(queries):
        others = np.arange(len(gallery)) != i if same_set else np.ones(len(gallery), bool)
        relevant = gallery_labels[others] == labels[i]
        if not relevant.any():
            continue
        scored += 1
        found = relevant[ranked_items(query, gallery[others], relevant)]
        for k in ks:
            hits[k] += bool(found[:k].any())
    return {k: hits[k] / scored for k in ks}, len(queries) - scored
