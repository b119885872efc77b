"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _shared_folder():
    given = os.environ.get("KERAS_MS_DATA")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real images: $KERAS_MS_DATA, else ../shared/data beside the project."""
    folder = _shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}: set KERAS_MS_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def shared_weights(shared_data):
    """ImageNet weights, in the folder `weights` beside the data folder."""
    folder = shared_data.parent / "weights"
    if not folder.is_dir():
        pytest.skip(f"no ImageNet weights at {folder}")
    return folder
