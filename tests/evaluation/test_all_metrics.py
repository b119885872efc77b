import numpy as np
import pytest
from oracles_retrieval import precision_at_r_oracle, recall_at_k_oracle
from peers import frozen_by

from keras_ms.evaluation import METRICS, evaluate_embeddings
from keras_ms.evaluation.class_bootstrap import class_bootstrap
from keras_ms.evaluation.clustering import cluster_scores

FROZEN = frozen_by("metric_values")
RETRIEVAL_NAMES = {
    "recall@1": "precision_at_1",  # of the best place, the two are the same
    "r_precision": "r_precision",
    "map_at_r": "mean_average_precision_at_r",
}


def clustered(num_rows=300, num_classes=40, dimension=16, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_rows)
    centres = rng.standard_normal((num_classes, dimension))
    return 0.8 * centres[labels] + rng.standard_normal((num_rows, dimension)), labels


@pytest.mark.parametrize("case", ["few", "many", "far"])
def test_equals_pytorch_metric_learning(case):
    embeddings, labels = FROZEN[f"{case}/embeddings"], FROZEN[f"{case}/labels"]
    found = evaluate_embeddings(embeddings, labels, ks=(1,), num_resamples=0)
    for name, peer in RETRIEVAL_NAMES.items():
        assert found.values[name] == pytest.approx(float(FROZEN[f"{case}/{peer}"]), abs=1e-9)
    is_query = np.arange(len(labels)) < FROZEN[f"{case}/gallery/num_queries"]
    found = evaluate_embeddings(
        embeddings, labels, ks=(1,), is_query=is_query, is_gallery=~is_query, num_resamples=0
    )
    for name, peer in RETRIEVAL_NAMES.items():
        expected = float(FROZEN[f"{case}/gallery/{peer}"])
        assert found.values[name] == pytest.approx(expected, abs=1e-9)
    scores = cluster_scores(labels, FROZEN[f"{case}/clusters"])
    assert scores.nmi == pytest.approx(float(FROZEN[f"{case}/NMI"]), abs=1e-9)
    assert scores.ami == pytest.approx(float(FROZEN[f"{case}/AMI"]), abs=1e-9)


def test_everything_at_once_equals_the_oracles():
    pytest.importorskip("sklearn")
    embeddings, labels = clustered()
    labels[:3] = 100, 101, 102  # singletons
    found = evaluate_embeddings(embeddings, labels, ks=(5, 1), metrics=METRICS)
    recalls, skipped = recall_at_k_oracle(embeddings, labels, (5, 1))
    r_precision, average_precision = precision_at_r_oracle(embeddings, labels)
    assert list(found.values) == [
        "recall@5",
        "recall@1",
        "r_precision",
        "map_at_r",
        "nmi",
        "ami",
        "f1",
    ]
    assert found.values["recall@5"] == pytest.approx(recalls[5])
    assert found.values["r_precision"] == pytest.approx(np.nanmean(r_precision))
    assert found.values["map_at_r"] == pytest.approx(np.nanmean(average_precision))
    assert (found.num_queries, found.num_items, found.num_skipped) == (300, 300, skipped)
    assert found.num_classes == len(np.unique(labels)) and found.num_clusters
    assert all(type(value) is float for value in found.values.values())
    for name, (low, high) in found.intervals.items():
        assert low < found.values[name] < high
    assert set(found.intervals) == {"recall@5", "recall@1", "r_precision", "map_at_r"}
    for label, value in found.recall_per_class.items():
        of_class, _ = recall_at_k_oracle(
            embeddings[labels == label],
            labels[labels == label],
            (5,),
            embeddings,
            labels,
        )
        # with the query in the gallery it finds itself: at least as good
        assert 0 <= value <= of_class[5]
    weights = [np.sum(labels == label) for label in found.recall_per_class]
    mean = np.average(list(found.recall_per_class.values()), weights=weights)
    assert mean == pytest.approx(found.values["recall@5"])
    table = found.table()
    assert "| recall@5 | " in table and f"{skipped} queries skipped" in table


