"""Chromium without a window, driven over a pipe in its own DevTools protocol: one start, many pages and screens."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"),
)
# The browser reads commands from its third file and writes answers to its fourth.
LAUNCHER = "import fcntl, os, sys; r, w = (fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]); "
LAUNCHER += "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
SECONDS = 60

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="No chromium is installed, so no page can be laid out.")


class Browser:
    """One tab of one chromium; a context manager.

    >>> with Browser() as browser:
    ...     browser.open(page, width=390, scheme="dark")
    ...     browser.ask("document.documentElement.scrollWidth")
    """

    def __enter__(self) -> "Browser":
        """Start it."""
        assert CHROMIUM
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", LAUNCHER, str(theirs_in), str(theirs_out), CHROMIUM, *FLAGS),
                f"--user-data-dir={self._profile.name}",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._sent, self._unread, self._session = 0, b"", ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and forget its profile."""
        self._process.terminate()
        self._process.wait(SECONDS)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def open(
        self,
        page: Path,
        *,
        width: int = 1280,
        height: int = 1000,
        scheme: Literal["light", "dark"] = "light",
        media: Literal["screen", "print"] = "screen",
        density: float = 1,
    ) -> None:
        """Load a file on a screen of so many CSS pixels, or as a printer would."""
        self.look(width=width, height=height, scheme=scheme, media=media, density=density)
        self._call("Page.navigate", url=page.resolve().as_uri())
        while self._answer().get("method") != "Page.loadEventFired":
            pass

    def look(
        self,
        *,
        width: int = 1280,
        height: int = 1000,
        scheme: Literal["light", "dark"] = "light",
        media: Literal["screen", "print"] = "screen",
        density: float = 1,
    ) -> None:
        """Change the screen under the page that is open."""
        screen = {"width": width, "height": height, "deviceScaleFactor": density, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        wanted = {"name": "prefers-color-scheme", "value": scheme}
        self._call("Emulation.setEmulatedMedia", media=media, features=[wanted])

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression in the page, as JSON would carry it."""
        said = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def shot(self, *, whole: bool = True) -> bytes:
        """A PNG of the whole page, or of what the screen shows."""
        return base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def pdf(self) -> bytes:
        """The page as it prints, backgrounds included."""
        self._call("Emulation.setEmulatedMedia", media="print", features=[])
        return base64.b64decode(self._call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._out, left) :]
        while True:
            answer = self._answer()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def _answer(self) -> dict[str, Any]:
        """The next message; an error if there is none for a minute."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "chromium doesn't answer"
            read = os.read(self._in, 1 << 20)
            assert read, "chromium has ended"
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found
