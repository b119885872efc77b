"""Files of a run folder that were cut off, emptied or swapped: named, with what to do."""

import json
import shutil

import keras
import numpy as np
import pytest
import small_runs
from small_runs import assert_same_state, train_words, write_gradients

from keras_ms.cli.main import main
from keras_ms.run.damaged_files import (
    DamagedFile,
    errors_name_file,
    load_weights,
    read_json,
    read_numbers,
)
from keras_ms.run.facts import run_history
from keras_ms.run.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.release]
small_is_tiny = small_runs.small_is_tiny

FEW = ("--steps", "4", "--steps-per-epoch", "2", "--image-size", "16", "--export=")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, by validation classes, and one by folds."""
    root = tmp_path_factory.mktemp("runs")
    folder = write_gradients(root / "gradients")
    for name, more in (("validation", ()), ("folds", ("--freeze-backbone",))):
        assert main(train_words(folder, root / name, *FEW, *more)) == 0
    return root


@pytest.fixture
def run(whole, tmp_path):
    def copy(name="validation"):
        shutil.copytree(whole / name / "runs" / "run", tmp_path / "run")
        return RunFolder(tmp_path / "run")

    return copy


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path):
    path.write_bytes(b"")


def _picture(path):
    path.write_bytes((path.parent / "curves.png").read_bytes())


def _nested(path):
    path.write_text("[" * 200_000)


def _number(path):
    path.write_text("3")


def _compiled():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def _error(capsys, *words):
    capsys.readouterr()
    assert main([*map(str, words)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize("damage", [_cut, _empty, _picture, _nested, _number])
def test_json_that_is_damaged_is_named_with_what_to_do(run, damage):
    run = run("folds")
    for path in (
        run.baselines_file,
        run.choice_file,
        run.folds_file,
        run.summary_file,
        run.data_file,
        run.environment_file,
    ):
        damage(path)
        with pytest.raises(DamagedFile) as raised:
            run.read_json(path)
        assert str(path) in str(raised.value) and "Delete it; then this " in str(raised.value)
        assert "train --resume" in str(raised.value)


@pytest.mark.parametrize("damage", [_cut, _empty, _picture, _nested])
def test_a_state_that_is_damaged_is_named(run, damage):
    run = run()
    damage(run.state_file)
    with pytest.raises(DamagedFile, match="state.npz is damaged.* begins again at the first step"):
        run.restore_state(_compiled())
    with pytest.raises(DamagedFile, match="state.npz is damaged"):
        run.read_progress()


@pytest.mark.slow
@pytest.mark.release
def test_without_its_damaged_files_a_run_goes_on(run, whole, capsys):
    run = run()
    for path, damage in (
        (run.baselines_file, _nested),
        (run.choice_file, _cut),
        (run.state_file, _picture),
    ):
        damage(path)
        error = _error(capsys, "train", "--resume", run.path)
        assert str(path) in error and "Delete it; then this " in error
        if path != run.state_file:
            assert path.name in _error(capsys, "report", run.path)
        path.unlink()
    assert main(["train", "--resume", str(run.path)]) == 0
    assert_same_state(run.path, whole / "validation" / "runs" / "run")
    for file in ("baselines.json", "choice.json"):
        expected = (whole / "validation" / "runs" / "run" / file).read_text()
        assert (run.path / file).read_text() == expected


def test_a_state_without_its_story_is_named(run):
    run = run()
    for story in ("{}", "no json", json.dumps({"epoch": 2, "rows": [], "best": {}})):
        np.savez(run.state_file, story=np.array(story))
        with pytest.raises(DamagedFile, match="state.npz is damaged"):
            run.read_progress()
    np.savez(run.state_file, story=np.array({}, dtype=object))
    with pytest.raises(DamagedFile, match="state.npz is damaged"):
        run.read_progress()


def test_the_history_is_written_again_from_the_state(run, whole, capsys):
    run = run()
    expected = run_history(run)
    lines = run.history_file.read_text().splitlines(keepends=True)
    run.history_file.write_text("".join(lines[:2]))
    assert run_history(run) == expected and len(expected) == 2
    _cut(run.history_file)
    assert run_history(run) == expected
    assert main(["train", "--resume", str(run.path)]) == 0
    assert run.history_file.read_text() == "".join(lines)
    # an epoch after the last state
    run.history_file.write_text("".join([*lines, lines[-1].replace("2,4,", "3,6,")]))
    assert [row["step"] for row in run_history(run)] == [2, 4, 6]
    # the file alone
    run.state_file.unlink()
    _cut(run.history_file)
    with pytest.raises(DamagedFile, match="history.csv is damaged.* in line"):
        run_history(run)


def test_folds_are_measured_again_as_they_were(run, whole, capsys):
    run = run("folds")
    other = whole / "folds" / "runs" / "run"
    run.choice_file.unlink()
    run.folds_file.write_text('[[[0, "pca", 1e-4], [[0, {"one": 1}]]]]')
    assert "folds.json is damaged" in _error(capsys, "train", "--resume", run.path)
    for file in (run.folds_file, run.baselines_file, run.start_weights_file):
        file.unlink()
    assert main(["train", "--resume", str(run.path)]) == 0
    # the start is computed again for what is measured of it and kept of it
    for file in ("choice.json", "folds.json", "baselines.json"):
        assert (run.path / file).read_text() == (other / file).read_text()
    assert_same_state(run.path, other)


@pytest.mark.parametrize("damage", [_cut, _empty, _picture])
def test_weights_that_are_damaged_are_named(tmp_path, damage):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(1)])
    (tmp_path / "curves.png").write_bytes(b"no HDF5")
    path = tmp_path / "a.weights.h5"
    with pytest.raises(DamagedFile, match="Nothing is at .*a.weights.h5. Delete it"):
        load_weights(model, path, "Delete it")
    other.save_weights(path)
    with pytest.raises(DamagedFile, match="a.weights.h5 is damaged.* Delete it"):
        load_weights(model, path, "Delete it")
    model.save_weights(path)
    load_weights(model, path)
    damage(path)
    with pytest.raises(DamagedFile, match="a.weights.h5 is damaged.* Delete it"):
        load_weights(model, path, "Delete it")


def test_damaged_weights_of_a_run_are_named(run, capsys):
    run = run()
    _cut(run.chosen_weights_file)
    assert "chosen.weights.h5 is damaged" in _error(capsys, "train", "--resume", run.path)
    _empty(run.best_weights_file)
    error = _error(capsys, "train", "--resume", run.path)
    assert "best.weights.h5 is damaged" in error and "Delete it and state.npz" in error
    run.model_file.unlink()
    assert "best.weights.h5 is damaged" in _error(capsys, "report", run.path)


@pytest.mark.parametrize("damage", [_cut, _empty, _picture, _nested, _number])
def test_damaged_settings_are_named(run, capsys, damage):
    run = run()
    damage(run.settings_file)
    error = _error(capsys, "report", run.path)
    assert str(run.settings_file) in error and "begin a new run" in error
    assert str(run.settings_file) in _error(capsys, "train", "--config", run.settings_file)


def test_files_that_only_the_report_reads(run, capsys):
    run = run()
    run.environment_file.write_text('{"packages": []}')
    assert "environment.json is damaged" in _error(capsys, "report", run.path)
    run.environment_file.unlink()
    run.data_file.write_text("{}")
    assert "data.json is damaged" in _error(capsys, "report", run.path)
    run.data_file.unlink()
    run.summary_file.write_text('{"best_step": "last"}')
    assert "summary.json is damaged" in _error(capsys, "report", run.path)
    run.summary_file.unlink()
    assert main(["train", "--resume", str(run.path)]) == 0
    assert run.environment_file.is_file() and run.data_file.is_file() and run.summary_file.is_file()


def test_json_of_an_editor_and_its_encodings(tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path, "words") is None
    path.write_bytes(b"\xef\xbb\xbf" + '{"é": 1}'.encode())
    assert read_json(path, "words") == {"é": 1}
    path.write_bytes('{"é": 1}'.encode("latin-1"))
    with pytest.raises(DamagedFile, match="a.json is damaged.*UnicodeDecodeError"):
        read_json(path, "words", "Do this")


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1\n", "a,b\n1,2,3\n", "a\nx\n", "a\n\0\n"])
def test_a_table_that_is_none(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DamagedFile, match="a.csv is damaged.*: expected words"):
        read_numbers(path, "words")


def test_what_is_no_damage_keeps_its_error(tmp_path):
    for error in (PermissionError(13, "no"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), errors_name_file("a", "words"):
            raise error
    with pytest.raises(DamagedFile, match="Received KeyError: 'x'. Delete it"):
        with errors_name_file("a", "words", "Delete it"):
            {}["x"]
