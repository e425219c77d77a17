"""A headless Chromium driven over its DevTools protocol, for tests that click."""

import base64
import itertools
import json
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import connect


class Browser:
    """One page of a headless Chromium.

    Args:
        chromium: Path of the program.
        timeout_seconds: How long `wait_for` waits.
    """

    def __init__(self, chromium: str, *, timeout_seconds: float = 120, size: tuple[int, int] = (1180, 1000)):
        self.timeout_seconds = timeout_seconds
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--hide-scrollbars"]
        options += [f"--user-data-dir={self._profile.name}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        self._process = subprocess.Popen([chromium, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._numbers = itertools.count(1)
        self._socket = connect(self._page_address(), max_size=None)
        self.call("Page.enable")

    def _page_address(self) -> str:
        port_file, end = Path(self._profile.name) / "DevToolsActivePort", time.monotonic() + self.timeout_seconds
        while time.monotonic() < end:
            if port_file.is_file() and (lines := port_file.read_text().splitlines()):
                with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                    pages = [page for page in json.load(answer) if page["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            time.sleep(0.2)
        raise TimeoutError("Chromium did not start.")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command of the protocol and returns its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=self.timeout_seconds))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Waits until a JavaScript expression is true, and returns its value."""
        end = time.monotonic() + self.timeout_seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.2)
        raise TimeoutError(f"Never true: {script}; the page says: {self.run('document.body.innerText')[:500]}")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def click_text(self, selector: str, text: str) -> None:
        """Clicks the first element of a selector that has a text."""
        elements = f"[...document.querySelectorAll({json.dumps(selector)})]"
        element = f"{elements}.find(e => e.innerText.includes({json.dumps(text)}))"
        self.wait_for(f"!!{element}")
        self.run(f"{element}.click()")

    def type(self, selector: str, text: str) -> None:
        """Puts a text into a field and presses Enter."""
        self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )

    def upload(self, selector: str, path: str | Path) -> None:
        """Chooses a file in a file input."""
        self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: str | Path) -> None:
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=30)
        self._profile.cleanup()
