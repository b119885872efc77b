"""One training by two processes on JAX: the losses of one process, one run folder, resumed."""

import json
import os
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from other_backends import command, environment_of, skip_without
from small_runs import (
    _KILLED,
    SMOOTH,
    assert_same_losses,
    assert_same_state,
    history,
    train_words,
    write_gradients,
)

from keras_ms.run import processes
from keras_ms.run.processes import joined_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_gradients(tmp_path_factory.mktemp("data") / "gradients")


def small(folder, out, *more):
    return train_words(folder, out, *SMOOTH, *more)


def together(code, *, first_ends_first=False):
    """(exit code, standard output, standard error) of two processes that are told of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **environment_of("jax"),
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, code)],
            env={**environment, "KERAS_DISTRIBUTION_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        if first_ends_first:
            processes[0].wait(timeout=1800)
            processes[1].kill()
        outputs = [process.communicate(timeout=1800) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs)]


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    skip_without("jax")
    out = tmp_path_factory.mktemp("two")
    words = small(folder, out, "--devices", "2", "--export", "onnx")
    return out, together(["-m", "keras_ms.cli", *words])


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.xdist_group("several processes")
def test_two_processes_have_the_losses_of_one_and_the_first_writes(uninterrupted, folder, tmp_path):
    out, ended = uninterrupted
    assert [code for code, *_ in ended] == [0, 0], ended
    # but the library that connects them
    silent = [line for line in ended[1][1].splitlines() if not line.startswith("[Gloo]")]
    assert "Written:" in ended[0][1] and not silent
    assert [path.name for path in (out / "runs").iterdir()] == ["run"]
    summary = json.loads((out / "runs" / "run" / "summary.json").read_text())
    assert summary["exports"]["onnx"]["max_difference"] <= 1e-5
    done = command(small(folder, tmp_path, "--export", ""), "jax")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_losses(out / "runs" / "run", tmp_path / "runs" / "run")


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.xdist_group("several processes")
def test_killed_and_resumed_they_end_as_uninterrupted(uninterrupted, folder, tmp_path):
    run = tmp_path / "runs" / "run"
    words = small(folder, tmp_path, "--devices", "2", "--export", "")
    killed = together(["-c", _KILLED, run / "state.npz", *words], first_ends_first=True)
    assert killed[0][0] == -signal.SIGKILL
    assert len(history(run)) == 1
    resumed = together(["-m", "keras_ms.cli", "train", "--resume", run])
    assert [code for code, *_ in resumed] == [0, 0], resumed
    assert_same_state(run, uninterrupted[0] / "runs" / "run")


NAMED = {
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "host0:2222",
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    "KERAS_DISTRIBUTION_PROCESS_ID": "0",
}


@pytest.mark.parametrize(
    "backend, changed, words",
    [
        ("tensorflow", {}, "names several processes, which train together on Keras's JAX backend"),
        ("jax", {"KERAS_DISTRIBUTION_PROCESS_ID": "2"}, "which of them this is, from 0.*: '2'"),
        ("jax", {"KERAS_DISTRIBUTION_NUM_PROCESSES": ""}, "the number of processes in KERAS_DIST"),
    ],
)
def test_what_cannot_be_joined_is_refused(monkeypatch, backend, changed, words):
    for name, value in (NAMED | changed).items():
        monkeypatch.setitem(os.environ, name, value)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(ValueError, match=words), joined_processes():
        pass


@pytest.mark.parametrize("size", [1, 9, 10, 11, 35])
def test_what_is_sent_arrives_in_parts(size, monkeypatch):
    """Lengths beyond 32 bits are never sent: a run may be larger than 2 GiB."""
    utils = pytest.importorskip("jax.experimental.multihost_utils", reason="needs JAX")
    content, sent = bytes(range(size)), []

    def from_the_first(value):
        sent.append(np.array(value))
        return value

    monkeypatch.setattr(processes, "_PART", 10)
    monkeypatch.setattr(utils, "broadcast_one_to_all", from_the_first)
    assert processes._broadcast(content) == content
    to_come = iter(sent)

    def from_another(value):
        arrived = next(to_come)
        assert (value.shape, value.dtype) == (arrived.shape, arrived.dtype)
        return arrived

    monkeypatch.setattr(utils, "broadcast_one_to_all", from_another)
    assert processes._broadcast(b"") == content and next(to_come, None) is None
    assert max(value.size for value in sent) <= 10
