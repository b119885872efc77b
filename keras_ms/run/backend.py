"""Keras's backend of this process: what it cannot do of a run is said before training."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_ms.run.folder import RunFolder
from keras_ms.run.model import device_strategy
from keras_ms.run.settings import Settings

_TRAINING = ("tensorflow", "jax", "torch")


def check_backend(settings: Settings) -> None:
    """Raises ValueError for settings that the backend of this process does not take.

    Args:
        settings: `Settings`.
    """
    backend = keras.backend.backend()
    if backend not in _TRAINING:
        raise ValueError(
            f"Expected one of Keras's backends {', '.join(_TRAINING)} to train on. Received: "
            f"KERAS_BACKEND={backend}"
        )
    if backend != "tensorflow" and settings.hdml.mode != "off":
        raise _refusal(f"hdml={settings.hdml.mode}", "its step has three optimizers", "")
    if backend == "jax" and settings.loss.name == "hierarchical_triplet":
        why = "a step that JAX has compiled does not see the margins of a new class tree"
        raise _refusal("loss=hierarchical_triplet", why, " or torch")
    if backend == "torch" and settings.training.devices > 1:
        why = "tf.distribute and keras.distribution share a batch on TensorFlow and on JAX"
        raise _refusal(f"devices={settings.training.devices}", why, " or jax")


def check_same_backend(run: RunFolder) -> None:
    """Raises ValueError where a run to resume began on another backend, which rounds otherwise.

    Args:
        run: the run's folder.
    """
    with run.errors_name_file(run.environment_file):
        began = (run.read_json(run.environment_file) or {}).get("backend")
    if began not in (None, keras.backend.backend()):
        raise ValueError(
            f"{run.path} began on Keras's {began} backend, where it would end otherwise than here. "
            f"Set KERAS_BACKEND={began} to resume it. Received: {keras.backend.backend()}"
        )


@contextlib.contextmanager
def prepared_backend(settings: Settings) -> Iterator[Any]:
    """Yields what shares batches among the devices of the settings; within, models may be made.

    Args:
        settings: `Settings`.

    Raises:
        ValueError: as `check_backend`, and more devices than there are.
    """
    check_backend(settings)
    keep_tensorflow_off_gpus()
    strategy = device_strategy(settings)
    with contextlib.ExitStack() as stack:
        if strategy is not None and keras.backend.backend() == "jax":
            # fit and predict read it, not only what makes variables
            stack.enter_context(strategy.scope())
        yield strategy


def keep_tensorflow_off_gpus() -> None:
    """On other backends than TensorFlow's, which reads the images all the same, their GPUs are
    theirs: it would take all of the memory with its first operation."""
    if keras.backend.backend() == "tensorflow":
        return
    import tensorflow as tf

    # too late where something has computed before: then nothing can be changed
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


def _refusal(given, why, others):
    return ValueError(
        f"{given} does not train on Keras's {keras.backend.backend()} backend: {why}. Set "
        f"KERAS_BACKEND=tensorflow{others}, or leave it out"
    )
