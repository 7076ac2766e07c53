"""Headless Chromium by its debugging pipe: what a page shows, asks for and complains of."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CHROMIUM", "Browser", "browser"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab.

    Attributes:
        pid: The browser's process.
        requests: Addresses that it has asked for.
        complaints: Errors and warnings of its console, exceptions and violated policies.
    """

    def __init__(self, write: int, read: int, pid: int) -> None:
        self.pid = pid
        self._write, self._read = write, os.fdopen(read, "rb", buffering=0)
        self._rest, self._number = b"", 0
        self._session = self._context = ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.renew()

    def renew(self) -> None:
        """Become another tab, with an empty profile; what the one before has asked for and complained of is gone."""
        self._session, before = "", self._context
        self._context = self.call("Target.createBrowserContext")["browserContextId"]
        if before:
            self.call("Target.disposeBrowserContext", browserContextId=before)
        target = self.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.requests.clear()
        self.complaints.clear()
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """Ask the browser for something, and wait for its answer."""
        self._number += 1
        told = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            told["sessionId"] = self._session
        os.write(self._write, json.dumps(told).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                found: Mapping[str, Any] = message["result"]
                return found
            if message.get("sessionId") == self._session:
                self._hear(message)

    def close(self) -> None:
        """Close the pipe, which ends the browser."""
        os.close(self._write)
        self._read.close()

    def _next(self) -> Mapping[str, Any]:
        while b"\0" not in self._rest:
            more = self._read.read(1 << 16)
            if not more:
                raise RuntimeError("the browser has ended")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message: Mapping[str, Any] = json.loads(line)
        return message

    def _hear(self, message: Mapping[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in {"error", "warning", "assert"}:
                self.complaints.append(str(about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(str(about["entry"]))
            case "Audits.issueAdded":
                self.complaints.append(str(about["issue"]))

    def screen(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """Become a screen of this size, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str, until: str = "document.documentElement.dataset.drawn") -> None:
        """Go there, and wait until an expression is true."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        self.wait(until)

    def wait(self, until: str) -> None:
        """Wait in the page until an expression is true."""
        self.value(
            "new Promise((done) => { const look = () => { let found = false; try { found = Boolean("
            f"{until}); }} catch {{}} if (found) done(true); else requestAnimationFrame(look); }}; look(); }})"
        )

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if found["result"].get("className") in {"TypeError", "Error", "ReferenceError", "SyntaxError"}:
            raise RuntimeError(found["result"]["description"])
        return found["result"].get("value")

    def type(self, text: str) -> None:
        """Press the keys of a text, of which a tabulator is Tab and a line's end is Enter."""
        names = {"\t": ("Tab", 9), "\n": ("Enter", 13)}
        for sign in text:
            key, code = names.get(sign, (sign, ord(sign.upper())))
            typed = "" if sign == "\t" else "\r" if sign == "\n" else sign
            event = {"key": key, "windowsVirtualKeyCode": code, **({"text": typed} if typed else {})}
            self.call("Input.dispatchKeyEvent", type="keyDown", **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Write what it shows as PNG."""
        found = self.call(
            "Page.captureScreenshot", captureBeyondViewport=whole, **({"clip": self._whole()} if whole else {})
        )
        file.write_bytes(base64.b64decode(found["data"]))

    def _whole(self) -> Mapping[str, Any]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, which ends with this."""
    if CHROMIUM is None:
        raise RuntimeError("Chromium is not installed")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The browser reads from 3 and writes to 4: a shell puts the pipes there.
    words = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "about:blank"]
    redirect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    with subprocess.Popen(
        ["/bin/bash", "-c", redirect, "browser", *words],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            with contextlib.closing(Browser(ours_out, ours_in, process.pid)) as made:
                yield made
        finally:
            process.terminate()
            process.wait(timeout=30)
