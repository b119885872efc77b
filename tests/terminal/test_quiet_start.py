"""TensorFlow's start-up lines are dropped where TF_CPP_MIN_LOG_LEVEL says so; errors are not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "keras_ms" / "terminal" / "start.py"

# the file alone: importing the package would import TensorFlow
_LOAD = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("quiet_start", {str(SOURCE)!r})
quiet_start = importlib.util.module_from_spec(spec)
spec.loader.exec_module(quiet_start)
"""
_LINES = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1.5    7 port.cc:153] informs",
    "W0000 00:00:1.5    7 port.cc:153] warns",
    "E0000 00:00:1.5    7 port.cc:153] an error",
    "F0000 00:00:1.5    7 port.cc:153] fatal",
    "In words of another library",
]


def _stderr(code, level, returncode=0):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": level}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD + code],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == returncode, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("level, kept", [("0", 0), ("", 0), ("x", 0), ("1", 2), ("2", 3), ("3", 4)])
def test_what_is_below_the_level_is_dropped(level, kept):
    text = "".join(f"{line}\n" for line in _LINES)
    code = f"""
with quiet_start.quiet_import():
    os.write(2, {text.encode()!r})
    print("by Python", file=sys.stderr)
print("afterwards", file=sys.stderr)
os.write(2, b"I0000 00:00:1.5    7 port.cc:153] later\\n")
"""
    assert _stderr(code, level) == [
        *_LINES[kept:], "by Python", "afterwards", "I0000 00:00:1.5    7 port.cc:153] later",
    ]  # fmt: skip


def test_an_abort_and_an_exception_are_seen():
    fatal = """
with quiet_start.quiet_import():
    os.write(2, b"F0000 00:00:1.5    7 guard.cc:1] this processor cannot run it\\n")
    os.abort()
"""
    assert _stderr(fatal, "3", returncode=-6) == [
        "F0000 00:00:1.5    7 guard.cc:1] this processor cannot run it"
    ]
    missing = """
with quiet_start.quiet_import():
    import no_such_module
"""
    assert "No module named 'no_such_module'" in _stderr(missing, "3", returncode=1)[-1]


def test_without_standard_error_the_import_goes_on():
    code = """
os.close(2)
with quiet_start.quiet_import():
    print("imported")
"""
    assert _stderr(code, "3") == []


@pytest.mark.slow
def test_tensorflow_is_imported_in_silence_and_its_errors_are_seen():
    code = """
with quiet_start.quiet_import():
    import tensorflow as tf
tf.io.read_file("gone").numpy()
"""
    lines = _stderr(code, "3", returncode=1)
    assert lines[0].startswith("Traceback") and "NotFoundError" in lines[-1]


@pytest.mark.parametrize(
    "typed, argv, expected",
    [
        (["python", "/venv/bin/keras-ms", "train"], ["/venv/bin/keras-ms", "train"], True),
        (["python", "-m", "keras_ms.cli", "train"], ["-m", "train"], True),
        (["python", "-u", "-m", "keras_ms.cli"], ["-m"], True),
        (["python", "mine.py", "-m", "keras_ms.cli"], ["mine.py", "-m", "keras_ms.cli"], False),
        (["python", "-m", "pytest"], ["-m"], False),
        (["python"], [""], False),
    ],
)
def test_what_a_command_is(monkeypatch, typed, argv, expected):
    from keras_ms.terminal.start import is_command

    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(sys, "argv", argv)
    assert is_command() is expected


@pytest.mark.parametrize(
    "path, expected",
    [
        ("scripts/train.py", True),
        ("scripts/export.py", True),
        ("scripts/recipes/omniglot.py", True),
        ("scripts/compare_losses.py", False),
        ("train.py", False),
    ],
)
def test_which_scripts_are_commands(monkeypatch, path, expected):
    from keras_ms.terminal.start import is_command

    monkeypatch.setattr(sys, "argv", [str(SOURCE.parents[2] / path)])
    assert is_command() is expected
