"""A real plant for tests: a Prefect server, a process work pool and workers, and power cuts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 400
# Every loop of the server turns several times in the length of a test.
BRISK = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "5",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}
# The last line of a traceback. SQLite is locked for a moment now and then, and asked again: see the runbook.
_FAULT = re.compile(r"^\s*(?:\w+\.)*\w+(?:Error|Exception|Warning)\b.*")
_PASSES = "database is locked"


class Plant:
    """Server and workers in process groups of their own, so that a power cut takes them with all children."""

    def __init__(self, home: Path, more: dict[str, str]) -> None:
        self.home, self.port = home, free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        self.environment = clean | {
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_CLI_COLORS": "false",
            "CORRIGENDA_CACHE": str(home / "cache"),
            **BRISK,
            **more,
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def prefect(self, *arguments: str) -> str:
        """Run `prefect …` to its end; its output, which an error shows."""
        return self.command(sys.executable, "-m", "prefect", *arguments)

    def command(self, *command: str, **environment: str) -> str:
        done = subprocess.run(
            command,
            env=self.environment | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, *arguments: str) -> None:
        """`prefect …` in the background; what it says is appended to `<name>.log`."""
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_server(self) -> None:
        self.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            assert self.running["server"].poll() is None, self.log("server")
            try:
                with urllib.request.urlopen(f"{self.api}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        pytest.fail("the server did not start in time")

    def start_worker(self, name: str = "worker", *arguments: str) -> None:
        self.start(name, "worker", "start", "--pool", "corrigenda", "--type", "process", *arguments)

    def cut_power(self, *names: str) -> None:
        """SIGKILL to processes and all that they started; all of the plant by default."""
        for name in names or tuple(self.running):
            self._end(name, signal.SIGKILL)

    def stop(self) -> None:
        for name in tuple(self.running):
            self._end(name, signal.SIGTERM)

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self.running.pop(name)
        family = descendants(process.pid)
        for pid in (process.pid, *family):
            send(pid, how)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            send(process.pid, signal.SIGKILL)
            process.wait()
        for pid in family:
            send(pid, signal.SIGKILL)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(encoding="utf-8", errors="replace")


def amiss(said: str) -> list[str]:
    """Faults that a server's log tells of, but for those that pass by themselves."""
    lines = said.splitlines()
    faults = [line for line in lines if _FAULT.match(line) and _PASSES not in line]
    return faults + [line for line in lines if "| CRITICAL |" in line]


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs: a worker's runs are in sessions of their own."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found[1:]


def send(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def wait_for(what: str, look: Callable[[], Any], limit_s: float, said: Callable[[], str] = str) -> Any:
    """The first true answer of `look`; fails with what a log said when none comes in time."""
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        if found := look():
            return found
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {limit_s} s\n{said()}")


def runs_of(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """A deployment's runs that are due or were, in the order of their hours."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    found = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    )
    return sorted(found, key=lambda run: run.expected_start_time or run.created)


def final(client: SyncPrefectClient, run: UUID) -> State | None:
    """The state in which a run ended; None while it goes on."""
    state = client.read_flow_run(run).state
    return state if state is not None and state.is_final() else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
