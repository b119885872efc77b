"""Pairs across devices: MirroredStrategy on two, and two processes, equal one device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def differences():
    """Between one device and two, from a process of its own."""
    done = subprocess.run(
        [sys.executable, TESTS / "two_devices.py"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "case", ["sgd", "adam", "sum", "weighted mean of masked items", "empty part"]
)
def test_20_steps_on_two_devices_equal_one(differences, case):
    found = differences["fits"][case]
    assert found["moved"] > 0.1
    assert found["weights"] <= 1e-6
    assert found["mined_anchors"] <= 1e-6


def test_the_logged_loss_is_that_of_the_global_batch(differences):
    # even parts and, of the last batch, a single one
    assert differences["fits"]["empty part"]["loss"] <= 1e-6
    # Keras's own log weighs the values of an uneven batch by the sizes of its parts once more
    assert differences["fits"]["sgd"]["loss"] <= 2e-3


def test_recall_is_measured_on_all_replicas(differences):
    assert differences["fits"]["sgd"]["val_recall@1"] <= 1e-6


def test_every_loss_has_the_gradient_of_the_global_batch(differences):
    found = differences["gradients"]
    assert "MultiSimilarityLoss" in found
    wrong = {
        name: errors for name, errors in found.items()
        if not (errors["value"] <= 1e-6 and errors["gradient"] <= 1e-6)
    }  # fmt: skip
    assert not wrong
