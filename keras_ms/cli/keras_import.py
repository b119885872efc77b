"""Keras, imported by a command once its arguments are right: it takes seconds."""

import contextlib
import importlib

from keras_ms.terminal.start import quiet_import


def import_keras() -> None:
    """Imports Keras, without TensorFlow's start-up lines, and registers what keras_ms saves."""
    with quiet_import():
        importlib.import_module("keras")
        # on another backend images are read with it all the same
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("tensorflow")
    importlib.import_module("keras_ms.run.registered")
