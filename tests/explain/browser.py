"""A headless Chromium, driven through two pipes by its DevTools protocol: real keys, real focus, its own console.

with Browser("/usr/bin/chromium") as browser:
    browser.open(Path("page.html").absolute().as_uri())
    browser.press("Tab")
    browser.value("document.activeElement.tagName")
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from typing import Any

PATIENCE = 60  # seconds for one answer, on a busy machine
KEYS = {
    "n": 78,
    "p": 80,
    "Tab": 9,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}
CONTROL = 2
# The program reads messages from 3 and writes its own to 4. By way of 100 and 101, since 3 may be the one for 4.
PIPES = """
import os, sys
for there, here in ((100, int(sys.argv[1])), (101, int(sys.argv[2])), (3, 100), (4, 101)):
    os.dup2(here, there)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page. `complaints` is what its console and its log said, `asked` every address it asked for."""

    def __init__(self, program: str):
        self._folder = tempfile.TemporaryDirectory()
        (its_in, self._out), (self._in, its_out) = os.pipe(), os.pipe()
        command = [
            *(sys.executable, "-c", PIPES, str(its_in), str(its_out), program),
            *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"),
            *("--disable-background-networking", "--window-size=1200,900", f"--user-data-dir={self._folder.name}"),
            "about:blank",
        ]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=(its_in, its_out), stdout=quiet, stderr=quiet)
        os.close(its_in)
        os.close(its_out)
        self._read, self._number, self._session = b"", 0, None
        self.complaints: list[str] = []
        self.asked: list[str] = []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: Any) -> None:
        os.close(self._out)  # no more messages: the browser leaves
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its answer; what happens meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            part = os.read(self._in, 1 << 16) if ready else b""
            assert part, "the browser does not answer"
            self._read += part
        raw, self._read = self._read.split(b"\0", 1)
        message = json.loads(raw)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, what: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.asked.append(what["request"]["url"])
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(f"{event}: {json.dumps(what)[:500]}")

    def open(self, address: str) -> None:
        """Load a page, and wait until it is there."""
        self.complaints.clear()
        self.asked.clear()
        self.call("Page.navigate", url=address)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What an expression of the page's language gives."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, modifiers: int = 0) -> None:
        """A key down and up, as a person presses it."""
        code = KEYS[key]
        parts = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **parts)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parts)

    def heard(self, role: str) -> list[str]:
        """The names that a screen reader reads for elements of this role."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [n.get("name", {}).get("value", "") for n in nodes if n.get("role", {}).get("value") == role]
