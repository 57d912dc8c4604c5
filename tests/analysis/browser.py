"""A headless Chromium driven over its debugging protocol: one page, its JavaScript, its keyboard, its pictures."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
KEYS = {"ArrowRight": 39, "ArrowUp": 38, "ArrowLeft": 37, "Home": 36, "End": 35, "Tab": 9, "Enter": 13, "Space": 32}
START_SECONDS = 60.0
ANSWER_SECONDS = 60.0


def executable() -> str:
    """The path of an installed Chromium or Chrome; a test that asks without one is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip("no Chromium or Chrome is installed (on Debian: apt-get install chromium)")
    return found


class Page:
    """One open page.

    Attributes:
        problems: uncaught errors and everything the page wrote to its console as a warning or an error.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._calls = 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; returns its result."""
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=ANSWER_SECONDS))
            if message.get("id") == self._calls:
                assert "error" not in message, message["error"]
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.problems.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.problems.append(parameters["entry"]["text"])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until everything asked for so far is drawn."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def resize(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        """Show the page as on a screen of that many CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def prefer(self, **features: str) -> None:
        """Media preferences, as ``prefer(color_scheme="dark")``; none resets them."""
        listed = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def open(self, address: str) -> None:
        """Go there and wait until it is drawn."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        self.evaluate(
            "new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))"
        )
        self.settle()

    def press(self, key: str, times: int = 1) -> None:
        """Press a key as a user does, on whatever has the focus."""
        code = KEYS[key]
        shown = " " if key == "Space" else key
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                typed = (
                    {"text": {"Space": " ", "Enter": "\r"}[key]}
                    if key in ("Space", "Enter") and kind == "keyDown"
                    else {}
                )
                self.call("Input.dispatchKeyEvent", type=kind, key=shown, code=key, windowsVirtualKeyCode=code, **typed)
        self.settle()

    def type(self, text: str) -> None:
        """Insert text where the focus is."""
        self.call("Input.insertText", text=text)
        self.settle()

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of what is seen, or of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


def the_answer_fits(window: Page, screens: Sequence[tuple[int, int]]) -> None:
    """On screens of these sizes, in pixels: nothing scrolls sideways, and the line of the answer needs no scrolling."""
    for width, height in screens:
        window.resize(width, height, mobile=width < 500)
        window.settle()
        assert window.evaluate("document.documentElement.scrollWidth") <= width
        bottom = window.evaluate("document.querySelector('.line').getBoundingClientRect().bottom")
        assert 0 < bottom < height


@contextmanager
def browser(command: str, profile: Path) -> Iterator[Page]:
    """A page in a fresh Chromium whose files are in ``profile``; the browser ends with the block."""
    with (profile / "output").open("wb") as output:
        process = subprocess.Popen([command, *FLAGS, f"--user-data-dir={profile}"], stdout=output, stderr=output)
    try:
        port = _port(profile / "DevToolsActivePort", process)
        # Through no proxy: the browser is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=START_SECONDS) as answer:
            targets = json.load(answer)
        address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        with connect(address, max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that the browser writes when it listens."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and "\n" in (written := file.read_text()):
            return int(written.splitlines()[0])
        time.sleep(0.05)
    raise RuntimeError(f"the browser does not listen: {(file.parent / 'output').read_text(errors='replace')[-2000:]}")
