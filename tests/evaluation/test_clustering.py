import builtins
import sys

import numpy as np
import pytest
from oracles_retrieval import cluster_scores_oracle

from keras_ms.evaluation.clustering import cluster_embeddings, cluster_scores

pytest.importorskip("sklearn")


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_the_oracle(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=60)
    clusters = np.where(rng.random(60) < 0.2 * seed, labels, rng.integers(1 + 3 * seed, size=60))
    nmi, f1 = cluster_scores_oracle(labels, clusters)
    scores = cluster_scores(labels, clusters)
    assert scores.nmi == pytest.approx(nmi, abs=1e-12)
    assert scores.f1 == pytest.approx(f1, abs=1e-12)
    assert scores.num_clusters == len(np.unique(clusters))


def test_perfect_and_random_clusters():
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 20
    assert cluster_scores(labels, (labels + 3) % 20)[:3] == pytest.approx((1, 1, 1))
    scores = cluster_scores(labels, rng.permutation(labels))
    assert abs(scores.ami) < 0.05 and scores.f1 < 0.1
    assert scores.nmi > 0.1  # what AMI takes off


def test_lonely_images():
    assert cluster_scores([1, 2, 3], [3, 2, 1]).f1 == 1.0
    assert cluster_scores([1, 2, 3], [1, 1, 1]).f1 == 0.0


def test_k_means_finds_separated_classes_and_repeats_itself():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 10)
    embeddings = 5 * np.eye(6)[labels] + 0.1 * rng.standard_normal((60, 6))
    # the length of a row says nothing
    embeddings *= rng.uniform(1, 100, (60, 1))
    clusters = cluster_embeddings(embeddings, 6, seed=3)
    assert cluster_scores(labels, clusters).nmi == 1.0
    assert cluster_embeddings(embeddings, 6, seed=3).tolist() == clusters.tolist()


@pytest.mark.parametrize("dimension", [8, 64, 512, 513])
@pytest.mark.parametrize("num_rows", [50, 777])
def test_collapsed_embeddings_score_as_one_cluster(dimension, num_rows, recwarn):
    labels = np.arange(num_rows) % 10
    row = np.random.default_rng(num_rows).standard_normal(dimension)
    clusters = cluster_embeddings(np.tile(row, (num_rows, 1)), 10)
    scores = cluster_scores(labels, clusters)
    assert scores.num_clusters == 1 and not recwarn
    assert (scores.nmi, scores.ami) == (0.0, 0.0)
    # one cluster finds every pair; of all pairs this share is of one class
    share = np.mean((labels[:, None] == labels)[np.triu_indices(num_rows, 1)])
    assert scores.f1 == pytest.approx(2 * share / (1 + share))


def test_bad_input_is_explained():
    with pytest.raises(ValueError, match=r"row of `clusters`.*Received: int64 of shape \(3,\)"):
        cluster_scores([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="integer class ids in `clusters`"):
        cluster_scores([1, 2], [1.0, 2.0])
    with pytest.raises(ValueError, match="from 1 to the number of rows, 3. Received: 4"):
        cluster_embeddings(np.eye(3), 4)
    with pytest.raises(ValueError, match="finite"):
        cluster_embeddings([[np.nan, 1.0], [0.0, 1.0]], 1)


def test_a_missing_scikit_learn_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    original = builtins.__import__
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert builtins.__import__ is original
    with pytest.raises(ImportError, match=r'pip install -e "\.\[evaluation\]"'):
        cluster_scores([1, 2], [1, 2])
