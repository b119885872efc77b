"""Outputs that are closed or full, pipes that nobody reads, signals, locales without characters."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tortures.processes import Process, command, train_words, write_pictures

NAMES = (
    "Vögel",
    "日本",
    "α β",
    "<b>",
    "a'b",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "k",
    "l",
    "m",
    "n",
    "o",
)
_ROOT = Path(__file__).resolve().parents[2]


def cases(place, seed, short):
    pictures = write_pictures(place / "pictures", NAMES)
    train = [*train_words(pictures, place / "whole"), "--seed", seed]
    first = command(train, place)
    yield "training", lambda: (1, first.fault())
    run = place / "whole" / "runs" / "run"
    commands = {
        "train": None,
        "report": ["report", run],
        "evaluate": ["evaluate", run / "embedder.keras", pictures],
        "curriculum": ["curriculum", run / "embedder.keras", "--data-dir", pictures],
        "weights": ["weights"],
        "export": ["export", run / "embedder.keras", "--to", place / "e", "--formats",
                   "saved_model"],
        "help": ["train", "--help"],
        "error": ["report", place / "none"],
    }  # fmt: skip
    number = 0
    for name, words in commands.items():
        for state in _STATES:
            if short and (name, state) not in _SHORT:
                continue
            if name in ("report", "curriculum", "export") and state not in _ALL_COMMANDS:
                continue
            number += 1
            given = words or [*train_words(pictures, place / f"out{number}"), "--seed", seed]
            yield f"{name}, {state}", lambda n=name, w=given, s=state: (1, _case(n, w, s, place))
    for name in ("SIGTERM", "SIGHUP", "SIGINT")[: 1 if short else 3]:
        words = [*train_words(pictures, place / name), "--steps", "4000"]
        yield f"training, {name}", lambda words=words, name=name: (
            1, _signalled([str(word) for word in words], place, place / name, name)
        )  # fmt: skip
    for number, variables in enumerate(_LOCALES[:1] if short else _LOCALES):
        # --export=… and a run of the same kind of name
        words = [*train_words(pictures, place / f"λ{number}"), "--run-name", "Vögel"]
        words[words.index("--export=")] = "--export=saved_model"
        yield f"training, {variables}", lambda words=words, variables=variables: (
            1, _in_locale(words, place, variables)
        )  # fmt: skip


def _no_output():
    os.close(1)
    sys.stdout = None
    os.open(os.devnull, os.O_WRONLY)  # as a command does at its start


def _no_error():
    os.close(2)
    sys.stderr = None
    os.open(os.devnull, os.O_WRONLY)


def _broken_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def _both_broken():
    _broken_pipe()
    os.dup2(1, 2)


def _full():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _ascii():
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(open(number, "wb", closefd=False), "ascii", "strict")
        setattr(sys, name, stream)


_STATES = {
    "no standard output": _no_output,
    "no standard error": _no_error,
    "a broken pipe": _broken_pipe,
    "two broken pipes": _both_broken,
    "a full disk as output": _full,
    "ASCII alone": _ascii,
}
_SHORT = {
    ("train", "a broken pipe"), ("weights", "a full disk as output"), ("help", "ASCII alone"),
    ("error", "two broken pipes"),
}  # fmt: skip
# of commands that take long, the states that the others do not stand for
_ALL_COMMANDS = ("no standard output", "a broken pipe")
_LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX"},
    {"PYTHONIOENCODING": "ascii"},
]


def _case(name, words, state, place):
    done = command(words, place, before=_STATES[state])
    expected = 1 if name == "error" else 0
    if name not in ("train", "error"):
        expected = {"a broken pipe": 141, "two broken pipes": 141, "a full disk as output": 1}.get(
            state, 0
        )
    return done.fault((expected,))


def _signalled(words, place, out, name):
    number = getattr(signal, name)
    # under nohup, or in the background of a shell, a process begins deaf to some
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    process = Process(words, place, before=lambda: signal.signal(number, usual))
    state = out / "runs" / "run" / "state.npz"
    ends = time.monotonic() + 300
    while not state.exists() and time.monotonic() < ends:
        time.sleep(0.05)
    done = process.kill(0, number)
    return done.fault((128 + number,), "Interrupted. Continue with:", "--resume")


def _in_locale(words, place, variables):
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "keras_ms.cli", *map(str, words)],
        cwd=place, capture_output=True, env=environment,
    )  # fmt: skip
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode or "Traceback" in output:
        return f"exit code {done.returncode}\n{output}"
    return ""
