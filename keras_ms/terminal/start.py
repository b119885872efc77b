"""The first moments of a command, and TF_CPP_MIN_LOG_LEVEL from the first line on.

TensorFlow reads the variable after its libraries are loaded; what they print while they are being
loaded (oneDNN, missing CUDA drivers) no setting silences. Nothing here imports anything of
TensorFlow, or of this package: it has to be there before.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# not empty once `start_command` has changed what Ctrl-C does; sys.argv changes meanwhile
_started = []

# Runs in a process of its own, which lives on if the importing one aborts: a fatal message, such
# as that of a processor that TensorFlow was not built for, still reaches the user.
_FILTER = r"""
import re, sys
dropped = re.compile(rb"[%s]\d{4} \d|WARNING: All log messages before absl::InitializeLog")
for line in sys.stdin.buffer:
    if not dropped.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


def is_command() -> bool:
    """Whether this process is `keras-ms`, `python -m keras_ms.cli` or a script that stands for it.

    Such scripts are train, export and the recipes in scripts/; all others are a user's own program.
    """
    arguments = sys.orig_argv
    by_module = (
        any(pair == ("-m", "keras_ms.cli") for pair in zip(arguments[1:], arguments[2:]))
        and sys.argv[0] == "-m"
    )
    return by_module or Path(sys.argv[0]).stem == "keras-ms" or _is_command_script(sys.argv[0])


def _is_command_script(program):
    path = Path(program).resolve()
    return path in (_SCRIPTS / "train.py", _SCRIPTS / "export.py") or (
        path.parent == _SCRIPTS / "recipes"
    )


def start_command() -> None:
    """Prepares the process of a command, before anything large is imported.

    Standard input, output and error that were closed are opened onto nothing: else the next file
    that is opened, such as one that is being written, gets their number, and with it what
    TensorFlow prints. Ctrl-C ends the process without a traceback until `interrupt_raises`.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _started.append(True)


def interrupt_raises() -> None:
    """Ctrl-C raises KeyboardInterrupt again, once there is someone to catch it."""
    if _started and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Drops TensorFlow's messages below TF_CPP_MIN_LOG_LEVEL while it is imported.

    1 drops what informs, 2 warnings too, 3 all but what is fatal; without the variable, or with 0,
    everything is shown. Exceptions are never dropped, and neither is what others write.

    Example:

    ```python
    with quiet_import():
        import tensorflow
    ```
    """
    kinds = "IWE"[: _level()]
    if not kinds or "tensorflow" in sys.modules or "python" not in Path(sys.executable).name:
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error to keep clean
        yield
        return
    code = [sys.executable, "-I", "-S", "-c", _FILTER % kinds]
    # in a session of its own: a Ctrl-C is not for it
    with subprocess.Popen(
        code, stdin=subprocess.PIPE, stdout=kept, start_new_session=True
    ) as reader:
        assert reader.stdin is not None  # it was asked for
        os.dup2(reader.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _level():
    try:
        return max(0, min(3, int(os.environ.get(_VARIABLE, "0"))))
    except ValueError:
        return 0
