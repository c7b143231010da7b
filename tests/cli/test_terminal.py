"""Nothing that others wrote commands a terminal: every command is walked over a store full of escapes."""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from queue_rows import correction, row
from releases import EDITABLE, MODEL, checkpoint, raw, register, save, stage

from corrigenda import cli, terminal
from corrigenda.api import runs
from corrigenda.api.values import FleetRun
from corrigenda.cli.app import build_app
from corrigenda.storage.corrections import ledger, queue
from corrigenda.storage.corrections.schemas import Arrival
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import publish, refs, snapshots
from corrigenda.storage.releases.publish import Candidate
from corrigenda.validation import results
from corrigenda.validation.tables import ROWS

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b]52;c;Y3VybA==\x07 \x1b[2J\x1b[31m \x9b31m \u202e \x1b]8;;http://x\x07y\x1b]8;;\x07 \r \u2028"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u206f]")
OWN = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[\d?[AKJ]|\r")  # rich: colours, and bars that move


@given(st.text(st.sampled_from(HOSTILE + "aé\u200d\U0001f600\U000e0041\ud800\n\t")))
def test_neutral_text_commands_nothing_and_is_the_same_json(text):
    assert not COMMANDS.search(terminal.neutral(text))
    said = json.dumps([text], ensure_ascii=False)
    assert json.loads(terminal.neutral(said)) == [text]


def test_what_people_write_stays_as_it_is():
    for text in ("naïve", "日本語\n\tשלום", "a\u200db", "👩\u200d💻", "\\u001b"):
        assert terminal.neutral(text) == text


def test_bars_of_libraries_move_on_stderr_and_nothing_moves_on_stdout():
    below = io.StringIO()
    terminal.Guard(below, bars=True).write("\r 5%")
    terminal.Guard(below, bars=True).write("\n\x1b[A")
    assert below.getvalue() == "\r 5%\n\x1b[A"
    for text in ("\r 5%", "\x1b[A"):
        below = io.StringIO()
        terminal.Guard(below).write(text)
        assert not COMMANDS.search(below.getvalue())


def test_only_one_module_reaches_the_terminal():
    """Consoles and unguarded streams are made in `corrigenda.terminal`, nowhere else."""
    forbidden = {"Console", "__stdout__", "__stderr__", "_get_rich_console"}
    for path in ROOT.glob("*/**/*.py"):
        within = path.relative_to(ROOT).parts
        if within[0] in ("tests", "bench", "build") or path.name == "terminal.py":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not names & forbidden, path


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A fleet whose queue, ledger, manifests, refs, results and file names are full of escapes."""
    root = tmp_path_factory.mktemp("hostile")
    store = LocalStore.open(root / "store", create=True)
    publish_hostile(store, register(store, save(root / "base", checkpoint())))
    fill_queue(root / "queue")
    (root / "fleet.toml").write_text(
        '[store]\nurl = "./store"\n[queue]\nurl = "./queue"\n[[models]]\nname = "tiny"\nsource = "x"\n'
    )
    return root


def publish_hostile(store, base):
    told = correction(correction_id="known", subject=HOSTILE, prompt=f"{HOSTILE} {{}}", reason=HOSTILE)
    kept = ledger.merge(ledger.empty(), [Arrival(told, "f")])[0]
    kept = ledger.quarantine(kept, ["known"], HOSTILE, {"said": HOSTILE})
    books = dict(zip(("ledger", "consumed"), snapshots.put(store, kept, frozenset()), strict=True))
    counts = {"quarantined": 1, "run_id": "r1"}
    candidate = Candidate(layer=1, counts=counts, settings={"editing": {"x": HOSTILE}}, **books)
    seen = refs.read(store, MODEL, "latest")
    made = stage(store, base, {EDITABLE[1]: raw(7)}, candidate, parent=base)
    publish.promote(store, made, seen=seen, reason=HOSTILE)
    probe = dict.fromkeys(ROWS.names) | {
        "run_id": "r1", "release": 1, "model": MODEL, "scored_at": datetime(2026, 1, 1, tzinfo=UTC),
        "correction_id": "known", "probe_id": "p", "kind": "rewrite", "subject": HOSTILE, "prompt": HOSTILE,
        "expected": HOSTILE, "tokens": 1, "logp_expected_before": -3.0, "logp_expected_after": -1.0,
        "says_before": HOSTILE, "says_after": HOSTILE,
        "pass_before": False, "pass_after": True,
    }  # fmt: skip
    results.append(store, pa.Table.from_pylist([probe], schema=ROWS))


def fill_queue(folder):
    folder.mkdir()
    rows = [row(correction_id=f"bad {HOSTILE}"), row(correction_id="waits", target_new="x", reason=HOSTILE)]
    table = queue.as_table(rows, now=datetime.now(UTC))
    pq.write_table(table, folder / "rows.parquet")
    pq.write_table(table.append_column(HOSTILE, pa.array(["", ""])), folder / "odd.parquet")
    (folder / f"x{HOSTILE.replace('/', '')}.txt").write_text("x")


OUTCOME = {
    "run_id": "r", "exit_code": 3, "queue": {"rejected": 1, "known_files": 0, "problems": [
        {"file": HOSTILE, "reason": HOSTILE, "detail": HOSTILE, "remedy": HOSTILE}]},
    "models": [{"model": HOSTILE, "status": "failed", "error": HOSTILE, "exit_code": 3, "taken_in": {
        "unknown_retracts": [HOSTILE]}, "regressions": [{"correction_id": HOSTILE, "last_passed": 1,
        "prompt": HOSTILE, "says": HOSTILE}]}],
}  # fmt: skip

# Every command, with what makes it say what others wrote. A new command needs a row.
WALKS = {
    "demo": [["demo", "demo"]],
    "doctor": [["doctor", "--deep"], ["doctor", "--json"]],
    "gc": [["gc", "--grace-days", "0"], ["gc", "--json"]],
    "hold": [["hold", MODEL, "--why", HOSTILE], ["hold", HOSTILE], ["hold", MODEL, "--lift"]],
    "layers": [["layers", HOSTILE]],
    "log": [["log", MODEL], ["log", MODEL, "--json"], ["log", HOSTILE]],
    "pull": [
        ["pull", MODEL, "dest"],
        ["pull", MODEL, f"x{HOSTILE}".replace("/", "")],
        ["pull", HOSTILE, "d"],
    ],
    "push": [["push", MODEL, "a/b", "--dry-run"]],
    "query": [["query", "from rows"], ["query", "from rows", "--csv"], ["query", f"select '{HOSTILE}' from"]],
    "corrections": [["corrections"], ["corrections", "--json"], ["corrections", "--model", HOSTILE]],
    "init": [["init", HOSTILE]],
    "report": [["report", MODEL, "-o", "-"], ["report", HOSTILE]],
    "results": [["results", "corrections"], ["results", "history", MODEL, "--json"]],
    "retract": [["retract", HOSTILE], ["retract", "known", "--reason", HOSTILE, "--json"]],
    "rollback": [["rollback", MODEL, "--to", "1"], ["rollback", MODEL, "--to", "0", "--reason", HOSTILE]],
    "run": [["run"], ["run", "--json"]],
    "show": [["show", "known"], ["show", "waits"], ["show", f"bad {HOSTILE}"], ["show", HOSTILE]],
    "serve": [["serve", "--cron", HOSTILE], ["serve", "--timezone", HOSTILE]],
    "sign": [["sign", HOSTILE]],
    "status": [
        ["status"],
        ["status", "--rejects"],
        ["status", "--json"],
        ["status", "--prometheus"],
        ["status", "--max-age", "26h"],
    ],
    "unlock": [["unlock", MODEL], ["unlock", HOSTILE]],
    "submit": [["submit", "queue/rows.parquet", "--dry-run"], ["submit", "queue/odd.parquet", "--json"]],
}


def test_every_command_is_walked():
    assert set(typer.main.get_command(build_app()).commands) == set(WALKS)


@pytest.mark.parametrize("arguments", [a for some in WALKS.values() for a in some], ids=lambda a: a[0])
def test_no_command_lets_a_text_command_the_terminal(arguments, root, monkeypatch):
    screens = {"stdout": Screen(), "stderr": Screen()}
    monkeypatch.chdir(root)
    monkeypatch.setattr(runs, "run", lambda *_, **__: FleetRun.of(OUTCOME))
    monkeypatch.setattr(sys, "argv", ["corrigenda", *arguments])
    for name, screen in screens.items():
        monkeypatch.setattr(sys, name, screen)
    try:
        cli.main()
    except SystemExit:
        pass
    finally:
        monkeypatch.undo()
    assert any(screen.getvalue() for screen in screens.values())
    for screen in screens.values():
        assert not COMMANDS.search(OWN.sub("", screen.getvalue()))


def test_csv_and_pages_are_exact_for_programs_and_harmless_on_a_terminal(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["corrigenda", "query", "select subject from rows", "--csv"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    monkeypatch.undo()
    assert HOSTILE in capsys.readouterr().out


def test_a_real_terminal_shows_escapes_as_text(root):
    command = [sys.executable, "-c", "from corrigenda.cli import main; main()", "show", "known"]
    pid, terminal_fd = pty.fork()
    if pid == 0:
        os.chdir(root)
        os.execv(command[0], command)
    out = b""
    while chunk := read(terminal_fd):
        out += chunk
    os.waitpid(pid, 0)
    assert b"\\u001b" in out and b"\x1b]52" not in out and "\u202e".encode() not in out


def read(terminal_fd):
    try:
        return os.read(terminal_fd, 65_536)
    except OSError:  # the other side is closed
        return b""
