"""Import paths of before the folders lead to the same modules."""

import importlib
import subprocess
import sys
import warnings

import pytest

import keras_ms
from keras_ms.compat import MOVED


def test_every_old_path_is_the_module_at_its_new_place():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for before, now in MOVED.items():
            module = importlib.import_module(f"keras_ms.{before}")
            assert module is importlib.import_module(f"keras_ms.{now}"), before


def test_an_old_path_says_where_the_module_is_now():
    sys.modules.pop("keras_ms.html_report.pictures", None)
    with pytest.warns(DeprecationWarning, match="is now keras_ms.report.pictures"):
        from keras_ms.html_report.pictures import picture
    assert picture is importlib.import_module("keras_ms.report.pictures").picture


def test_the_command_line_is_called_as_before(capsys):
    from keras_ms.cli import main

    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert keras_ms.__version__ in capsys.readouterr().out


def test_a_path_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="keras_ms.nowhere"):
        importlib.import_module("keras_ms.nowhere")


def test_modules_of_users_with_such_names_are_their_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("settings", "training", "html_report.pictures"):
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("whose = 'yours'\n")
        assert importlib.import_module(name).whose == "yours"
        for part in {name, name.split(".")[0]}:
            monkeypatch.delitem(sys.modules, part)


def test_packages_with_public_names_need_no_import_of_their_own():
    code = "import keras_ms; print(keras_ms.search.Index, keras_ms.export.load_embedder)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        keras_ms.serch  # noqa: B018
