"""The data sets that there are, and what answering that takes."""

import subprocess
import sys
from pathlib import Path

import pytest

import keras_ms
from keras_ms.data.sets.catalogue import data_set_names, data_sets

# the package without its own first lines, which import Keras in a user's program
_NAMES = """
import sys, types
package = types.ModuleType("keras_ms")
package.__path__ = [sys.argv[1]]
sys.modules["keras_ms"] = package
from keras_ms.data.sets.catalogue import data_set_names
print(*data_set_names())
print(*{"tensorflow", "keras", "scipy", "matplotlib"} & set(sys.modules))
"""


def test_names_take_no_tensorflow():
    folder = str(Path(keras_ms.__file__).parent)
    told = subprocess.run(
        [sys.executable, "-c", _NAMES, folder],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stdout
    names, imported = told.split("\n")[:2]
    assert tuple(names.split()) == data_set_names() and imported == ""


def test_options_of_one_name_are_one_option():
    declared = [option for one in data_sets().values() for option in one.options]
    for option in declared:
        assert all(option == other for other in declared if other.name == option.name)


@pytest.mark.parametrize("name", ["load_cars", "load_csv", "load_cub", "load_sop", "draw_glyphs"])
def test_public_loaders_are_those_of_the_catalogue(name):
    assert getattr(keras_ms, name) in {one.load for one in data_sets().values()}
