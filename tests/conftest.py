"""Fixtures shared by the tests, and how the libraries under them are started."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests compile programs that run once: optimising them takes longer than all they compute. What
# users' programs are made of is tested by tests/other_processors.py, which gives flags of its own.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    # one process a core: threads of each would only take turns with those of the others
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# A disk that is asked for one file may first write all that other tests left, for up to a minute.
# Whether files are whole after a kill, which is tested, does not depend on it.
os.fsync = lambda file: None


def pytest_collection_finish():
    # the modules imported by now stay to the end: the garbage collector need not look at them
    gc.collect()
    gc.freeze()


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
