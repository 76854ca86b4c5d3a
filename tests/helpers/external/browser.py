"""A headless Chromium, driven over the DevTools protocol, if the machine has one."""

from __future__ import annotations

import json
import re
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

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
DESKTOP, PHONE = (1280, 900), (390, 844)
PATIENCE_S = 90.0
CONTROL = 2
"""The modifier of a key pressed with Ctrl."""


class Page:
    """A page in a browser, driven over the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            told = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(told["params"])[:300])
            if told.get("id") == self._calls:
                assert "error" not in told, told
                return told["result"]

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression)["result"].get("value")

    def text_of(self, element: str) -> str:
        return str(self.value(f"document.getElementById('{element}').innerText"))

    def wait_for(self, element: str, pattern: str) -> str:
        end = time.monotonic() + PATIENCE_S
        while not re.search(pattern, text := self.text_of(element)):
            assert time.monotonic() < end, f"{element} says {text!r}; {self.complaints}"
            time.sleep(0.05)
        return text

    def wait_until(self, expression: str) -> None:
        """Waits until an expression is true in the page."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, f"not {expression}; {self.complaints}"
            time.sleep(0.05)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def choose(self, element: str, file: Path) -> None:
        """Sets the file of a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=f"#{element}")["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def drop(self, selector: str, files: Sequence[Path] = (), link: str = "") -> None:
        """Drops files, or a link, on an element."""
        box = f"document.querySelector('{selector}').getBoundingClientRect()"
        place = {name: self.value(f"{box}.{name} + 5") for name in ("x", "y")}
        items = [{"mimeType": "text/uri-list", "data": link}] if link else []
        data = {"items": items, "files": [str(f) for f in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, data=data, **place)

    def press(self, key: str, code: int, modifiers: int = 0) -> None:
        # With its text, Enter does what it does in a field: it sends the form.
        text = {"text": "\r"} if key == "Enter" and not modifiers else {}
        for kind, more in (("keyDown", text), ("keyUp", {})):
            self.call(
                "Input.dispatchKeyEvent",
                **more,
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
            )


@contextmanager
def browsing(url: str, size: tuple[int, int], folder: Path) -> Iterator[Page]:
    assert CHROMIUM is not None
    browser = subprocess.Popen(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            "--window-size={},{}".format(*size),
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert browser.stderr is not None
        lines = iter(browser.stderr.readline, "")
        port = next(found[1] for line in lines if (found := re.search(r"ws://[^/]*:(\d+)/", line)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tabs = json.load(answer)
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        with connect(address, max_size=None) as socket:
            page = Page(socket)
            width, height = size
            page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=size == PHONE,
            )
            page.call("Page.navigate", url=url)
            yield page
    finally:
        browser.kill()
        browser.communicate()
