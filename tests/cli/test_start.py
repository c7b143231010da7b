"""The first minutes: a workspace, the version, where the configuration is found, and wrong command lines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corrigenda import cli
from corrigenda.version import __version__

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CORRIGENDA_CONFIG", raising=False)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["corrigenda", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_workspace_is_made_and_its_templates_are_taken(run: Run, tmp_path: Path) -> None:
    assert run("init", "fleet")[0] == 0
    for name in ("corrections.csv", "corrections.parquet"):
        code, out, err = run("--config", "fleet/fleet.toml", "submit", f"fleet/{name}", "--dry-run")
        assert (code, err) == (0, "")
        assert "good rows: 1, rejected: 0" in out
    code, _, err = run("init", "fleet")
    assert (code, "has a workspace already" in err) == (2, True)


def test_a_template_that_was_handed_in_waits(run: Run) -> None:
    run("init")
    assert run("submit", "corrections.csv")[0] == 0
    code, out, _ = run("status")
    assert (code, "my-model" in out) == (0, True)


def test_the_configuration_is_found_in_the_folders_above(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert run("status")[0] == 0
    assert run("submit", "../../corrections.csv", "--dry-run")[0] == 0


def test_the_version_is_said_by_the_command_and_by_the_module(run: Run) -> None:
    assert run("--version")[:2] == (0, f"corrigenda {__version__}\n")
    done = subprocess.run(
        [sys.executable, "-m", "corrigenda", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"corrigenda {__version__}\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("statsu",), 2, "status"),
        (("submt", "f"), 2, "submit"),
        (("rollbak", "my-model"), 2, "rollback"),
        (("repotr", "my-model"), 2, "report"),
        (("querry", "select 1"), 2, "query"),
        (("retarct", "a"), 2, "retract"),
        (("docter",), 2, "doctor"),
        (("puul", "my-model", "d"), 2, "pull"),
        (("status", "my-modle"), 3, "Did you mean my-model?"),
        (("status", "mymodel"), 3, "Did you mean my-model?"),
        (("status", "my_model"), 3, "Did you mean my-model?"),
        (("status", "llama"), 3, "my-model"),
        (("run", "--model", "my-modell"), 3, "Did you mean my-model?"),
        (("submit", "corrections.csv", "--modle", "my-model"), 2, "--model"),
        (("submit", "corrections.csv", "--model", "my-mod"), 3, "my-model"),
        (("submit", "corrections.csv", "--model", "tag:caht"), 3, "my-model"),
        (("submit", "corrections.csv", "--dry"), 2, "--dry-run"),
        (("submit", "correction.csv"), 2, "No such file"),
        (("submit",), 2, "FILE"),
        (("submit", "corrections.csv", "--encoding", "cp-9999"), 2, "cp1252"),
        (("submit", "corrections.csv", "--asserted-at", "yesterday"), 2, "--asserted-at"),
        (("submit", "."), 2, "directory"),
        (("show", "reeve"), 3, "Check the id"),
        (("show",), 2, "CORRECTION_ID"),
        (("retract",), 2, "ID"),
        (("retract", "a", "--model", "nope"), 3, "my-model"),
        (("query", "selekt 1"), 2, "SQL"),
        (("query", "select * from row"), 2, "rows"),
        (("results", "correction"), 2, "corrections"),
        (("status", "--config", "flet.toml"), 2, "no configuration"),
        (("--config", "nowhere/fleet.toml", "status"), 2, "corrigenda init"),
        (("init", "."), 2, "Choose another folder"),
    ],
)
def test_a_wrong_command_line_is_told_the_right_one(
    run: Run, words: tuple[str, ...], code: int, says: str
) -> None:
    run("init")
    found, out, err = run(*words)
    assert (found, out) == (code, "")
    assert says in err
    assert "Traceback" not in err
