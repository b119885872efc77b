"""The picture of what queries find: the nearest of others, framed by right or wrong."""

import numpy as np
import pytest

from keras_ms import ImageList, draw_neighbours
from keras_ms.report.neighbours import RIGHT, WRONG, draw_queries, nearest


def images_of(labels):
    grey = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return ImageList(
        paths=[str(number) for number in range(len(labels))],
        images=np.broadcast_to(grey, (len(labels), 20, 20, 3)),
        labels=labels,
        class_names=[str(label) for label in range(max(labels) + 1)],
        split=["test"] * len(labels),
    )


def frames(page):
    pixels = np.asarray(page).reshape(-1, 3).tolist()
    return pixels.count(list(RIGHT)), pixels.count(list(WRONG))


def test_the_nearest_are_those_of_a_loop_and_never_the_query():
    rows = np.random.default_rng(0).normal(size=(30, 4))
    queries = np.array([3, 17])
    found = nearest(rows, queries, 5)
    for query, places in zip(queries, found):
        cosine = {
            other: rows[query] @ rows[other] / np.linalg.norm(rows[other])
            for other in range(30)
            if other != query
        }
        assert places.tolist() == sorted(cosine, key=cosine.get, reverse=True)[:5]


def test_queries_are_of_different_classes_and_follow_the_seed():
    labels = np.arange(40) // 4
    queries = draw_queries(labels, 6, seed=0)
    assert len(set(labels[queries])) == 6
    assert (queries == draw_queries(labels, 6, seed=0)).all()
    assert (queries != draw_queries(labels, 6, seed=1)).any()


def test_frames_say_right_and_wrong():
    rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    page = draw_neighbours(images_of([0, 0, 1]), {"found": rows}, queries=[0], neighbours=2)
    right, wrong = frames(page)
    assert min(right, wrong) > 1000 and abs(right - wrong) < 200


def test_the_shown_are_the_nearest_of_each_set_of_embeddings():
    rows = np.random.default_rng(0).normal(size=(12, 4))
    images = images_of(np.arange(12) // 2)
    page = draw_neighbours(
        images, {"a": rows, "b": -rows[::-1]}, queries=[7], neighbours=3, size=40
    )
    shown = np.asarray(page)[60, :, 0]  # the middle of the row of pictures
    # the grey of a picture is its row; in the order of the page, the query first
    seen = [int(value) for value in shown[np.r_[True, np.diff(shown) != 0]] if value < 12]
    expected = [7, *nearest(rows, np.array([7]), 3)[0], *nearest(-rows[::-1], np.array([7]), 3)[0]]
    assert seen == [int(row) for row in expected]


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("at least one title", {"embeddings": {}}),
        ("4 images. Received: 3 rows of 'a'", {"embeddings": {"a": np.ones((3, 2))}}),
        ("finite", {"embeddings": {"a": np.full((4, 2), np.nan)}}),
        ("as classes, 2. Received: 3", {"queries": 3}),
        ("0 to 3", {"queries": [4]}),
        ("0 to 3", {"queries": [0.5]}),
        ("below the number of images, 4", {"neighbours": 4}),
        ("`neighbours`", {"neighbours": 0}),
    ],
)
def test_what_cannot_be_drawn_is_said(words, arguments):
    given = {"embeddings": {"a": np.eye(4)}, "queries": 2, "neighbours": 2} | arguments
    with pytest.raises(ValueError, match=words):
        draw_neighbours(images_of([0, 0, 1, 1]), given.pop("embeddings"), **given)
