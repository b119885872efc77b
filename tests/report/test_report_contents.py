"""What the HTML report says, against literal computations; charts' ticks; the map."""

import dataclasses
import re

import numpy as np
import pytest
import report_pages
from report_pages import Page, checked_links, drawn_set

from keras_ms.data.image_list import ImageList
from keras_ms.evaluation import METRICS, evaluate_embeddings, recall_at_k
from keras_ms.report import collect_report, contents, embedding_map, map_section, pair_sweep
from keras_ms.report.charts import _ticks, line_chart
from keras_ms.report.embedding_map import map_embeddings
from keras_ms.report.page import report_page
from keras_ms.report.pair_sweep import sweep_pairs

fast_map = report_pages.fast_map
nasty_page = report_pages.nasty_page


def test_sweep_is_that_of_the_whole_matrix_whatever_the_blocks():
    embeddings, images = drawn_set(7, 4)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    whole = unit @ unit.T
    np.fill_diagonal(whole, -np.inf)
    same = images.labels[:, None] == images.labels
    for block_pairs in (1, 5 * len(images), 10**6):
        sweep = sweep_pairs(
            3 * embeddings, images.labels, num_neighbours=3, block_pairs=block_pairs
        )
        np.testing.assert_array_equal(sweep.neighbours, np.argsort(-whole, axis=1)[:, :3])
        expected = np.where(same, whole, -np.inf).max(axis=1)
        np.testing.assert_allclose(sweep.best_positive, expected, rtol=1e-5)
        expected = np.where(same, -np.inf, whole).max(axis=1)
        np.testing.assert_allclose(sweep.best_negative, expected, rtol=1e-5)
        assert sweep.positive_counts.sum() == 7 * 4 * 3
        assert sweep.negative_counts.sum() == 28 * 24
        positives = whole[same & ~np.eye(28, dtype=bool)]
        np.testing.assert_allclose(sweep.positive_mean, positives.mean(), rtol=1e-5)
        expected, _ = np.histogram(positives, sweep.edges)
        assert np.abs(sweep.positive_counts - expected).sum() <= 2  # at the edges of bins
        assert sweep.edges[0] <= whole[np.isfinite(whole)].min()
        assert sweep.edges[-1] >= whole.max()


def test_sweep_of_collapsed_and_of_zero_embeddings():
    for rows in (np.ones((6, 4)), np.zeros((6, 4))):
        sweep = sweep_pairs(rows, [0, 0, 1, 1, 2, 2])
        assert sweep.neighbours.shape == (6, 5)
        assert (sweep.neighbours != np.arange(6)[:, None]).all()
        assert sweep.negative_counts.sum() == 24


def test_a_gallery_is_searched_and_nothing_else():
    embeddings, images = drawn_set(5, 6, spread=1.0)
    is_query = np.arange(30) % 6 < 4
    is_gallery = np.arange(30) % 6 >= 2  # two of each class are both
    images = dataclasses.replace(images, is_query=is_query, is_gallery=is_gallery)
    report = collect_report(embeddings, images, ks=(1, 3))
    assert is_gallery[report.sweep.neighbours].all()
    assert (report.sweep.neighbours != np.arange(30)[:, None]).all()
    assert ((report.ranks > 0) == is_query).all()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    whole = unit @ unit.T
    whole[:, ~is_gallery] = whole[np.arange(30), np.arange(30)] = -np.inf
    hits = images.labels[whole.argmax(axis=1)] == images.labels
    np.testing.assert_allclose(report.metrics[0].value, hits[is_query].mean())
    assert {row.image for row in report.best_queries + report.worst_queries} <= set(
        np.flatnonzero(is_query)
    )
    text = report_page(report)
    assert "20 queries search 20 gallery images" in text
    checked_links(text)


def test_a_part_as_gallery_is_said_and_so_is_how_many_classes_are_drawn():
    embeddings, images = drawn_set(5, 6, spread=1.0)
    # of the last class nothing is in the gallery
    is_gallery = (np.arange(30) % 6 >= 2) & (images.labels < 4)
    images = dataclasses.replace(images, is_gallery=is_gallery)
    text = report_page(collect_report(embeddings, images))
    assert "30 queries search 16 gallery images" in text
    assert "drawing the 4 classes that have a match" in text
    one_class = dataclasses.replace(images, labels=np.zeros(30, int), is_gallery=None)
    text = report_page(collect_report(embeddings, one_class))
    assert "Every image searches all others" in text and "drawing" not in text


