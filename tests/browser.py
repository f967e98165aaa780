"""A real browser for tests, by the DevTools protocol: open a page, ask it, press keys, take pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE

CHROMIUM = Path("/usr/bin/chromium")
_KEYS = {" ": ("Space", 32), "ArrowRight": ("ArrowRight", 39), "ArrowLeft": ("ArrowLeft", 37), "Enter": ("Enter", 13)}


class Page:
    """One tab. What it says on its console, and what it asks for, is kept."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0
        self.console: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message)
                return message["result"]
            self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        method, said = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in said["args"]))
        elif method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded":
            self.console.append(f"{said['entry']['level']}: {said['entry']['text']} {said['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.console.append(f"dialog: {said['message']}")

    def goto(self, url: str) -> None:
        """Open an address, and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def ask(self, script: str) -> Any:
        """The value of an expression; of a promise, what it is kept with."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = PATIENCE) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):
                # Of an element there is no value to bring.
                if self.ask(f"Boolean({script})"):
                    return
            assert time.monotonic() < end, f"never true: {script}\n{self.console}"
            time.sleep(0.03)

    def press(self, key: str) -> None:
        """Press a key, where the focus is."""
        code, number = _KEYS.get(key, (f"Key{key.upper()}", ord(key.upper()[0])))
        about = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def look(self, width: int, height: int, dark: bool = False, scale: float = 1, phone: bool = False) -> None:
        """Another size, and light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        value = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def picture(self, path: Path) -> None:
        """A PNG of what is shown."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def open_browser(folder: Path, space: bool = True) -> Iterator[Page]:
    """A browser with one tab, for as long as the context lasts; skips, by name, where there is none.

    Args:
        folder: For its profile.
        space: With WebGL, which without a graphics card takes its time.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    connect = pytest.importorskip("websockets.sync.client").connect
    profile = folder / "profile"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    command += ["--autoplay-policy=no-user-gesture-required"]
    command += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"] if space else ["--disable-gpu"]
    command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=silent, stderr=silent, start_new_session=True) as process:
        try:
            port = _port(process, profile / "DevToolsActivePort")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            with connect(tabs[0]["webSocketDebuggerUrl"], max_size=None, open_timeout=PATIENCE) as socket:
                yield Page(socket)
        finally:
            # With what it started itself; its profile goes with the test's folder.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _port(process: subprocess.Popen[bytes], file: Path) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text().split()[0])
        time.sleep(0.05)
    pytest.skip("chromium shows nothing here")