def test_ranks_of_every_image_and_nothing_about_queries_where_none_was_searched():
    embeddings, labels = clustered(120, 10)
    is_query = np.arange(120) % 3 == 0
    found = evaluate_embeddings(embeddings, labels, ks=(1, 4), is_query=is_query)
    assert found.ranks.shape == (120,) and not found.ranks[~is_query].any()
    assert np.mean(found.ranks[is_query] <= 4) == found.values["recall@4"]
    pytest.importorskip("sklearn")
    labels[:3] = 100, 101, 102  # singletons
    found = evaluate_embeddings(embeddings, labels, metrics=("nmi",))
    assert found.num_skipped is None and found.ranks is None
    assert "skipped" not in found.table() and "| nmi | " in found.table()


def test_overlapping_queries_and_gallery():
    embeddings, labels = clustered(120, 10)
    rng = np.random.default_rng(0)
    is_query, is_gallery = rng.random(120) < 0.5, rng.random(120) < 0.7
    found = evaluate_embeddings(embeddings, labels, is_query=is_query, is_gallery=is_gallery)
    hits = []
    for query in np.flatnonzero(is_query):
        others = is_gallery & (np.arange(120) != query)
        recalls, _ = recall_at_k_oracle(
            embeddings[[query]], labels[[query]], (1,), embeddings[others], labels[others]
        )
        hits.append(recalls[1])
    assert found.values["recall@1"] == pytest.approx(np.mean(hits))
    assert (found.num_queries, found.num_items) == (is_query.sum(), is_gallery.sum())


@pytest.mark.parametrize("dimension", [8, 64, 512, 513])
@pytest.mark.parametrize("num_rows", [50, 777])
def test_collapsed_embeddings_score_at_chance_or_below(dimension, num_rows):
    labels = np.arange(num_rows) % 10
    row = np.random.default_rng(0).standard_normal(dimension)
    found = evaluate_embeddings(np.tile(row, (num_rows, 1)), labels, ks=(1, 5), num_resamples=0)
    assert set(found.values.values()) == {0.0}


def test_one_class_has_no_interval():
    found = evaluate_embeddings(np.eye(4), [1, 1, 1, 1], ks=(1,))
    assert found.values["recall@1"] == 1.0 and found.intervals == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("recall", "precision")}, "Expected `metrics`.*Received: .*'precision'"),
        ({"metrics": ()}, "Expected `metrics`"),
        ({"ks": (0,)}, "`ks`"),
        ({"is_query": np.zeros(300, bool)}, "`is_query` is False for all of 300"),
        ({"is_gallery": np.ones(299, bool)}, "`is_gallery` as booleans"),
        ({"is_query": np.ones(300, int)}, "Received: int64"),
    ],
)
def test_bad_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_embeddings(*clustered(), **options)


def test_nan_and_lonely_queries_are_explained():
    embeddings, labels = clustered()
    embeddings[7, 2] = np.inf
    with pytest.raises(ValueError, match="1 of 300 rows .* first is row 7"):
        evaluate_embeddings(embeddings, labels)
    with pytest.raises(ValueError, match="20 queries, none with one"):
        evaluate_embeddings(np.eye(20), np.arange(20))


def test_bootstrap_draws_classes_not_images():
    rng = np.random.default_rng(0)
    # all images of a class agree: 30 observations, not 30 * 20
    of_class = rng.random(30) < 0.5
    labels = np.repeat(np.arange(30), 20)
    low, high = class_bootstrap(of_class[labels], labels)
    mean = of_class.mean()
    width = 1.96 * np.sqrt(mean * (1 - mean) / 30)
    assert low == pytest.approx(mean - width, abs=0.05)
    assert high == pytest.approx(mean + width, abs=0.05)
    assert class_bootstrap(of_class[labels], labels).tolist() == [low, high]
    narrow = class_bootstrap(of_class[labels], labels, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_of_several_scores_is_that_of_each():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((90, 3)), rng.integers(12, size=90)
    together = class_bootstrap(scores, labels, num_resamples=50, seed=4)
    for column in range(3):
        alone = class_bootstrap(scores[:, column], labels, num_resamples=50, seed=4)
        assert together[:, column] == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0, 2.0], [0, 0]), {}, "at least 2 of them. Received: 1"),
        (([1.0, np.nan], [0, 1]), {}, "finite"),
        (([1.0], [0, 1]), {}, "shapes"),
        (([1.0, 0.0], [0, 1]), {"num_resamples": 0}, "num_resamples"),
        (([1.0, 0.0], [0, 1]), {"confidence": 1.0}, "confidence"),
    ],
)
def test_a_bootstrap_of_nothing_is_explained(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        class_bootstrap(*arguments, **options)
