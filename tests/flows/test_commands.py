"""`corrigenda run` as a process of its own: killed, taken over, and started twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fleets import Workspace, move
from prefect.settings import PREFECT_API_URL

from corrigenda.storage.releases import lease, refs

ROWS = (move("Bohr", "Rome"), move("Gauss", "Vienna"))


def begin(workspace: Workspace) -> subprocess.Popen[str]:
    """The command, under the session's orchestrator."""
    code = "from corrigenda.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", "--config", str(workspace.config)],
        env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said on stdout."""
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def wait_for(workspace: Workspace, key: str, process: subprocess.Popen[str]) -> None:
    path = workspace.config.parent / "store" / key
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.005)


@pytest.mark.slow
def test_the_command_is_killed_and_taken_over_and_two_at_once_are_one(
    workspace: Workspace, tmp_path: Path, trained_gpt2: Path
) -> None:
    workspace.submit(*ROWS)
    first = begin(workspace)
    wait_for(workspace, lease.key("homes"), first)
    first.send_signal(signal.SIGSTOP)
    code, said = ended(begin(workspace))
    assert code == 0
    assert "busy" in said
    first.kill()
    first.wait()

    second = begin(workspace)
    wait_for(workspace, refs.key("homes", "canary"), second)
    second.kill()
    second.wait()

    assert ended(begin(workspace))[0] == 0
    quiet = Workspace(tmp_path / "quiet", trained_gpt2)
    quiet.submit(*ROWS)
    assert quiet.run()["exit_code"] == 0
    assert workspace.release().files == quiet.release().files
    assert workspace.release().ledger == quiet.release().ledger
    assert "unchanged" in ended(begin(workspace))[1]
