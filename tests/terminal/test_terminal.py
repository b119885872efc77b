"""Commands without a terminal: closed outputs, broken pipes, odd encodings, signals."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_ms.cli.main import main
from keras_ms.terminal.streams import (
    OutputClosed,
    OutputLost,
    Terminated,
    command_output,
    ending_on_signals,
    lasting_output,
)

ROOT = str(Path(__file__).resolve().parents[2])


class Failing(io.StringIO):
    """Fails as a pipe without a reader, or a full disk, does."""

    def __init__(self, number=32):
        super().__init__()
        self.number = number

    def write(self, text=""):
        raise OSError(self.number, os.strerror(self.number))

    flush = write


@pytest.mark.parametrize("number", [5, 28, 32])
def test_output_that_is_lost_does_not_end_what_lasts(monkeypatch, number):
    monkeypatch.setattr(sys, "stdout", Failing(number))
    monkeypatch.setattr(sys, "stderr", Failing(number))
    with lasting_output():
        for _ in range(2):
            print("to nobody", flush=True)
            print("to nobody", file=sys.stderr, flush=True)
        assert not sys.stdout.isatty() and sys.stdout.encoding == "utf-8"
    assert isinstance(sys.stdout, Failing)


@pytest.mark.parametrize("number, kind", [(28, OutputLost), (32, OutputClosed)])
def test_output_that_is_lost_ends_other_commands(monkeypatch, number, kind):
    monkeypatch.setattr(sys, "stdout", Failing(number))
    with pytest.raises(kind, match="standard output cannot be written") as raised:
        with command_output():
            print("to nobody")
    assert raised.value.errno == number


@pytest.mark.parametrize("number", [28, 32])
def test_what_lasts_within_a_command_is_not_ended_by_it(monkeypatch, number):
    monkeypatch.setattr(sys, "stdout", Failing(number))
    with command_output(), lasting_output():
        print("to nobody", flush=True)


@pytest.mark.parametrize("number, code", [(28, 1), (32, 141)])
def test_help_that_nobody_can_read_is_no_success(monkeypatch, number, code):
    # argparse itself drops the error
    monkeypatch.setattr(sys, "stdout", Failing(number))
    assert main(["train", "--help"]) == code


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_no_output_from_the_start(monkeypatch, stream):
    closed = open(os.devnull, "w")
    closed.close()
    for nothing in (None, closed):
        monkeypatch.setattr(sys, stream, nothing)
        with pytest.raises(SystemExit) as stopped:
            main(["--help"])
        assert stopped.value.code == 0
        assert main(["report", "nothing"]) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_the_encoding_lacks_are_written_as_their_code(monkeypatch, encoding):
    for errors in ("strict", "surrogateescape"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors))
        with command_output():
            print("α of \udce9")
        assert raw.getvalue().decode(encoding, errors) in (
            "\\u03b1 of \\udce9\n", "α of \\udce9\n", "α of \udce9\n"
        )  # fmt: skip


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_end_a_command_with_a_word(monkeypatch, capsys, name):
    number = getattr(signal, name)
    # of tests that are started by nohup it is ignored
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Terminated, match=name) as raised, ending_on_signals():
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert raised.value.number == number
        assert signal.getsignal(number) == signal.SIG_DFL
        monkeypatch.setattr(
            "keras_ms.cli.report._check_run", lambda _: os.kill(os.getpid(), number)
        )
        assert main(["report", "a"]) == 128 + number
        assert capsys.readouterr().err == "Interrupted\n"
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def _shell(line, tmp_path, **variables):
    """Runs a line of bash, with $RUN for the command line."""
    variables["RUN"] = f"{sys.executable} -m keras_ms.cli"
    return subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": ROOT, **variables},
    )  # fmt: skip


@pytest.mark.slow
def test_a_reader_that_leaves_and_a_terminal_that_is_none(tmp_path):
    done = _shell("$RUN train --help | head -1; echo ${PIPESTATUS[0]}", tmp_path)
    assert done.stdout.split()[-1] in ("0", "141") and done.stderr == ""
    done = _shell("$RUN report none >&- 2>errors; echo $?; cat errors", tmp_path)
    assert done.stdout.startswith("1\nerror: Expected the folder of a run")
    done = _shell("$RUN weights --to a.png > /dev/full", tmp_path)
    assert done.returncode == 1 and "standard output cannot be written" in done.stderr
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_a_locale_without_characters(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = _shell("$RUN report 'Vögel α'", tmp_path, **plain)
    assert done.returncode == 1 and "Received: V" in done.stderr
    assert "Traceback" not in done.stderr
    done = _shell("$RUN convert-weights --help", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stderr == ""


def _as_in_a_terminal():
    # a shell starts background programs, and with them this test, deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_while_a_command_is_imported_leaves_no_traceback(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "keras_ms.cli", "train", "--help"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT}, preexec_fn=_as_in_a_terminal,
    )  # fmt: skip
    for line in process.stderr:  # a line for each module imported
        if "numpy" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGINT
    assert out == "" and "Traceback" not in err and err.endswith("Interrupted\n")
