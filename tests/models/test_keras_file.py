"""Model files that are damaged, foreign or hostile: one sentence that says what is wrong."""

import json
import zipfile

import keras
import numpy as np
import pytest

from keras_ms.cli.main import main
from keras_ms.models.keras_file import load_keras_file


@keras.saving.register_keras_serializable(package="elsewhere")
class Foreign(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2.0


def model(*more):
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for layer in more:
        x = layer(x)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.keras"
    model().save(path)
    return path


def edited(path, member, edit):
    """A copy of a .keras file with one member changed, or left out where `edit` gives None."""
    new = path.with_name("edited.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as file:
        for name in old.namelist():
            content = old.read(name)
            content = edit(content) if name == member else content
            if content is not None:
                file.writestr(name, content)
    return new


def test_a_good_file_loads(good):
    images = np.ones((2, 8, 8, 3), "float32")
    assert load_keras_file(good)(images).shape == (2, 4)


@pytest.mark.parametrize("cut", [0, 0.5, 0.99])
def test_a_file_that_is_cut_off(good, cut):
    content = good.read_bytes()
    good.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(ValueError, match="good.keras is damaged, or no .keras file"):
        load_keras_file(good)


@pytest.mark.parametrize(
    "member, edit, message",
    [
        ("config.json", lambda _: b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
        ("config.json", lambda _: b"{x", "is damaged.*JSONDecodeError"),
        ("config.json", lambda _: b"[1, 2]", "is damaged"),
        ("config.json", lambda _: None, "is damaged.*config.json"),
        ("model.weights.h5", lambda content: content[:100], "is damaged"),
        ("config.json", lambda content: content.replace(b'"Dense"', b'"Dunse"'), "Dunse"),
    ],
)
def test_a_file_whose_parts_are_damaged(good, member, edit, message):
    with pytest.raises(ValueError, match=f"edited.keras.*{message}"):
        load_keras_file(edited(good, member, edit))


def test_a_class_from_elsewhere_is_named(tmp_path, capsys):
    path = tmp_path / "foreign.keras"
    model(Foreign()).save(path)
    # as in a process that has not imported it
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))
    text = json.dumps(config).replace("Foreign", "Unheard")
    path = edited(path, "config.json", lambda _: text.encode())
    assert main(["export", str(path), "--to", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "'Unheard'" in said and "imported" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["code.keras", "code.h5"])
def test_code_is_not_run(name, tmp_path):
    path = tmp_path / name
    model(keras.layers.Lambda(lambda x: x * 2)).save(path)
    with pytest.raises(ValueError, match=f"{name} holds code of its own.*not run"):
        load_keras_file(path)


def test_what_is_not_there_or_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="Nothing is at"):
        load_keras_file(tmp_path / "nothing.keras")
    with pytest.raises(ValueError, match="Received a folder"):
        load_keras_file(tmp_path)
