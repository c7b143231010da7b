"""Every `corrigenda …` of the runbook, typed as it stands there, in a workspace that had some nights."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))

from fleets import Workspace, move

from corrigenda import Fleet
from corrigenda.cli.app import build_app
from corrigenda.errors import CorrigendaError

RUNBOOK = Path(__file__).parents[2] / "deployments" / "runbook.md"
# Needs what a workspace has not: a key; a terminal that stays open.
NOT_HERE = ("corrigenda sign", "corrigenda serve")
VALUES = {"MODEL": "homes", "N": "1", "DEST": "served", '"…"': '"it is wrong"'}


def commands() -> list[str]:
    """In the order of the page, each once."""
    text = RUNBOOK.read_text(encoding="utf-8")
    found = re.findall(r"`(corrigenda [^`]+)`", text.replace("\n", " "))
    return [one for one in dict.fromkeys(found) if not one.startswith(NOT_HERE) and "submit" not in one]


@pytest.mark.slow
def test_the_runbook_s_commands_do_what_they_are_typed_for(
    tmp_path: Path, trained_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
    workspace = Workspace(tmp_path / "fleet", trained_gpt2)
    monkeypatch.chdir(workspace.config.parent)
    for name, city in (("Bohr", "Rome"), ("Gauss", "Vienna")):
        workspace.submit(move(name, city))
        assert Fleet.open(workspace.config).run().exit_code == 0
    typed = commands()
    assert len(typed) > 12
    for command in typed:
        for name, value in VALUES.items():
            command = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w])", value, command)
        done = CliRunner().invoke(build_app(), shlex.split(command)[1:])
        assert not isinstance(done.exception, CorrigendaError), (command, str(done.exception))
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert (
        workspace.release().number == 3
    )  # held at 1, let go, and corrected anew by the run that is typed after
