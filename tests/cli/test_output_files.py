"""What commands write: no other ending, no folder's name, no file of a run, no input."""

import json

import pytest

from keras_ms.cli.main import main
from keras_ms.cli.parse import RUN_FILES, check_output_file, check_output_folder
from keras_ms.run.folder import RunFolder

# (words, the option that names a file, an ending that it takes); {} is the folder of the test
FILES = [
    (["report", "{}/run"], "--to", ".html"),
    (["report", "--embeddings", "{}/e.npz"], "--to", ".html"),
    (["card", "{}/run"], "--to", ".md"),
    (["evaluate", "{}/e.npz"], "--to", ".json"),
    (["evaluate", "{}/model.onnx", "{}/photos"], "--save-embeddings", ".npz"),
    (["curriculum", "{}/e.npz"], "--to", ".csv"),
    (["curriculum", "{}/e.npz"], "--page", ".html"),
    (["search", "{}/run", "{}/photos"], "--to", ".csv"),
    (["weights"], "--to", ".png"),
    (["weights"], "--table", ".md"),
    (["convert-weights", "{}/model.onnx"], "--to", ".weights.h5"),
]
FOLDERS = [
    ["export", "{}/model.onnx", "--to"],
    ["quantize", "{}/model.onnx", "--images", "{}/photos", "--to"],
    ["embed", "{}/model.onnx", "{}/photos", "--to"],
    ["index"],
]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "run").mkdir()
    for name in ("run/settings.json", "e.npz", "model.onnx", "photos/a.png"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def refused(words, place, capsys):
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    assert main([word.replace("{}", str(place)) for word in words]) == 1
    assert before == {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    return capsys.readouterr().err


@pytest.mark.parametrize("words, name, ending", FILES, ids=lambda value: str(value))
def test_a_file_is_refused_before_the_work(words, name, ending, place, capsys):
    assert f"Expected {name} to end in" in refused([*words, name, "{}/photos/a.jpg"], place, capsys)
    folder = place / f"folder{ending}"
    folder.mkdir()
    assert "Received a folder" in refused([*words, name, str(folder)], place, capsys)
    # a file stands where a folder would have to be
    wrong = refused([*words, name, f"{place}/e.npz/x{ending}"], place, capsys)
    assert "Cannot write" in wrong and "e.npz" in wrong


@pytest.mark.parametrize("words", FOLDERS, ids=lambda words: words[0])
def test_a_folder_is_refused_where_a_file_is(words, place, capsys):
    more = ["{}/photos", "--model", "{}/model.onnx"] if words == ["index"] else []
    if more:
        pytest.importorskip("lancedb", reason='needs pip install -e ".[search]"')
    assert "Received a file" in refused([*words, "{}/photos/a.png", *more], place, capsys)


def test_a_file_of_a_run_and_an_input_stay(place, capsys):
    words = ["evaluate", "{}/e.npz", "--to", "{}/run/settings.json"]
    assert "is a file of the run in that folder" in refused(words, place, capsys)
    with pytest.raises(ValueError, match="what the command reads"):
        check_output_file("--to", place / "e.npz", (".npz",), (str(place / "e.npz"), "", None))
    # elsewhere the name is free
    check_output_file("--to", place / "settings.json", (".json",))
    check_output_folder("--to", place / "new" / "folder")
    assert not (place / "new").exists()
    assert json.loads((place / "run" / "settings.json").read_text()) == {}


def test_the_files_of_a_run_are_those_of_its_folder(place):
    files = [path.name for name, path in vars(RunFolder(place)).items() if name.endswith("_file")]
    assert sorted(RUN_FILES) == sorted(files)
