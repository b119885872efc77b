"""Chromium without a window, told over a pipe to open pages, choose files and read values."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def find_chromium() -> str | None:
    """The program, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class HeadlessChromium:
    """One page of a browser; a context that ends it.

    Args:
        width, height: of the page, in pixels.

    Raises:
        FileNotFoundError: no Chromium in the path.

    Example:

    ```python
    with HeadlessChromium(width=390) as page:
        page.open("file:///tmp/page/index.html")
        print(page.value("document.title"))
    ```
    """

    def __init__(self, width: int = 1280, height: int = 900):
        program = find_chromium()
        if program is None:
            raise FileNotFoundError(f"Expected one of {', '.join(NAMES)} in the path")
        self._profile = tempfile.mkdtemp()
        from_us, questions = os.pipe()
        answers, to_us = os.pipe()

        def take_pipes() -> None:
            # the browser reads from 3 and writes to 4; either may be one of our own numbers
            reading, writing = os.dup(from_us), os.dup(to_us)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self._process = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={self._profile}", "about:blank"],
            preexec_fn=take_pipes, close_fds=False, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        self._questions = os.fdopen(questions, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb", buffering=0)
        self._unread, self._number, self._session = b"", 0, None
        targets = self.ask("Target.getTargets")["targetInfos"]
        (page,) = [one["targetId"] for one in targets if one["type"] == "page"]
        attached = self.ask("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")
        self.resize(width, height)

    def __enter__(self) -> "HeadlessChromium":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._questions.close()
        self._answers.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a method of its protocol.

        Raises:
            RuntimeError: it refuses, or it has ended.
        """
        self._number += 1
        question = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            question["sessionId"] = self._session
        self._questions.write(json.dumps(question).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def resize(self, width: int, height: int) -> None:
        """Gives the page another size; a width below 600 is a phone's."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def open(self, address: str) -> None:
        """Opens an address and waits until its scripts have run."""
        self.ask("Page.navigate", url=address)
        self.value(
            "new Promise((done) => document.readyState === 'complete' ? done() : "
            "addEventListener('load', done))"
        )

    def value(self, expression: str) -> Any:
        """The value of an expression in the page, of a promise once it is kept.

        Raises:
            RuntimeError: it throws.
        """
        found = self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            thrown = found["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", thrown).get("description", thrown["text"]))
        return found["result"].get("value")

    def processor_seconds(self) -> float:
        """Seconds of processor time that the processes of pages have taken."""
        session, self._session = self._session, None  # only the browser itself knows
        processes = self.ask("SystemInfo.getProcessInfo")["processInfo"]
        self._session = session
        return sum(one["cpuTime"] for one in processes if one["type"] == "renderer")

    def choose_files(self, selector: str, paths: Sequence[str | Path]) -> None:
        """Chooses files in an input of the page, as a user does."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def write_screenshot(self, path: str | Path) -> None:
        """Writes what the page shows as a PNG file."""
        Path(path).write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            more = os.read(self._answers.fileno(), 1 << 20)
            if not more:
                raise RuntimeError("Chromium has ended")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\0")
        return json.loads(line)
