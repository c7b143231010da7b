"""Setting the orchestrator up for one command: its own quiet local server, unless one is configured."""

from __future__ import annotations

import os
from pathlib import Path

from corrigenda.errors import SetupError

# Ephemeral servers take 10-16 s to start on a small machine; the orchestrator's own limit is 20 s.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def prepare(home: Path) -> None:
    """Settings that must stand before the orchestrator is imported; the user's own ones win.

    home   where the embedded server keeps its database

    Raises SetupError when the pipeline extra is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if "PREFECT_HOME" not in os.environ:
        os.environ["PREFECT_HOME"] = str(_made(home / "prefect"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import prefect  # noqa: F401
        import torch  # noqa: F401
    except ImportError as fault:
        raise SetupError(
            "the pipeline is not installed here",
            remedy="Run `pip install 'corrigenda[pipeline]'`",
            missing=fault.name,
        ) from None


def _made(home: Path) -> Path:
    """The directory; without it the embedded server waits two minutes for a database it cannot open."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise SetupError(
            "the workspace cannot be written to",
            remedy="Get write permission, or set PREFECT_HOME to a directory of yours",
            directory=str(home),
            cause=fault.strerror,
        ) from None
    return home.resolve()
