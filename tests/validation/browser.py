"""A headless Chromium, spoken to over a pipe: opens a page, notes what it does, evaluates expressions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


def find() -> str | None:
    """The path of a Chromium, from CORRIGENDA_CHROMIUM or the search path."""
    return os.environ.get("CORRIGENDA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab. `events` is all that the browser reported of it."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer, self.pending, self.number = reader, writer, b"", 0
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not self.of("Page.loadEventFired"):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def of(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.pending:
            more = os.read(self.reader, 1 << 16)
            assert more, "the browser went away"
            self.pending += more
        message, self.pending = self.pending.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browsing(binary: str, profile: Path) -> Iterator[Page]:
    """A page of a browser of its own, which ends with the block."""
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4.
    shell = f'exec 3<&{from_us} 4>&{to_us}; exec "$@"'
    command = ["bash", "-c", shell, "chromium", binary, *QUIET, f"--user-data-dir={profile}"]
    browser = subprocess.Popen(command, pass_fds=(from_us, to_us), stderr=subprocess.DEVNULL)
    os.close(from_us)
    os.close(to_us)
    try:
        yield Page(from_browser, to_browser)
    finally:
        browser.terminate()
        browser.wait(20)
        os.close(to_browser)
        os.close(from_browser)