def test_what_is_left_out_or_unknown_is_said(monkeypatch):
    embeddings, images = drawn_set()
    text = report_page(collect_report(embeddings, images))
    assert "never trained on" not in text and "NMI, AMI, F1: how well k-means" in text
    assert "never trained on" in report_page(collect_report(embeddings, images, unseen=True))
    monkeypatch.setattr(contents, "_MOST_FOR_CLUSTERS", 1)
    text = report_page(collect_report(embeddings, images))
    assert "NMI, AMI and F1 are left out" in text and "how well k-means" not in text


def test_tiny_and_huge_embeddings_are_compared_by_their_angles():
    embeddings, images = drawn_set()
    expected = sweep_pairs(embeddings, images.labels)
    for scale in (1e-25, 1e25):  # whose squares float32 cannot hold
        found = sweep_pairs(scale * embeddings, images.labels)
        np.testing.assert_allclose(found.best_positive, expected.best_positive, rtol=1e-4)


def test_a_page_that_cannot_stay_small_is_told(monkeypatch, caplog):
    embeddings, images = drawn_set()
    monkeypatch.setattr(map_section, "_MOST_SHEET_BYTES", 1)
    report_page(collect_report(embeddings, images))
    assert "Show fewer with --map-images" in caplog.text


def test_numbers_are_those_of_recall_at_k(nasty_page):
    report, text = nasty_page
    embeddings, images = drawn_set(names=report.images.class_names, spread=0.9)
    expected = recall_at_k(embeddings, images.labels, ks=(1, 2, 4, 8))
    measured = evaluate_embeddings(embeddings, images.labels, metrics=METRICS)
    shown = [float(a["data-value"]) for a in Page(text).all("td") if "data-value" in a]
    assert shown[:4] == list(expected.values())
    assert shown == list(measured.values.values())
    low, high = measured.intervals["recall@1"]
    assert f"{100 * low:.1f} – {100 * high:.1f}\u00a0%" in text
    assert 0 < expected[1] < 1  # else the comparison says little


def test_best_and_worst_queries_and_confusions_of_hand_made_embeddings():
    # angles on a circle: classes 0 and 1 lie mixed, class 2 far away
    angles = np.deg2rad([0, 12, 10, 22.5, 120, 121, 240])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    images = ImageList(
        [f"{n}" for n in range(7)],
        [0, 0, 1, 1, 2, 2, 3],
        "abcd",
        ["test"] * 7,
        images=np.zeros((7, 16, 16, 3), np.uint8),
    )
    report = collect_report(embeddings, images, ks=(1, 2))
    assert [row.image for row in report.best_queries] == [5]  # one a class; 4 is nearer to 3
    assert {row.image for row in report.worst_queries} == {1, 2}  # 0 and 3 have smaller margins
    assert [row.rank for row in report.worst_queries] == [3, 3]
    (pair,) = report.confusions
    assert (pair.first, pair.second, pair.first_to_second, pair.second_to_first) == (0, 1, 2, 2)
    assert pair.share == 1 and pair.examples[0] in [(1, 2), (2, 1)]
    assert report.num_skipped == 1
    recalls = {row.label: row.recall_at_1 for row in report.classes}
    assert recalls[2] == 1 and recalls[0] == 0 and np.isnan(recalls[3])
    page = Page(report_page(report))
    rows = [a["class"] for a in page.all("a", "shot")]
    # 6 neighbours of each query: of the worst, one of its class; likewise of the best
    assert sum("same" in row.split() for row in rows) == 3
    assert sum("other" in row.split() for row in rows) == 3 * 5


def test_the_map_keeps_neighbours_together_and_takes_few_or_equal_embeddings(monkeypatch):
    monkeypatch.setattr(embedding_map, "_FEWEST_FOR_TSNE", 10)
    embeddings, images = drawn_set(4, 12, spread=0.05)
    places = map_embeddings(embeddings)
    assert places.min() == 0 and places.max() == 1
    assert recall_at_k(places - 0.5, images.labels, ks=(1,))[1] > 0.9
    for count in (1, 2, 5):
        assert np.isfinite(map_embeddings(embeddings[:count])).all()
    assert (map_embeddings(np.ones((20, 3))) == 0.5).all()
    assert map_embeddings(np.linspace(-1, 1, 20)[:, None]).shape == (20, 2)


