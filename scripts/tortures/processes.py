"""Commands as processes of their own: forks of this one, which has imported all of it."""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import keras_ms.report.curriculum_page  # noqa: F401
import keras_ms.run.report  # noqa: F401
import keras_ms.run.training  # noqa: F401
from keras_ms.cli.main import main

TINY = (
    "--image-size", "16", "--embedding-size", "8", "--classes-per-batch", "4",
    "--images-per-class", "2", "--steps", "4", "--steps-per-epoch", "2", "--ks", "1,2",
)  # fmt: skip


# no command here takes a minute; one that takes so long will never end
_HANGS_AFTER = 1200  # s


class Outcome(NamedTuple):
    """What became of a command."""

    code: int
    output: str
    seconds: float

    def fault(self, codes=(0,), *words):
        """What is wrong, "" for nothing: another exit code, a traceback, words that are missing."""
        if self.code not in codes:
            return f"exit code {self.code}, expected {codes}\n{self.output}"
        if "Traceback" in self.output or "Exception ignored" in self.output:
            return f"a traceback\n{self.output}"
        missing = [word for word in words if word not in self.output]
        return f"no word of {missing}\n{self.output}" if missing else ""


class Process:
    """A command that runs.

    Args:
        words: of the command line.
        folder: working directory.
        before: function called in the process before the command. Defaults to None.
    """

    def __init__(self, words, folder, before=None):
        sys.stdout.flush()
        self._started = time.monotonic()
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _run(words, folder, writing, before)
        os.close(writing)
        self._output = []
        self._reader = threading.Thread(target=self._read, args=(reading,))
        self._reader.start()

    def kill(self, after, number=signal.SIGKILL):
        """Sends the signal after so many seconds, unless the process has ended."""
        time.sleep(after)
        os.kill(self.pid, number)  # of a child that ended there is still the number
        return self.wait()

    def wait(self):
        guard = threading.Timer(_HANGS_AFTER, os.kill, (self.pid, signal.SIGABRT))
        guard.start()
        status = os.waitpid(self.pid, 0)[1]
        guard.cancel()
        self._reader.join()
        seconds = time.monotonic() - self._started
        output = b"".join(self._output).decode(errors="replace")
        return Outcome(os.waitstatus_to_exitcode(status), output, seconds)

    def _read(self, descriptor):
        with open(descriptor, "rb") as pipe:
            while part := pipe.read1():
                self._output.append(part)


def command(words, folder, before=None):
    """Runs a command to its end."""
    return Process([str(word) for word in words], folder, before).wait()


def apart(function, *arguments):
    """The (count, fault) that a function returns, in a process of its own.

    TensorFlow has to start in the forks: one that has computed in this process cannot be used in
    them.
    """
    sys.stdout.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            outcome = function(*arguments)
        except BaseException:
            outcome = 1, traceback.format_exc()
        with open(writing, "w") as pipe:
            json.dump(outcome, pipe)
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(text) if text else (1, f"the process ended with {code}")


def _run(words, folder, output, before):
    code = 99
    try:
        os.chdir(folder)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1,
                          closefd=False)  # fmt: skip
        if before:
            before()
        code = main(words)
        if sys.stdout:
            sys.stdout.flush()
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code if isinstance(code, int) else 1)


def write_pictures(root: Any, names: Iterable[str] = "abcdefghijklmnop") -> Any:
    """Classes of 4 small PNG files, a colour each."""
    rng = np.random.default_rng(0)
    for name in names:
        folder = Path(root) / name
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, 3) * np.ones((20, 20, 1)) + rng.normal(0, 30, (20, 20, 3))
            pixels = pixels.clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def train_words(pictures, out, *more):
    """A training of two epochs in out/runs/run, without exports."""
    return [
        "train", "--data-dir", pictures, "--runs-folder", out / "runs", "--export-folder",
        out / "exports", "--run-name", "run", *TINY, "--export=", *more,
    ]  # fmt: skip


def left_over(folder):
    """Hidden folders and files that a command left, but for locks."""
    return [str(path) for path in Path(folder).rglob(".*") if path.name != ".lock"]


def contents(folder):
    """What a run leaves, to compare: names of files, and the state, history, recalls in them."""
    run = Path(folder)
    files = {str(path.relative_to(run)): b"" for path in run.rglob("*") if path.is_file()}
    files.pop(".lock", None)
    with np.load(run / "state.npz") as state:
        files |= {name: state[name].tobytes() for name in state.files}
    for name in ("history.csv", "baselines.json", "choice.json"):
        if name in files:
            files[name] = (run / name).read_bytes()
    return files


def difference(left, expected):
    """What a run left otherwise than expected, in words; "" for nothing."""
    names = sorted(set(left) | set(expected))
    other = [name for name in names if left.get(name) != expected.get(name)]
    return f"another {', '.join(other)}" if other else ""
