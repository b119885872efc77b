"""What a command frees and takes again is not fetched from the system each time."""

import os
import platform
import subprocess
import sys

import pytest

from keras_ms.terminal import memory

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the settings are those of GNU's C library"
)

_PAGES_OF_A_BLOCK = 2**26 // os.sysconf("SC_PAGESIZE")
# the second of two threads has memory of its own, by default
_CODE = f"""
import importlib.util, resource, threading
spec = importlib.util.spec_from_file_location("memory", {memory.__file__!r})
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)
memory._FEW_PROCESSORS = 10**6  # whatever this machine has
is_kept = memory.keep_freed_memory()

def take_and_free():
    for _ in range(3):
        b"x" * 2**26

def work():
    take_and_free()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    take_and_free()
    print(int(is_kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def _kept_and_faults(**variables):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", _CODE],
        capture_output=True, text=True, check=True, env=kept | variables, timeout=120,
    )  # fmt: skip
    return tuple(int(word) for word in done.stdout.split())


def test_a_block_that_is_freed_is_taken_again():
    is_kept, faults = _kept_and_faults()
    assert is_kept and faults < _PAGES_OF_A_BLOCK / 2


@pytest.mark.parametrize("name, value", [("MALLOC_TOP_PAD_", "0"), ("GLIBC_TUNABLES", "")])
def test_settings_of_the_user_are_left_alone(name, value):
    is_kept, faults = _kept_and_faults(**{name: value})
    assert not is_kept and faults > 2 * _PAGES_OF_A_BLOCK


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed_memory()
