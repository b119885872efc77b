"""Slow, literal, float64: what Recall@K means, written without any of the library's shortcuts."""

import numpy as np


def unit_rows(embeddings):
    """Rows of norm 1, which are float32 numbers; all that follows is float64."""
    embeddings = np.asarray(embeddings, np.float32).astype(np.float64)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.where(norms > 0, norms, 1)).astype(np.float32).astype(np.float64)


def ranks_oracle(
    embeddings, labels, gallery_embeddings=None, gallery_labels=None, positions=None, tie=1e-6
):
    """Rank of each query's best positive, 0 where nothing is relevant.

    A negative at most `tie` less similar than the best positive is ranked before it.
    """
    queries, labels = unit_rows(embeddings), np.asarray(labels).reshape(-1)
    if gallery_embeddings is None:
        gallery, gallery_labels, positions = queries, labels, np.arange(len(queries))
    else:
        gallery, gallery_labels = unit_rows(gallery_embeddings), np.asarray(gallery_labels)
        positions = np.full(len(queries), -1) if positions is None else positions
    ranks = []
    for query, label, position in zip(queries, labels, positions):
        others = np.arange(len(gallery)) != position
        similarity, relevant = gallery[others] @ query, gallery_labels[others] == label
        if not relevant.any():
            ranks.append(0)
            continue
        best = similarity[relevant].max()
        ranks.append(1 + int(np.sum(similarity[~relevant] >= best - tie)))
    return np.array(ranks)


def recall_at_k_oracle(embeddings, labels, ks, gallery_embeddings=None, gallery_labels=None):
    """Recall@K of each K, and the number of skipped queries."""
    ranks = ranks_oracle(embeddings, labels, gallery_embeddings, gallery_labels)
    scored = ranks[ranks > 0]
    return {k: np.sum(scored <= k) / len(scored) for k in ks}, int(np.sum(ranks == 0))


def precision_at_r_oracle(
    embeddings, labels, gallery_embeddings=None, gallery_labels=None, positions=None, tie=1e-6
):
    """R-Precision and average precision at R of each query, NaN where nothing is relevant.

    A negative at most `tie` less similar than a positive is ranked before it.
    """
    queries, labels = unit_rows(embeddings), np.asarray(labels).reshape(-1)
    if gallery_embeddings is None:
        gallery, gallery_labels, positions = queries, labels, np.arange(len(queries))
    else:
        gallery, gallery_labels = unit_rows(gallery_embeddings), np.asarray(gallery_labels)
        positions = np.full(len(queries), -1) if positions is None else positions
    r_precisions, average_precisions = [], []
    for query, label, position in zip(queries, labels, positions):
        others = np.arange(len(gallery)) != position
        relevant = gallery_labels[others] == label
        total = int(relevant.sum())
        if not total:
            r_precisions.append(np.nan)
            average_precisions.append(np.nan)
            continue
        similarity = gallery[others] @ query
        # positives move back by the tie, so that sorting puts such negatives before them
        order = np.lexsort((relevant, -(similarity - tie * relevant)))
        found = relevant[order]
        hits, precisions = 0, 0.0
        for place in range(1, total + 1):
            if found[place - 1]:
                hits += 1
                precisions += hits / place
        r_precisions.append(hits / total)
        average_precisions.append(precisions / total)
    return np.array(r_precisions), np.array(average_precisions)


def cluster_scores_oracle(labels, clusters):
    """NMI and pairwise F1 by their definitions, pair by pair."""
    labels, clusters = np.asarray(labels), np.asarray(clusters)
    count = len(labels)

    def entropy(ids):
        shares = [np.mean(ids == value) for value in set(ids.tolist())]
        return -sum(share * np.log(share) for share in shares)

    information = 0.0
    for label in set(labels.tolist()):
        for cluster in set(clusters.tolist()):
            both = np.mean((labels == label) & (clusters == cluster))
            if both:
                apart = np.mean(labels == label) * np.mean(clusters == cluster)
                information += both * np.log(both / apart)
    total = entropy(labels) + entropy(clusters)
    true_positives = false_positives = false_negatives = 0
    for i in range(count):
        for j in range(i + 1, count):
            together, same = clusters[i] == clusters[j], labels[i] == labels[j]
            true_positives += together and same
            false_positives += together and not same
            false_negatives += same and not together
    f1 = 2 * true_positives / (2 * true_positives + false_positives + false_negatives)
    return (2 * information / total if total else 1.0), f1
