"""The picture of what queries find: the nearest of others, framed by right or wrong."""

import importlib.util
from pathlib import Path

import numpy as np

from keras_ms import ImageList

_FILE = Path(__file__).resolve().parents[2] / "scripts" / "draw_neighbours.py"
_SPEC = importlib.util.spec_from_file_location("draw_neighbours", _FILE)
draw_neighbours = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(draw_neighbours)


def test_the_nearest_are_those_of_a_loop_and_never_the_query():
    rows = np.random.default_rng(0).normal(size=(30, 4))
    queries = np.array([3, 17])
    found = draw_neighbours.nearest(rows, queries, 5)
    for query, places in zip(queries, found):
        cosine = {
            other: rows[query] @ rows[other] / np.linalg.norm(rows[other])
            for other in range(30)
            if other != query
        }
        assert places.tolist() == sorted(cosine, key=cosine.get, reverse=True)[:5]


def test_queries_are_of_different_classes_and_follow_the_seed():
    labels = np.arange(40) // 4
    queries = draw_neighbours.draw_queries(labels, 6, seed=0)
    assert len(set(labels[queries])) == 6
    assert (queries == draw_neighbours.draw_queries(labels, 6, seed=0)).all()
    assert (queries != draw_neighbours.draw_queries(labels, 6, seed=1)).any()


def test_frames_say_right_and_wrong():
    images = ImageList(
        paths=["0", "1", "2"],
        images=np.full((3, 20, 20, 3), 255, np.uint8),
        labels=[0, 0, 1],
        class_names=["a", "b"],
        split=["test"] * 3,
        name="three",
    )
    page = draw_neighbours.draw_picture(images, np.array([0]), {"found": np.array([[1, 2]])})
    pixels = np.asarray(page).reshape(-1, 3).tolist()
    right, wrong = (list(colour) for colour in (draw_neighbours._RIGHT, draw_neighbours._WRONG))
    frames = pixels.count(right), pixels.count(wrong)
    assert min(frames) > 1000 and abs(frames[0] - frames[1]) < 200
