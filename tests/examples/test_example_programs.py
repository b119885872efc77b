"""The programs of examples/ do what they say, in short."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import keras_ms

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = {"epochs": 1, "steps_per_epoch": 5}
PROGRAMS = {
    "your_own_model": SHORT,
    "classifier_and_embedding": SHORT,
    "own_batches": SHORT,
    "training_loop": {"steps": 5},
    "query_and_gallery": SHORT,
}


@pytest.fixture(scope="module")
def few_glyphs():
    return keras_ms.draw_glyphs(image_size=32, images_per_class=4)


@pytest.fixture
def example(monkeypatch, few_glyphs):
    """Function from a name to the module of that program, which draws few images."""
    monkeypatch.setattr(keras_ms, "draw_glyphs", lambda **options: few_glyphs)

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_trains_and_says_what_it_found(name, example, capsys):
    found = example(name).main(**PROGRAMS[name])
    value = found["recall@1"] if isinstance(found, dict) else found
    assert 0 < value < 1
    assert f"{value:.3f}" in capsys.readouterr().out


@pytest.mark.slow
def test_tensorboard_gets_what_is_measured(example, tmp_path):
    pytest.importorskip("tensorboard", reason="needs pip install tensorboard")
    example("tracking").main(1, str(tmp_path), steps_per_epoch=5)
    assert list(tmp_path.glob("*/events.*"))
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert "val_recall@1" in header


def test_own_batches_continue_from_epoch_to_epoch(example):
    labels = np.repeat(np.arange(40), 5)
    numbers = np.arange(len(labels))
    batches = example("own_batches").Batches(
        numbers.__getitem__, labels, num_batches=3, classes=10, images=2, workers=1
    )
    epochs = []
    for _ in range(2):
        epochs.append(np.stack([batches[number][0] for number in range(len(batches))]))
        batches.on_epoch_end()
    stream = keras_ms.data.balanced_indices.balanced_indices(labels, 10, 2)
    expected = np.stack([next(stream) for _ in range(6)])
    np.testing.assert_array_equal(np.concatenate(epochs), expected)


def test_every_program_is_in_the_list_and_is_tested():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*PROGRAMS, "tracking"}
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.py)" in page for name in names)
