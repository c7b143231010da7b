"""A real orchestrator for the tests: server, process work pool and worker, with a home of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 120


@dataclass(frozen=True)
class Orchestrator:
    """A running server; `environment` makes a child process talk to it."""

    environment: dict[str, str]
    logs: Path

    def prefect(self, *arguments: str) -> str:
        """Run `prefect …` to its end; its output, which an error shows."""
        command = [sys.executable, "-m", "prefect", *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, f"prefect {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def background(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`prefect …` as long as the block lasts; ended with its children, its output in `logs`."""
        with (self.logs / f"{arguments[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@pytest.fixture
def orchestrator(tmp_path: Path) -> Iterator[Orchestrator]:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    quiet = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "CORRIGENDA_CACHE": str(tmp_path / "cache"),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    found = Orchestrator(clean | quiet, tmp_path)
    with found.background("server", "start", "--host", "127.0.0.1", "--port", str(port)) as server:
        wait_until_healthy(api, server)
        yield found


def wait_until_healthy(api: str, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers; fail when it ends or takes too long."""
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    pytest.fail("the server did not start in time")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
