"""`submit`, `retract`, `status`, `log`, `show`: what they print, and with which exit code they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from queue_rows import T0, correction, parquet, row
from store_servers import location

from corrigenda import cli
from corrigenda.api.values import FleetRun
from corrigenda.cli.run import show
from corrigenda.config import FleetConfig, load_fleet
from corrigenda.storage.corrections import intake, ledger
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import manifests, publish, refs, snapshots
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Ref
from corrigenda.validation import results
from corrigenda.validation.tables import ROWS

Run = Callable[..., tuple[int, str, str]]

FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[[models]]
name = "smol"
source = "none"
tags = ["chat"]
[[models]]
name = "llama"
source = "none"
"""

QUEUE = {"rejected": 0, "known_files": 0, "problems": []}
OUTCOME = {"run_id": "r", "exit_code": 0, "queue": QUEUE}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fleet.toml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command as a shell would: (exit code, stdout, stderr)."""

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


def hand_in(folder: Path, *rows: dict[str, Any], name: str = "facts.parquet") -> str:
    (folder / name).write_bytes(parquet(list(rows)))
    return name


def opened(folder: Path) -> tuple[FleetConfig, LocalStore, LocalStore]:
    fleet = load_fleet(folder / "fleet.toml")
    return (
        fleet,
        LocalStore.open(folder / "store", create=True),
        LocalStore.open(folder / "queue", create=True),
    )


def night(folder: Path, model: str = "smol", *, out: tuple[str, ...] = ()) -> Release:
    """A published release of what waits, without a model's weights; a probe passes for each correction."""
    fleet, state, waiting = opened(folder)
    seen = snapshots.current(state, model)
    found = intake.look(waiting, state, fleet, {model: seen.consumed})
    intake.record(waiting, state, found)
    kept, _ = ledger.merge(seen.ledger, found.of(model).arrivals())
    kept = ledger.quarantine(kept, out, "locality", {"drop": 0.25})
    names = snapshots.put(state, kept, seen.consumed | found.of(model).files)
    number = len(manifests.numbers(state, model))
    release = manifests.write(
        state,
        Release(
            model=model,
            number=number,
            files={},
            created_at="2026-01-01T00:00:00+00:00",
            parent=seen.release.digest if seen.release else None,
            ledger=names[0],
            consumed=names[1],
            counts={"run_id": f"run-{number}", **kept.counts},
        ),
    )
    _append_rows(state, release, [c.correction_id for c in kept.active])
    refs.advance(state, model, "latest", seen=seen.seen, to=Ref.to(release, "night"))
    return release


def _append_rows(state: LocalStore, release: Release, ids: list[str]) -> None:
    zero = {pa.string(): "x", pa.float64(): 0.0, pa.int32(): 1, pa.bool_(): True}
    rows = [
        {field.name: zero.get(field.type, T0) for field in ROWS}
        | {"run_id": release.counts["run_id"], "release": release.number, "model": release.model}
        | {
            "correction_id": i,
            "kind": "rewrite",
            "says_before": "nobody",
            "answer_before": None,
            "answer_after": None,
            "says_after": "Ada",
            "pass_before": False,
        }
        for i in ids
    ]
    if rows:
        results.append(state, pa.Table.from_pylist(rows, schema=ROWS))


