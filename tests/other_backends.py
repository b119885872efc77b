"""Processes of tests on Keras's other backends."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]

# Begins a program that runs as where TensorFlow is not installed. A name that sys.modules maps to
# None would not do: Keras takes any such name for a TensorFlow that is there.
WITHOUT_TENSORFLOW = """
import sys

class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden)
"""


def python_for(backend):
    """The Python that has a backend: this one, or the one that a variable names; skips without."""
    named = os.environ.get(f"KERAS_MS_{backend.upper()}_PYTHON")
    if named:
        return named
    if importlib.util.find_spec(backend) is None:
        pytest.skip(
            f"{backend} is not installed: `pip install {backend}` (for torch, the CPU build), or "
            f"set KERAS_MS_{backend.upper()}_PYTHON to the Python of an environment that has "
            f"{backend}, keras, numpy and h5py"
        )
    return sys.executable


def skip_without(backend):
    """Skips where this Python lacks a backend: trainings need TensorFlow's data beside it."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed beside TensorFlow: `pip install {backend}`")


def environment_of(backend):
    """The environment of a process on a backend; the processor is one device."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "KERAS_BACKEND": backend, "PYTHONPATH": path}


def command(words, backend, **options):
    """A finished `keras-ms` with these words on a backend."""
    code = [sys.executable, "-m", "keras_ms.cli", *map(str, words)]
    return subprocess.run(
        code, capture_output=True, text=True, timeout=1800, env=environment_of(backend), **options
    )
