"""Numbers of things in words, and the lines that hold them."""

import numpy as np

from keras_ms.data import folder_listing
from keras_ms.data.folder_listing import tally_line
from keras_ms.data.image_list import ImageList
from keras_ms.evaluation import evaluate_embeddings
from keras_ms.terminal.counted import counted


def test_one_is_no_plural():
    assert counted(1, "image") == "1 image" and counted(0, "image") == "0 images"
    assert counted(2000, "query", "queries") == "2,000 queries"


def test_lines_of_lists_and_figures():
    images = ImageList(["a.jpg"], np.zeros(1, int), ("a",), np.array(["test"]), name="one")
    assert str(images).startswith("one: 1 image\n  test: 1 class, 1 image (")
    rows = np.eye(4)[[0, 0, 1, 1, 2]]
    table = evaluate_embeddings(rows, [0, 0, 1, 1, 2], ks=(1,), num_resamples=1).table()
    assert "; 1 query skipped" in table and ", 1 resample." in table


def test_every_reason_for_passing_over_has_a_singular():
    reasons = {
        value
        for name, value in vars(folder_listing).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    }
    assert reasons
    for reason in reasons:
        assert f": 1 {reason}" not in tally_line(1, {reason: 1})
        assert tally_line(1, {reason: 2}).endswith(f": 2 {reason}")
    assert tally_line(1, {".xyz": 1}).endswith("; passed over: 1 .xyz")
