"""One run of the flow from a command: under a quiet server of its own, unless one is configured."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corrigenda.config import Layout
from corrigenda.errors import SetupError

_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}
# Nobody reads the log that an embedded server keeps. At a real one this level would keep the runs' logs away.
_QUIET = {"PREFECT_LOGGING_LEVEL": "ERROR"}
_OF_ONE_RUN = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
# Slots that outlive the server, and a history that does not grow for ever: see deployments/server.env.
_OF_MANY_NIGHTS = {
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
}
_WAY_OUT = "or do without an orchestrator: `corrigenda run --plain`"
# It takes 10-16 s on a small machine; on a loaded one two minutes were not enough.
START_LIMIT_S = 300.0
REACH_LIMIT_S = 10.0


def run_flow(
    config: Path, root: Path, models: Sequence[str] | None, *, dry_run: bool, layouts: Sequence[Layout]
) -> dict[str, Any]:
    """The fleet's flow; what happened, also when models failed.

    root   the workspace, in which the embedded server keeps its database
    """
    prepare(root / ".corrigenda")
    from corrigenda.flows.maintain_fleet import correct

    return correct(str(config), list(models) if models else None, dry_run, list(layouts))


def prepare(home: Path, port: int | None = None) -> None:
    """Settings that must stand before the orchestrator is imported, and a server that answers.

    The user's own settings win. Where PREFECT_API_URL names no server, an embedded one is started, which ends
    with this process.

    home   where the embedded server keeps its database, unless PREFECT_HOME says so
    port   where people find its pages; it then keeps schedules, too. None: it lives for one run, anywhere

    Raises SetupError when the pipeline extra is not installed, and within seconds when a server cannot be
    reached or a directory cannot be used.
    """
    if "prefect" in sys.modules:
        return  # a flow's own process, or a notebook: its settings hold
    _require_installed()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    place = _made(Path(os.environ.get("PREFECT_HOME") or home / "prefect"))
    os.environ["PREFECT_HOME"] = str(place)
    if url := os.environ.get("PREFECT_API_URL"):
        _require_reachable(url)
        return
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    os.environ["PREFECT_API_URL"] = _start(place, port)


def _require_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("prefect", "torch") if find_spec(name) is None]
    if missing:
        raise SetupError(
            "the pipeline is not installed here",
            remedy="Run `pip install 'corrigenda[pipeline]'`",
            missing=missing[0],
        )


def _made(place: Path) -> Path:
    """The directory, if it can be written to: a server waits minutes for a database that it cannot open."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = place / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as fault:
        raise SetupError(
            "the orchestrator's directory cannot be written to",
            remedy=f"Get write permission, set PREFECT_HOME to a directory of yours, {_WAY_OUT}",
            directory=str(place),
            cause=fault.strerror,
        ) from None
    return place.resolve()


def _require_reachable(url: str) -> None:
    limit = time.monotonic() + REACH_LIMIT_S
    while (fault := _silent(url)) is not None:
        if time.monotonic() > limit:
            raise SetupError(
                "the Prefect server cannot be reached",
                remedy=f"Start it, unset PREFECT_API_URL to use an embedded one, {_WAY_OUT}",
                url=url,
                cause=fault,
            )
        time.sleep(1.0)


def _silent(url: str) -> str | None:
    """Why there is no answer at that address; None when there is one, whatever it says."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return None  # it is there, and wants to know who asks
    except (OSError, ValueError) as fault:
        return str(getattr(fault, "reason", fault))
    return None


def _start(place: Path, port: int | None) -> str:
    """Start the embedded server; its address, once it answers. Raises SetupError."""
    log = place / "embedded-server.log"
    with _door(port) as door, log.open("wb") as said:
        url = f"http://127.0.0.1:{door.getsockname()[1]}/api"
        server = subprocess.Popen(
            [sys.executable, "-m", "corrigenda.flows.embedded_server", str(door.fileno())],
            env=os.environ | (_OF_ONE_RUN if port is None else _OF_MANY_NIGHTS),
            stdin=subprocess.PIPE,  # its end tells the server of ours
            stdout=said,
            stderr=said,
            pass_fds=[door.fileno()],
        )
    atexit.register(_stop, server)
    limit = time.monotonic() + START_LIMIT_S
    while _silent(url) is not None:
        if server.poll() is not None or time.monotonic() > limit:
            raise SetupError(
                "Prefect's embedded server did not start",
                remedy=f"See its log; remove {place} when its database is broken, {_WAY_OUT}",
                log=str(log),
                said=_last_line(log),
            )
        time.sleep(0.1)
    return url


def _door(port: int | None) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port or 0))
    except OSError as fault:
        raise SetupError(
            "the embedded server's port cannot be had",
            remedy="Choose another with --port, or end what listens there",
            port=port,
            cause=fault.strerror,
        ) from None


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "nothing")
