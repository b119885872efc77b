"""A process that answers a line with a line, such as another interpreter with another library."""

import select
import subprocess
from typing import Any


class AnsweringProcess:
    """Asks a process that reads lines and writes one for each.

    Args:
        command: its words.
        **options: as in `subprocess.Popen`.
    """

    def __init__(self, command: list[str], **options: Any):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def send(self, line: str) -> None:
        self._questions.write(line + "\n")
        self._questions.flush()

    def answer(self) -> str:
        """The next line; "" once the process has ended."""
        return self._answers.readline().rstrip("\n")

    def answers_within(self, seconds: float) -> bool:
        # one line answers one question, so nothing waits in the reader's buffer
        return bool(select.select([self._answers], [], [], seconds)[0])

    def close(self) -> int:
        """Ends the process by the end of its input; its code."""
        self._questions.close()
        return self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()
