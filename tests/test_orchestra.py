"""What `corrigenda run` does about the orchestrator: its own server, or a line that says what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corrigenda.errors import SetupError
from corrigenda.flows import embedded

HOLDER = """
import os, sys, time
from pathlib import Path
from corrigenda.flows import embedded
embedded.prepare(Path(sys.argv[1]))
print(os.environ["PREFECT_API_URL"], flush=True)
time.sleep(600)
"""


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a fresh process: no orchestrator imported, nothing of it configured."""
    for name in [n for n in os.environ if n.startswith("PREFECT")]:
        monkeypatch.delenv(name)
    for name in [n for n in sys.modules if n == "prefect"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(embedded, "REACH_LIMIT_S", 0.0)
    return monkeypatch


@pytest.mark.slow
def test_the_embedded_server_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        url = holder.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        assert embedded._silent(url) is None
        holder.send_signal(signal.SIGKILL)
    limit = time.monotonic() + 30
    while embedded._silent(url) is None and time.monotonic() < limit:
        time.sleep(0.2)
    assert "refused" in str(embedded._silent(url))


def test_a_server_that_cannot_be_reached_is_named(unset: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unset.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(SetupError, match=r"cannot be reached \(url='http://127.0.0.1:9/api'.*--plain"):
        embedded.prepare(tmp_path)


def test_a_directory_that_cannot_be_used_is_named(unset: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unset.setenv("PREFECT_HOME", str(tmp_path / "file" / "prefect"))
    with pytest.raises(SetupError, match=r"cannot be written to \(directory=.*file/pre.*set PREFECT_HOME"):
        embedded.prepare(tmp_path)


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(unset: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unset.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "nonsense://")
    with pytest.raises(SetupError, match=r"did not start \(log=.*said='.+'\)"):
        embedded.prepare(tmp_path)
