"""A headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """One page. Remembers what it asked for and what went wrong in it."""

    def __init__(self, profile: Path) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip("needs Chromium (Debian: apt-get install chromium)")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
        self.process = subprocess.Popen(
            [program, *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        told = (re.search(r"ws://127\.0\.0\.1:(\d+)/", line) for line in self.process.stderr)
        found = next(filter(None, told), None)
        if found is None:
            pytest.skip("Chromium does not start here")
        with urllib.request.urlopen(f"http://127.0.0.1:{found.group(1)}/json") as answer:
            (page,) = [p for p in json.load(answer) if p["type"] == "page"]
        self.open_things = contextlib.ExitStack()
        self.socket = self.open_things.enter_context(
            connect(
                page["webSocketDebuggerUrl"], max_size=None, close_timeout=0.1, ping_interval=None
            )
        )
        self.numbers = itertools.count(1)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=120))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        method, facts = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(facts["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.complaints.append(json.dumps(facts["entry"])[:500])

    def open(self, url: str, width: int = 1440, height: int = 900, theme: str = "light") -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": theme}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, (script, answer)
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 120) -> Any:
        """Waits until an expression is true."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < deadline, (script, self.value("document.body.innerText"))
            time.sleep(0.1)
        return found

    def screenshot(self, path: Path) -> None:
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.open_things.close()
