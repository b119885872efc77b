"""One training by several processes, on JAX: the first writes its folder, the others compute along.

Each process runs the same command and computes the same run; the others do so in a folder of their
own that nobody keeps, begun with what the first one has in its folder. So they need no shared disk.
"""

import contextlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_ms.pairs.replicas import data_shard
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings

# those that keras.distribution.initialize reads
_ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
_NUMBER = "KERAS_DISTRIBUTION_NUM_PROCESSES"
_INDEX = "KERAS_DISTRIBUTION_PROCESS_ID"
# of a process that failed, for the others; JAX's own is five minutes
_SECONDS_TO_END = 30
_PART = 1 << 26  # bytes sent at a time


@contextlib.contextmanager
def joined_processes() -> Iterator[None]:
    """Within, this process is one of those that the environment names; alone, where it names none.

    KERAS_DISTRIBUTION_JOB_ADDRESSES has the address of the first process, such as host0:2222,
    KERAS_DISTRIBUTION_NUM_PROCESSES how many there are, KERAS_DISTRIBUTION_PROCESS_ID which one
    this is, from 0. All but the first print nothing to standard output.

    Raises:
        ValueError: another backend than JAX, or a variable that is missing or no number.
    """
    if _ADDRESSES not in os.environ:
        yield
        return
    index, number = _place()
    import jax
    from jax.experimental import multihost_utils

    if not jax.distributed.is_initialized():
        # it would keep SIGTERM from ending a run
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            os.environ[_ADDRESSES].partition(",")[0],
            num_processes=number,
            process_id=index,
            shutdown_timeout_seconds=_SECONDS_TO_END,
        )
    with contextlib.ExitStack() as stack:
        if index:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
        # the first one has files to write that the others do not
        multihost_utils.sync_global_devices("keras_ms run ended")


def process_index() -> int:
    """Which of the processes this is, from 0; 0 of one alone."""
    return data_shard()[0]


def send_run(run: RunFolder, settings: Settings, *, resume: bool) -> None:
    """Gives the other processes the settings of a run and, of one to resume, its files.

    Called by the first of them; by one alone it does nothing.
    """
    if data_shard() == (0, 1):
        return
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("sent_settings.json", settings.to_json())
        for file in sorted(run.path.iterdir()) if resume else ():
            if file.is_file() and not file.name.startswith("."):
                archive.write(file, f"run/{file.name}")
    _broadcast(content.getvalue())


@contextlib.contextmanager
def received_run() -> Iterator[tuple[RunFolder, Settings]]:
    """Yields what `send_run` gave, in a folder that is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="keras_ms_process_") as folder:
        with zipfile.ZipFile(io.BytesIO(_broadcast(b""))) as archive:
            archive.extractall(folder)
        settings = Settings.read(Path(folder, "sent_settings.json"))
        # what is written lies here, and the files for others are the first one's
        settings = settings.with_values(runs_folder=folder, export_folder=folder, export=())
        run = RunFolder(Path(folder, "run"))
        run.path.mkdir(exist_ok=True)
        if run.curriculum_file.is_file():
            settings = settings.with_values(curriculum=str(run.curriculum_file))
        yield run, settings


def _place() -> tuple[int, int]:
    """(index, number) of this process, as the environment says."""
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"{_ADDRESSES} names several processes, which train together on Keras's JAX backend. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}. Unset it, or see docs/devices.md"
        )
    texts = {name: os.environ.get(name, "") for name in (_NUMBER, _INDEX)}
    try:
        number, index = (int(text) for text in texts.values())
    except ValueError:
        number, index = 0, 0
    if not 0 <= index < number:
        raise ValueError(
            f"Expected beside {_ADDRESSES} the number of processes in {_NUMBER}, and in {_INDEX} "
            f"which of them this is, from 0. Received: {texts}"
        )
    return index, number


def _broadcast(content: bytes) -> bytes:
    """The bytes of the first process, on each."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    # in parts, whose number and rest are within JAX's 32 bits, however large a run is
    sizes = np.array(divmod(len(content), _PART), np.int32)
    parts, rest = map(int, broadcast_one_to_all(sizes))
    received = []
    for number, size in enumerate([_PART] * parts + [rest] * (rest > 0)):
        part = np.frombuffer(content[number * _PART : number * _PART + size], np.uint8)
        own = part if len(part) else np.zeros(size, np.uint8)
        received.append(np.asarray(broadcast_one_to_all(own)).tobytes())
    return b"".join(received)
