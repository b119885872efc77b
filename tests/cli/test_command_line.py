"""What the command line says when it is interrupted or fails: a command that can be pasted."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import train_words, write_gradients

from keras_ms.cli.main import main
from keras_ms.run import report as run_report
from keras_ms.run import training
from keras_ms.run.folder import RunFolder
from keras_ms.terminal.command_words import RunInterrupted, resume_command

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PYTHON, RUN = "/venv/bin/python", "/home/me/my runs/birds"


@pytest.fixture
def started(monkeypatch):
    """As if the interpreter had been started with these words."""

    def start(words, argv):
        monkeypatch.setattr(sys, "orig_argv", words)
        monkeypatch.setattr(sys, "argv", argv)

    return start


@pytest.mark.parametrize(
    "words, argv, arguments, expected",
    [
        (["python", "scripts/train.py", "--steps", "9"], ["scripts/train.py", "--steps", "9"],
         ["train", "--steps", "9"], "python scripts/train.py --resume"),
        (["python3", "-u", "train.py"], ["train.py"], ["train"], "python3 -u train.py --resume"),
        (["python", "my recipes/birds.py", "--seed", "1"], ["my recipes/birds.py", "--seed", "1"],
         ["train", "--config", "/tmp/x/settings.json", "--seed", "1"],
         "python 'my recipes/birds.py' --resume"),
        (["python", "birds.py"], ["birds.py"], ["train", "--config", "/tmp/x/settings.json"],
         "python birds.py --resume"),
        (["python", "birds.py", "hdml", "--seed", "1"], ["birds.py", "hdml", "--seed", "1"],
         ["train", "--config", "/tmp/x/settings.json", "--seed", "1"], "python birds.py --resume"),
        ([PYTHON, "-m", "keras_ms.cli", "train"], ["/x/keras_ms/cli/main.py", "train"], None,
         f"{PYTHON} -m keras_ms.cli train --resume"),
        (["python", "-m", "keras_ms.cli", "report", "r"],
         ["/x/keras_ms/cli/main.py", "report", "r"], None, "python -m keras_ms.cli train --resume"),
        ([PYTHON, "/no/path/bin/keras-ms", "train"], ["/no/path/bin/keras-ms", "train"], None,
         "/no/path/bin/keras-ms train --resume"),
        # not typed: other code called the command line, or changed the words
        (["python", "mine.py", "birds"], ["mine.py", "birds"], ["train", "--steps", "9"],
         "keras-ms train --resume"),
        (["python", "-m", "pytest", "-q"], ["/x/pytest/__main__.py", "-q"],
         ["train", "--config", "a.json", "--steps", "9"], "keras-ms train --resume"),
        (["python", "mine.py", "birds"], ["mine.py", "rewritten"], None,
         "keras-ms train --resume"),
    ],
)  # fmt: skip
@pytest.mark.skipif(os.name == "nt", reason="quotes of a POSIX shell")
def test_the_command_that_continues_a_run(started, words, argv, arguments, expected):
    started(words, argv)
    command = resume_command(RUN, arguments)
    assert command == f"{expected} '{RUN}'"
    assert shlex.split(command)[-1] == RUN


def test_the_installed_command_is_called_by_its_name(started, tmp_path, monkeypatch):
    program = tmp_path / "keras-ms"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    started([PYTHON, str(program), "train"], [str(program), "train"])
    assert resume_command("runs/a") == "keras-ms train --resume runs/a"


def _raising(error):
    def raise_it(*arguments, **options):
        raise error

    return raise_it


def test_an_interrupted_run_is_told_once_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr(training, "train", _raising(RunInterrupted(RUN)))
    assert main(["train"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"Interrupted. Continue with: {resume_command(RUN, ['train'])}\n"


def test_ctrl_c_before_there_is_a_run(monkeypatch, capsys):
    monkeypatch.setattr(training, "load_run_images", _raising(KeyboardInterrupt()))
    assert main(["train"]) == 130
    assert capsys.readouterr() == ("", "Interrupted\n")


def test_a_run_without_weights_says_how_it_goes_on(monkeypatch, capsys, tmp_path):
    run = RunFolder(tmp_path / "a run")
    run.path.mkdir()
    run.settings_file.write_text("{}")
    assert main(["report", str(run.path)]) == 1
    err = capsys.readouterr().err
    command = resume_command(run.path, ["report", str(run.path)])
    assert "has no weights yet" in err and err.endswith(f"Continue it with: {command}\n")
    # of Python code: what is missing, and where
    with pytest.raises(FileNotFoundError, match="has no weights yet") as caught:
        run_report.run_report(run, tmp_path / "page.html")
    assert caught.value.path == run.path


# the package without its own imports, which take seconds
_BARE = f"""
import sys, types
package = sys.modules["keras_ms"] = types.ModuleType("keras_ms")
package.__path__ = [{str(SCRIPTS.parent / "keras_ms")!r}]
from keras_ms.terminal.command_words import resume_command
"""


def test_words_of_a_real_start(tmp_path):
    script = tmp_path / "my train.py"
    script.write_text(_BARE + "print(resume_command('runs/a', ['train', *sys.argv[1:]]))\n")
    done = subprocess.run(
        [sys.executable, "-u", str(script), "--steps", "3"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    expected = [sys.executable, "-u", str(script), "--resume", "runs/a"]
    assert shlex.split(done.stdout) == expected


def test_words_of_a_program_that_is_code_in_quotes():
    code = _BARE + "print(resume_command('runs/a'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "keras-ms train --resume runs/a\n", done.stderr


def _started_by_a_user(*words, **variables):
    """A command without the settings of this test session; returns its output and its errors."""
    hidden = ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True, text=True, timeout=250, env=environment | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (SCRIPTS / "train.py", "--help"),
        (SCRIPTS / "recipes" / "omniglot.py", "hdml", "--help"),
        ("-m", "keras_ms.cli", "report", "--help"),
    ],
    ids=["script", "recipe", "module"],
)
def test_help_shows_nothing_of_tensorflow(words):
    out, err = _started_by_a_user(*words)
    assert "usage" in out and err == ""


@pytest.mark.slow
def test_who_asks_for_the_lines_of_tensorflow_gets_them(tmp_path):
    # a command that works: help imports no TensorFlow
    words = ("weights", "--losses", "contrastive", "--to", tmp_path / "weights.png")
    _, err = _started_by_a_user("-m", "keras_ms.cli", *words, TF_CPP_MIN_LOG_LEVEL="0")
    assert "oneDNN" in err or "CUDA" in err or "cuda" in err


@pytest.mark.slow
def test_a_training_shows_nothing_of_tensorflow(tmp_path):
    folder = write_gradients(tmp_path / "gradients")
    # two steps that surely find pairs: no warning of the library either
    more = ("--steps", "2", "--steps-per-epoch", "2", "--loss.epsilon", "2")
    script = _started_by_a_user(SCRIPTS / "train.py", *train_words(folder, tmp_path, *more)[1:])
    assert "Recall@K" in script[0] and script[1] == ""