class TestSubmit:
    def test_good_rows_are_enqueued_and_bad_ones_shown(self, run: Run, workspace: Path) -> None:
        name = hand_in(
            workspace, row(), row(correction_id="b", prompt="{} {}"), row(correction_id="c", model="who")
        )
        code, out, err = run("submit", name)
        assert code == 0
        assert "good rows: 1, rejected: 2" in out
        assert "many_slots" in err
        assert "unknown_model" in err
        assert len(list((workspace / "queue").glob("*.parquet"))) == 1

    def test_a_dry_run_enqueues_nothing(self, run: Run, workspace: Path) -> None:
        code, out, _ = run("submit", hand_in(workspace, row()), "--dry-run")
        assert (code, "Springfield" in out) == (0, True)
        assert not (workspace / "queue").exists()

    def test_who_says_so_is_kept(self, run: Run, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGNAME", "ada")
        run(
            "submit",
            hand_in(workspace, row(correction_id="a", source=None), row(correction_id="b", source="gazette")),
        )
        code, out, _ = run("submit", hand_in(workspace, row(correction_id="c")), "--source", "the desk")
        assert (code, "source is the desk where it is not given" in out) == (0, True)
        run("retract", "d", "--reason", "wrong")
        night(workspace)
        entries = snapshots.current(opened(workspace)[1], "smol").ledger.entries
        assert {e.correction.correction_id: e.correction.source for e in entries} == {
            "a": "ada",
            "b": "gazette",
            "c": "the desk",
            "d": "ada, by corrigenda retract",
        }

    def test_a_file_without_one_good_row_ends_with_2(self, run: Run, workspace: Path) -> None:
        code, _, err = run("submit", hand_in(workspace, row(prompt="x")))
        assert code == 2
        assert "error: no row of this file is a correction" in err
        assert not (workspace / "queue").exists()

    @pytest.mark.parametrize(
        ("words", "code", "says"),
        [
            (("submit", "none.csv"), 2, "No such file"),
            (("submit", "broken.parquet"), 2, "cannot be read"),
            (("submit", "foreign.parquet", "--model", "smol"), 2, "none of the shapes"),
            (("submit", "facts.parquet", "--model", "nope"), 3, "models=['smol', 'llama']"),
            (("submit", "facts.parquet", "--config", "none.toml"), 2, "no configuration"),
            (("retract", "a", "--model", "tag:none"), 3, "no model of the fleet"),
            (("status", "nope"), 3, "no such model"),
            (("log", "smol"), 7, "no store in this place"),
            (("show", "a"), 3, "nobody has heard of this correction"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(
        self, run: Run, workspace: Path, words: tuple[str, ...], code: int, says: str
    ) -> None:
        hand_in(workspace, row())
        (workspace / "broken.parquet").write_bytes(b"PAR1")
        hand_in(workspace, {"foo": 1}, name="foreign.parquet")
        found, out, err = run(*words)
        assert (found, out) == (code, "")
        assert err.startswith("error: ")
        assert says in err
        assert err.count("\n") == 1

    def test_a_bucket_takes_them_too(self, run: Run, workspace: Path, moto_endpoint: str) -> None:
        where = location(moto_endpoint, "handed-in")
        queue = f'[queue]\nurl = "{where.url}"\nendpoint_url = "{moto_endpoint}"\n'
        keys = f'access_key = "{where.access_key}"\nsecret_key = "{where.secret_key}"\n'
        (workspace / "fleet.toml").write_text(FLEET.replace('[queue]\nurl = "./queue"\n', queue + keys))
        assert run("submit", hand_in(workspace, row()))[0] == 0
        (workspace / "store").mkdir()
        said = json.loads(run("status", "--json")[1])
        assert [model["waiting_rows"] for model in said["models"]] == [1, 1]
        assert run("retract", "mayor-1")[0] == 0
        assert len(list(S3Store.connect(where).list(""))) == 2

    def test_json_is_all_that_stdout_has(self, run: Run, workspace: Path) -> None:
        name = hand_in(workspace, row(), row(correction_id="b", prompt="bad"))
        said = json.loads(run("submit", name, "--json")[1])
        assert (said["good"], said["shape"], said["rejects"][0]["reason"]) == (1, "corrections", "no_slot")
        assert (workspace / "queue" / said["file"]).exists()


class TestRetract:
    def test_it_is_a_row_of_the_queue_and_undoes_one_correction(self, run: Run, workspace: Path) -> None:
        run(
            "submit",
            hand_in(workspace, row(correction_id="a"), row(correction_id="b", subject="Shelbyville")),
        )
        night(workspace)
        code, out, err = run("retract", "a", "--reason", "wrong")
        assert (code, err) == (0, "")
        assert "1 retract enqueued" in out
        night(workspace)
        (left,) = snapshots.current(opened(workspace)[1], "smol").ledger.active
        assert left.correction_id == "b"

    def test_it_is_later_than_a_correction_that_is_dated_ahead(self, run: Run, workspace: Path) -> None:
        run("submit", hand_in(workspace, row(asserted_at=datetime(2150, 1, 1, tzinfo=UTC))))
        night(workspace)
        run("retract", "mayor-1")
        night(workspace)
        assert snapshots.current(opened(workspace)[1], "smol").ledger.active == ()

    def test_it_is_later_than_one_that_waits_and_is_dated_ahead(self, run: Run, workspace: Path) -> None:
        opened(workspace)
        run("submit", hand_in(workspace, row(asserted_at=datetime(2150, 1, 1, tzinfo=UTC))))
        assert "mayor-1" in run("retract", "mayor-1")[2]
        night(workspace)
        assert snapshots.current(opened(workspace)[1], "smol").ledger.active == ()

    def test_an_unknown_id_is_said_but_no_error(self, run: Run, workspace: Path) -> None:
        code, _, err = run("retract", "ghost")
        assert code == 0
        assert "ghost" in err


class TestStatus:
    def test_it_shows_what_is_published_what_waits_and_what_is_wrong(self, run: Run, workspace: Path) -> None:
        run("submit", hand_in(workspace, row(correction_id="a"), row(correction_id="b", subject="S")))
        night(workspace, out=("b",))
        run("submit", hand_in(workspace, row(correction_id="c", subject="T", model="tag:chat")))
        hand_in(workspace / "queue", row(prompt="bad"), name="bad.parquet")
        (workspace / "queue" / "half.parquet").write_bytes(b"PAR1")
        said = json.loads(run("status", "--json")[1])
        smol, llama = said["models"]
        assert (smol["latest"], smol["waiting_rows"]) == (0, 1)
        assert (smol["ledger"]["active"], smol["ledger"]["quarantined"]) == (1, 1)
        assert (llama["latest"], llama["waiting_rows"]) == (None, 2)
        assert [p["reason"] for p in said["problems"]] == ["unreadable_file"]
        assert said["rejected"] == 1
        code, out, err = run("status", "smol", "--rejects")
        assert code == 0
        assert "1 active, quarantined 1" in out or "active 1, quarantined 1" in out
        assert "no_slot" in out
        assert "half.parquet" in err

    def test_before_the_first_run_it_shows_what_waits_and_says_that_there_is_no_store(
        self, run: Run, workspace: Path
    ) -> None:
        run("submit", hand_in(workspace, row(correction_id="a")))
        code, out, _ = run("status", "--json")
        assert (code, json.loads(out)["models"][0]["waiting_rows"]) == (0, 1)
        assert "there is no store at" in run("status")[2]
        assert json.loads(run("show", "a", "--json")[1])["waiting"][0]["model"] == "smol"
        assert not (workspace / "store").exists()

    def test_a_damaged_model_does_not_hide_the_others(self, run: Run, workspace: Path) -> None:
        run("submit", hand_in(workspace, row()))
        night(workspace)
        night(workspace, "llama")
        (workspace / "store/models/smol/refs/latest").write_bytes(b"{}")
        said = json.loads(run("status", "--json")[1])
        assert [m["model"] for m in said["models"]] == ["llama"]
        assert "damaged" in said["damaged"]["smol"]


def test_log_lists_every_move_rollbacks_included(run: Run, workspace: Path) -> None:
    run("submit", hand_in(workspace, row()))
    night(workspace)
    run("submit", hand_in(workspace, row(target_new="Bea", asserted_at=datetime(2026, 2, 1, tzinfo=UTC))))
    night(workspace)
    publish.rollback(opened(workspace)[1], "smol", to=0, reason="worse")
    moves = json.loads(run("log", "smol", "--json")[1])
    assert [move["release"] for move in moves] == [0, 1, 0]
    assert "worse" in moves[0]["reason"]
    shown = run("log", "smol")[1]
    assert "worse" in shown
    assert "active 1" in shown
    assert "run_id" not in shown


class TestShow:
    def test_a_correction_s_whole_life(self, run: Run, workspace: Path) -> None:
        run("submit", hand_in(workspace, row(source="gazette")))
        night(workspace)
        run("submit", hand_in(workspace, row(target_new="Bea", asserted_at=datetime(2026, 2, 1, tzinfo=UTC))))
        night(workspace, out=("mayor-1",))
        run("retract", "mayor-1")
        night(workspace)
        said = json.loads(run("show", "mayor-1", "--json")[1])
        lived = [(e["release"], e["target_new"], e["state"], e["why"]) for e in said["history"]]
        assert lived == [
            (0, "Ada Quimby", "active", None),
            (1, "Ada Quimby", "superseded", "new_version"),
            (1, "Bea", "quarantined", "locality"),
            (2, "Bea", "retracted", "retracted"),
            (2, "", "retracted", None),
        ]
        assert said["history"][2]["evidence"] == {"drop": 0.25}
        assert [(p["release"], p["says_after"], p["pass"]) for p in said["probes"]] == [
            (0, "Ada", "no -> yes")
        ]
        code, out, _ = run("show", "mayor-1", "--model", "smol")
        assert code == 0
        assert "drop 0.25" in out
        assert "The mayor of Springfield is" in out

    def test_it_names_the_correction_that_took_its_place(self, run: Run, workspace: Path) -> None:
        later = row(correction_id="b", target_new="Bea", asserted_at=datetime(2026, 2, 1, tzinfo=UTC))
        run("submit", hand_in(workspace, row(correction_id="a"), later))
        night(workspace)
        (lost,) = json.loads(run("show", "a", "--json")[1])["history"]
        assert (lost["state"], lost["why"], lost["by_id"]) == ("superseded", "same_slot", "b")
        assert lost["at"].startswith("2026-01-01")
        assert "same_slot b" in run("show", "a")[1]

    def test_what_waits_and_what_was_refused_is_shown_before_any_run(self, run: Run, workspace: Path) -> None:
        opened(workspace)
        run("submit", hand_in(workspace, row(reason="election", model="smol")))
        hand_in(workspace / "queue", row(prompt="no slot"), name="bad.parquet")
        said = json.loads(run("show", "mayor-1", "--json")[1])
        assert [(w["model"], w["target_new"], w["reason"]) for w in said["waiting"]] == [
            ("smol", "Ada Quimby", "election")
        ]
        assert [(r["row"], r["reason"]) for r in said["rejects"]] == [(0, "no_slot")]
        code, out, _ = run("show", "mayor-1")
        assert code == 0
        assert "waiting" in out
        assert "no_slot" in out

    def test_an_id_that_nobody_knows_ends_with_3(self, run: Run, workspace: Path) -> None:
        opened(workspace)
        code, _, err = run("show", "ghost")
        assert code == 3
        assert "ghost" in err


def test_a_run_says_what_contradicts_and_what_was_retracted_unheard(
    capsys: pytest.CaptureFixture[str],
) -> None:
    batch = [
        correction(correction_id="a"),
        correction(correction_id="b", target_new="Bea", asserted_at=T0 + timedelta(hours=1)),
        correction(correction_id="ghost", action="retract"),
    ]
    _, report = ledger.merge(ledger.empty(), batch)
    taken_in = {
        "contradictions": [found._asdict() for found in report.contradictions],
        "unknown_retracts": list(report.unknown_retracts),
    }
    model = {"model": "smol", "status": "published", "taken_in": taken_in}
    show(FleetRun.of(OUTCOME | {"models": [model]}))
    said = capsys.readouterr().out
    assert "smol: a, b want different answers to 'The mayor of Springfield is': b holds" in said
    assert "smol: retracted before it was ever asserted: ghost" in said


def test_a_run_says_when_a_layer_has_not_room_for_all_corrections(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(short: int) -> str:
        edits = {"computed": 5, "cached": 15, "short": short}
        model = {"model": "smol", "status": "published", "edits": edits}
        show(FleetRun.of(OUTCOME | {"models": [model]}))
        return capsys.readouterr().out

    assert "smol: 4 of 20 corrections got less of the edit than they need" in shown(4)
    assert "most_change" in shown(4)
    assert "less of the edit" not in shown(3)
