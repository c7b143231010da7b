"""`query`, `results` and `report` as people and programs call them."""

from __future__ import annotations

import csv
import io
import json

import pytest
import typer
from made_rows import BROKEN, changed, healthy, run
from typer.testing import CliRunner

from corrigenda.cli import results as commands
from corrigenda.config import Gates
from corrigenda.errors import NotFoundError, SetupError, UsageError
from corrigenda.facts import Correction
from corrigenda.storage.corrections import ledger
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import manifests, refs
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Ref
from corrigenda.validation.gates import verdict
from corrigenda.validation.results import append

FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[[models]]
name = "m"
source = "demo:m"
[[models]]
name = "unborn"
source = "demo:unborn"
"""


CAME_BACK = {"came_back": [{"prompt": "The <i>capital</i> of Peru is", "expected": "Lima"}]}
LAYERS = {"method": "lga", "scores": [1.0, 2.0], "kept": [True, True], "pick": 1}


@pytest.fixture
def workspace(tmp_path, make_correction):
    """A store with two releases of `m`; the second broke the neighbours of c001 and has one sent out."""
    (tmp_path / "fleet.toml").write_text(FLEET)
    store = LocalStore.open(tmp_path / "store", create=True)
    broken = changed(healthy(6), "locality", "c001", **BROKEN | {"says_after": "\x1b[31mred [bold]"})
    parent = None
    for number, rows in ((1, healthy(6)), (2, broken)):
        made = run(number, rows=rows)
        said = verdict(made, Gates())
        append(store, made, said)
        parent = publish(store, number, parent, said, make_correction(99))
    return tmp_path


def publish(store, number, parent, said, sent_out: Correction):
    books, _ = ledger.merge(ledger.empty(), [sent_out])
    books = ledger.quarantine(books, ["c099"], "locality_drop: it spoils <b>all</b>", CAME_BACK)
    release = manifests.write(
        store,
        Release(
            model="m", number=number, files={}, created_at="2026-01-02T03:00:00+00:00", parent=parent,
            base={"source": "demo:m", "weights_digest": "w" * 64}, layer=3,
            ledger=blobs.put(store, books.to_parquet()), gates=said.as_json(),
            counts={"run_id": f"run-{number}", "active": 6, "quarantined": 1},
            settings={"localization": LAYERS},
        ),
    )  # fmt: skip
    refs.advance(store, "m", "latest", seen=refs.read(store, "m", "latest"), to=Ref.to(release, "run"))
    return release.digest


@pytest.fixture
def call(workspace):
    app = typer.Typer()
    commands.register(app)

    def called(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--config", str(workspace / "fleet.toml")])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return called


def test_query_answers_in_json(call):
    said = json.loads(
        call("query", "select release, count(*) as n from published group by 1 order by 1", "--json")
    )
    assert [row["release"] for row in said] == [1, 2]


def test_query_answers_in_csv(call):
    said = call("query", "select 'a,b' as x, 'it''s \"so\"' as y, null as z", "--csv")
    assert list(csv.DictReader(io.StringIO(said))) == [{"x": "a,b", "y": 'it\'s "so"', "z": ""}]


def test_json_has_no_nan(call):
    said = call("query", "select 'nan'::double as a, 'inf'::double as b, 1.5 as c", "--json")
    assert json.loads(said, parse_constant=pytest.fail) == [{"a": None, "b": None, "c": 1.5}]


def test_a_table_shows_no_control_characters_and_no_markup(call):
    said = call("query", "select distinct says_after from latest where says_after like '%red%'")
    assert "\x1b" not in said
    assert "[bold]" in said


@pytest.mark.parametrize("what", list(commands.What))
@pytest.mark.parametrize("form", ["", "--json", "--csv"])
def test_every_ready_made_question_has_every_form(call, what, form):
    assert call("results", what, *([form] if form else []))


def test_results_are_of_one_model_when_one_is_named(call):
    assert len(json.loads(call("results", "corrections", "m", "--json"))) == 6
    assert json.loads(call("results", "corrections", "unborn", "--json")) == []


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["results", "drift", "nobody"], NotFoundError),
        (["query", "select 1", "--json", "--csv"], UsageError),
        (["query", "select * from '/etc/passwd'"], UsageError),
        (["report", "nobody"], NotFoundError),
        (["report", "m@7"], NotFoundError),
        (["report", "m@yesterday"], UsageError),
        (["report", "m", "-o", "/nowhere/report.html"], SetupError),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(call, arguments, error):
    with pytest.raises(error) as refusal:
        call(*arguments)
    assert "\n" not in str(refusal.value)


def test_report_writes_one_page_about_the_latest_or_a_numbered_release(call, tmp_path):
    path = tmp_path / "page.html"
    assert call("report", "m", "-o", str(path)).strip() == str(path)
    page = path.read_text(encoding="utf-8")
    assert "m</bdi>, release 2" in page
    assert "it spoils &lt;b&gt;all&lt;/b&gt;" in page
    assert "The &lt;i&gt;capital&lt;/i&gt; of Peru is" in page
    assert "Layer 1 was picked by lga" in page
    assert "Not all gates passed" in page
    older = call("report", "m@1", "-o", "-")
    assert "m</bdi>, release 1" in older
    assert "All gates passed" in older


def test_a_damaged_model_does_not_hide_the_others(call, workspace):
    folder = workspace / "store" / "models" / "sick" / "refs"
    folder.mkdir(parents=True)
    (folder / "latest").write_text("rubbish")
    assert len(json.loads(call("results", "corrections", "--json"))) == 6


def test_two_columns_of_one_name_keep_both_values(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    commands.query("select 1 as a, 2 as a, 3 as a_1", config=workspace / "fleet.toml", json=True)
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "a_1": 2, "a_1_1": 3}]


def test_the_ledger_is_a_table_and_what_was_sent_out_is_listed(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    commands.corrections(state=commands.StateOption.quarantined, config=workspace / "fleet.toml", json=True)
    (sent,) = json.loads(capsys.readouterr().out)
    assert (sent["model"], sent["state"]) == ("m", "quarantined")
    commands.query(
        "select count(*) as n from ledger where release = 2", config=workspace / "fleet.toml", json=True
    )
    assert json.loads(capsys.readouterr().out)[0]["n"] >= 1


def test_every_column_that_sql_sees_has_a_meaning(workspace, capsys):
    commands.query(None, schema=True, config=workspace / "fleet.toml", json=True)
    said = json.loads(capsys.readouterr().out)
    assert {row["table"] for row in said} >= {"rows", "verdicts", "nights", "releases", "ledger"}
    assert all(row["meaning"] for row in said)