def _one_direction(count, dimension, seed=0):
    rng = np.random.default_rng(seed)
    lengths = 10 ** rng.uniform(-8, 8, (count, 1))
    return rng.normal(size=dimension), lengths, rng


@pytest.mark.parametrize("dimension", [2, 128, 2048])
def test_embeddings_that_differ_by_rounding_alone_are_equal_to_the_map(dimension):
    direction, lengths, _ = _one_direction(4000, dimension)
    # the mean of so many rows is rounded by more than the rows are
    for rows in (direction * lengths, (direction * lengths).astype(np.float32)):
        assert (map_embeddings(rows) == 0.5).all()


@pytest.mark.parametrize("dimension", [2, 128, 2048])
def test_embeddings_a_little_apart_are_arranged(dimension):
    direction, _, rng = _one_direction(1, dimension)
    direction /= np.linalg.norm(direction)
    # of 2,048 coordinates each differs by less than a millionth
    rows = direction + 3e-5 / np.sqrt(dimension) * rng.normal(size=(9, dimension))
    places = map_embeddings(rows)
    assert places.min() == 0 and places.max() == 1


def test_the_sweep_tells_how_far_it_is():
    embeddings, images = drawn_set(5, 4)
    told = []
    sweep_pairs(embeddings, images.labels, block_pairs=60, progress=lambda *done: told.append(done))
    assert told == [(done, 20) for done in (3, 6, 9, 12, 15, 18, 20)]


def test_texts_of_a_chart_stay_within_it():
    points = [(0, 0.5102), (100_000, 0.5108)]
    texts = _placed_texts(line_chart("r", {"a": points}, x_name="step", y_range=(0.51, 0.511)))
    assert len(texts) >= 10
    for text, x, anchor in texts:
        width = 7.6 * len(text)  # of a digit of 13 units, a wide one
        left = x - width * {"end": 1, "middle": 0.5}[anchor]
        assert left >= 0 and left + width <= 460, text


def _placed_texts(chart):
    found = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([^<]*)<', str(chart))
    return [(text, float(x), anchor) for x, anchor, text in found]


def test_a_set_too_large_for_the_map_shows_a_part_with_all_that_is_linked():
    embeddings, images = drawn_set(40, 20, spread=1.5)
    report = collect_report(embeddings, images, num_map_images=10)
    assert 10 <= len(report.map_images) < len(images)
    text = report_page(report)
    assert f"{len(report.map_images)} of the 800" in text
    checked_links(text)


@pytest.mark.parametrize("rows", [3, 31])
def test_embeddings_that_do_not_fit_the_images(rows):
    _, images = drawn_set()
    with pytest.raises(ValueError, match="one row of `embeddings` for each image"):
        collect_report(np.ones((rows, 4)), images)


def test_nan_and_lonely_classes_are_refused():
    embeddings, images = drawn_set()
    embeddings[3] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        collect_report(embeddings, images)
    embeddings, images = drawn_set(5, 1)
    with pytest.raises(ValueError, match="class has another item to find"):
        collect_report(embeddings, images)


@pytest.mark.parametrize("value", ["collapsed", "perfect"])
def test_extreme_embeddings_make_a_page(value):
    embeddings, images = drawn_set()
    embeddings = np.ones((30, 6)) if value == "collapsed" else np.eye(6)[images.labels]
    report = collect_report(embeddings, images)
    assert report.metrics[0].value == (0 if value == "collapsed" else 1)
    assert bool(report.worst_queries) == (value == "collapsed")
    checked_links(report_page(report))


@pytest.mark.parametrize("low, high", [(0, 1), (-0.31, 0.87), (0, 0.004), (0, 120_000), (3, 4)])
def test_ticks_are_round_and_few(low, high):
    ticks = _ticks(low, high)
    assert 3 <= len(ticks) <= 7
    assert low - 1e-9 <= min(ticks) and max(ticks) <= high + 1e-9
    assert all(len(f"{tick:.6g}".replace("0", "").replace("-", "")) <= 4 for tick in ticks)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_of_equal_neighbours_the_first_are_taken(count):
    rng = np.random.default_rng(0)
    for width in (6, 3000):
        similarity = rng.integers(0, 3, (20, width)).astype("float32") / 2
        similarity[0] = 0  # all are equal
        similarity[1] = -np.inf
        expected = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(pair_sweep._largest(similarity, count), expected)
