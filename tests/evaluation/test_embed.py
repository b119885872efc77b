"""One way to embed: a model's predict or any function, checked row by row."""

import keras
import numpy as np
import pytest

from keras_ms.evaluation.embed import embed_batches

ROWS = np.random.default_rng(0).standard_normal((10, 4)).astype("float32")
BATCHES = [ROWS[:4], ROWS[4:8], ROWS[8:]]


def test_a_model_and_a_function_give_the_same_rows():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    expected = model.predict(ROWS, batch_size=4, verbose=0)
    embedded = embed_batches(model, ROWS, total=10, batch_size=4)
    np.testing.assert_array_equal(embedded, expected)
    np.testing.assert_array_equal(embed_batches(model.predict_on_batch, BATCHES), expected)


@pytest.mark.parametrize(
    "embed, total, message",
    [
        (lambda rows: rows[:1], None, r"of it .*\(4, dimension\).*Received: \(1, 4\)"),
        (lambda rows: rows[:, 0], None, r"Received: \(4,\)"),
        (lambda rows: {"a": rows}, None, "Received: dict"),
        (lambda rows: rows, 11, r"\(11, dimension\).*Received: \(10, 4\)"),
    ],
)
def test_what_is_not_one_row_an_item_is_refused(embed, total, message):
    with pytest.raises(ValueError, match=message):
        embed_batches(embed, BATCHES, total=total, source="it")


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match="no batch"):
        embed_batches(lambda rows: rows, [])


def test_rows_that_are_not_finite_are_named_where_there_are_names():
    spoiled = [batch.copy() for batch in BATCHES]
    spoiled[1][2, 1] = np.inf
    names = [f"{number}.png" for number in range(10)]
    assert np.isinf(embed_batches(lambda rows: rows, spoiled)).any()
    with pytest.raises(ValueError, match=r"1 of a batch of 4 .* first is 6\.png"):
        embed_batches(lambda rows: rows, spoiled, names=names)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Identity()])
    with pytest.raises(ValueError, match=r"1 of 10 .* first is 6\.png"):
        embed_batches(model, np.concatenate(spoiled), names=names)


def test_lines_tell_the_items_that_are_done(monkeypatch):
    lines = []
    clock = iter(range(0, 1000, 31))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    embed_batches(lambda rows: rows, BATCHES, total=10, verbose=2, log=lines.append, unit="rows")
    assert [line.partition(",")[0] for line in lines] == [
        "embedding: 4 of 10 rows",
        "embedding: 8 of 10 rows",
    ]
