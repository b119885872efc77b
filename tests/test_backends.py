"""Losses and metrics on Keras's JAX and torch backends give the values of the TensorFlow backend.

Each runs in a process of its own: by this Python where it has the package, else by the one that
KERAS_MS_JAX_PYTHON or KERAS_MS_TORCH_PYTHON names; its tests are skipped otherwise.
"""

import os
import subprocess
from pathlib import Path

import backend_values
import numpy as np
import pytest
from other_backends import python_for

PROGRAM = Path(__file__).with_name("backend_values.py")
PROJECT = PROGRAM.parents[1]


@pytest.fixture(scope="module")
def expected():
    return backend_values.values()


@pytest.fixture(scope="module", params=["jax", "torch"])
def found(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("backend") / "values.npz"
    environment = {
        **os.environ,
        "KERAS_BACKEND": request.param,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run(
        [python_for(request.param), PROGRAM, file],
        capture_output=True, text=True, timeout=1800, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(file) as values:
        return dict(values)


def largest_difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.xdist_group("backends")
def test_values_and_gradients_are_those_of_tensorflow(found, expected):
    """All public losses: dense, in blocks, against a memory, of the whole batch; metrics; a fit."""
    assert {"MultiSimilarityLoss, memory, gradient", "fit, weights"} <= set(found)
    assert {"best_positive_ranks", "precision_at_r"} <= set(found)
    assert set(expected) <= set(found)
    assert all(np.abs(values).max() > 0 for values in expected.values())
    differences = {name: largest_difference(found[name], expected[name]) for name in expected}
    assert not {name: value for name, value in differences.items() if not value <= 1e-5}


@pytest.mark.slow
@pytest.mark.xdist_group("backends")
def test_data_parallel_on_two_devices_equals_one(found):
    if "devices" not in found:
        pytest.skip("keras.distribution is for the JAX backend")
    assert found["devices"] == 2
    one, two = found["fit, weights"], found["fit on all devices, weights"]
    assert np.abs(two - one).max() <= 1e-6
