"""Lines about what takes long, in a log."""

import sys

import keras
import numpy as np
import pytest

from keras_ms.evaluation import recall_at_k
from keras_ms.terminal.keras_progress import ProgressLines, TrainingLines, predict_progress
from keras_ms.terminal.progress import (
    is_terminal,
    print_line,
    progress_lines,
    shown_progress,
)


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, step=0.0):
        self.now, self.step = 1000.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def _model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])


def test_a_line_is_due_every_30_seconds_and_tells_what_is_left():
    clock, lines = Clock(), []
    tell = progress_lines("features", lines.append, clock=clock)
    for done, seconds in (
        (603, 29.9), (1207, 30.1), (1810, 31), (2413, 60.2), (3016, 7200), (6033, 9e4),
    ):  # fmt: skip
        clock.now = 1000 + seconds
        tell(done, 6033)
    assert lines == [
        "features: 1,207 of 6,033 images, about 2 min left",
        "features: 2,413 of 6,033 images, about 2 min left",
        "features: 3,016 of 6,033 images, about 2 h 0 min left",
    ]


@pytest.mark.parametrize(
    "seconds, done, words",
    [(30, 5000, "30 s"), (30, 9999, "1 s"), (59.4, 5000, "59 s"), (59.8, 5000, "1 min"),
     (90, 5000, "2 min"), (3599, 5000, "1 h 0 min"), (4000, 5000, "1 h 7 min")],
)  # fmt: skip
def test_durations_in_words(seconds, done, words):
    clock, lines = Clock(), []
    tell = progress_lines("x", lines.append, every_seconds=0, clock=clock)
    clock.now += seconds
    tell(done, 10_000)
    assert lines[0].endswith(f"about {words} left")


def test_nothing_is_said_of_the_beginning_of_the_end_and_of_work_without_a_known_end():
    lines = []
    tell = progress_lines("x", lines.append, every_seconds=0)
    for done, total in ((0, 10), (10, 10), (5, None), (0, 0)):
        tell(done, total)
    assert lines == []


def test_predict_tells_rows_whatever_the_batches():
    lines, rows = [], np.ones((10, 2), np.float32)
    told = ProgressLines("features", 10, log=lines.append, clock=Clock(step=31))
    model = _model()
    for _ in range(2):  # a second use begins anew
        lines.clear()
        embeddings = model.predict(rows, batch_size=4, verbose=0, callbacks=[told])
        assert [line.split(", about")[0] for line in lines] == [
            "features: 4 of 10 images", "features: 8 of 10 images",
        ]  # fmt: skip
    np.testing.assert_array_equal(embeddings, model.predict(rows, verbose=0))


def test_a_fast_prediction_says_nothing():
    lines = []
    told = ProgressLines("features", 10, log=lines.append, clock=Clock(step=0.001))
    _model().predict(np.ones((10, 2)), batch_size=2, verbose=0, callbacks=[told])
    assert lines == []


def test_recall_tells_its_share():
    rng, lines = np.random.default_rng(0), []
    tell = progress_lines("neighbours", lines.append, clock=Clock(step=31))
    recall_at_k(
        rng.normal(size=(300, 4)), rng.integers(0, 9, 300), ks=(1,), block_size=100, progress=tell
    )
    counts = [int(line.split()[1]) for line in lines]
    assert counts and counts == sorted(counts) and 0 < counts[0] <= counts[-1] < 300


@pytest.mark.parametrize("verbose, lines", [(0, False), (1, False), (2, True)])
def test_a_bar_lines_or_nothing(verbose, lines):
    found = predict_progress("features", 7, verbose)
    assert found["verbose"] == (0 if lines else verbose)
    assert [type(callback) for callback in found.get("callbacks", [])] == [ProgressLines] * lines


def test_a_terminal_has_a_bar(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert shown_progress() == 1


def test_without_standard_output_all_goes_on(monkeypatch, tmp_path):
    closed = open(tmp_path / "log", "w")
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stdout", stream)
        assert not is_terminal(stream) and shown_progress() == 2
        print_line("said to nobody")
        told = ProgressLines("features", 4, clock=Clock(step=31))
        out = _model().predict(np.ones((4, 2)), batch_size=1, verbose=0, callbacks=[told])
        assert out.shape == (4, 3)


def test_a_line_that_cannot_be_written_for_another_reason_is_an_error(monkeypatch, tmp_path):
    with open(tmp_path / "log", "w", encoding="ascii") as log:
        monkeypatch.setattr(sys, "stdout", log)
        with pytest.raises(UnicodeEncodeError):
            print_line("λ")


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_training_tells_its_steps_over_epochs(steps_per_execution):
    clock, lines = Clock(step=40.0), []
    model = _model()
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    rows = np.zeros((8, 2)), np.zeros((8, 3))
    told = TrainingLines(12, 4, log=lines.append, clock=clock)
    model.fit(*rows, batch_size=2, epochs=3, initial_epoch=1, verbose=0, callbacks=[told])
    steps = [int(line.split()[1]) for line in lines]
    assert steps == sorted(steps) and len(steps) >= 2
    assert all(line.startswith("training: ") and " of 8 steps" in line for line in lines)


def test_the_first_step_does_not_count_in_what_is_left():
    """It builds the graph, which takes as long as many steps."""
    clock, lines = Clock(), []
    told = TrainingLines(100, log=lines.append, clock=clock)
    told.on_train_begin()
    told.on_epoch_begin(0)
    for batch, seconds in enumerate([500, *[10] * 6]):
        clock.now += seconds
        told.on_train_batch_end(batch)
    assert lines == [
        "training: 4 of 100 steps, about 16 min left",
        "training: 7 of 100 steps, about 16 min left",
    ]


def test_beside_a_bar_the_time_is_told_between_epochs():
    clock, lines = Clock(step=31), []
    model = _model()
    model.compile("sgd", "mse")
    told = TrainingLines(12, beside_bar=True, log=lines.append, clock=clock)
    rows = np.zeros((8, 2)), np.zeros((8, 3))
    model.fit(*rows, batch_size=2, epochs=3, verbose=0, callbacks=[told])
    assert [line.split(", about")[0] for line in lines] == [
        "training: 4 of 12 steps", "training: 8 of 12 steps",
    ]  # fmt: skip


def test_what_was_done_before_is_no_measure():
    clock, lines = Clock(), []
    tell = progress_lines("x", lines.append, every_seconds=0, before=50, clock=clock)
    clock.now += 40
    for done in (50, 60):
        tell(done, 100)
    assert lines == ["x: 60 of 100 images, about 3 min left"]
