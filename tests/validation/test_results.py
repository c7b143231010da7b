"""Results outlive runs: appended once, read by anyone at any time, and by SQL that can only read."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from made_rows import BROKEN, changed, healthy, released, run

from corrigenda.config import Gates
from corrigenda.errors import LostRaceError, UsageError
from corrigenda.storage.objects.local import LocalStore
from corrigenda.validation.gates import regressions, verdict
from corrigenda.validation.queries import names, sql
from corrigenda.validation.results import append, connect, query
from corrigenda.validation.rows import unpublished
from corrigenda.validation.tables import ROWS

SCALE = int(os.environ.get("CORRIGENDA_TEST_SCALE", "1"))  # 5 asks more than 200 times


@dataclass
class Bucket:
    """A store that is no directory."""

    objects: dict[str, bytes] = field(default_factory=dict)
    url: str = "s3://bucket/prefix"

    def get(self, key):
        return self.objects[key], "1"

    def create(self, key, body):
        return None if key in self.objects else self.objects.setdefault(key, body) and "1"

    def list(self, prefix):
        return iter([Key(key) for key in sorted(self.objects) if key.startswith(prefix)])


@dataclass
class Key:
    key: str


@pytest.fixture(params=["directory", "bucket"])
def store(request, tmp_path):
    return Bucket() if request.param == "bucket" else LocalStore.open(tmp_path / "store", create=True)


def test_rows_come_back_as_they_went(store):
    rows = run(1)
    key = append(store, rows, verdict(rows, Gates()))
    assert key == "results/date=2026-01-02/model=m/run-1.parquet"
    with connect(store) as connection:
        found = query(connection, "select * exclude (date) from rows order by kind, correction_id, probe_id")
    order = [(name, "ascending") for name in ("kind", "correction_id", "probe_id")]
    assert found.cast(ROWS) == rows.sort_by(order)


def test_writing_the_same_rows_again_is_writing_them_once(store):
    append(store, run(1))
    append(store, run(1))
    with connect(store) as connection:
        assert query(connection, "select count(*) as n from rows")["n"][0].as_py() == run(1).num_rows


def test_a_run_cannot_change_its_results(store):
    append(store, run(1))
    with pytest.raises(LostRaceError):
        append(store, run(1, rows=changed(healthy(6), "locality", "c001", **BROKEN)))


def test_a_store_without_results_answers_with_nothing(store):
    with connect(store) as connection:
        for name in names():
            if name.startswith("results_"):
                assert query(connection, sql(name), model=None).num_rows == 0


def test_what_was_not_published_is_evidence_only(store):
    """A candidate that failed, and one that lost its race to another run of the same number."""
    append(store, run(1))
    append(store, unpublished(run(2)))
    append(store, replace_run(run(1), "run-lost"))
    with connect(store, released(1)) as connection:
        assert query(connection, "select distinct run_id from published")["run_id"].to_pylist() == ["run-1"]
        assert query(connection, "select distinct run_id from rows").num_rows == 3


def replace_run(rows, run_id):
    place = rows.schema.get_field_index("run_id")
    return rows.set_column(place, ROWS.field("run_id"), pa.array([run_id] * rows.num_rows))


def test_latest_is_the_newest_release_of_each_model(store):
    for number in (1, 2):
        append(store, run(number))
    append(store, run(1, model="other"))
    facts = [*released(1, 2), *released(1, model="other")]
    with connect(store, facts) as connection:
        found = query(connection, "select distinct model, release from latest order by model").to_pylist()
    assert found == [{"model": "m", "release": 2}, {"model": "other", "release": 1}]


def test_ready_made_results_know_corrections_gates_drift_and_history(store):
    broken = changed(healthy(6), "locality", "c001", **BROKEN)
    for number, rows in ((1, None), (2, broken)):
        made = run(number, rows=rows)
        append(store, made, verdict(made, Gates()))
    with connect(store, released(1, 2)) as connection:
        corrections = query(connection, sql("results_corrections"), model="m").to_pylist()
        assert len(corrections) == 6
        assert corrections[1]["neighbours_broken"] == corrections[1]["neighbours"] == 5
        gates = query(connection, sql("results_gates"), model="m").to_pylist()
        assert [(g["release"], g["gate"]) for g in gates if not g["passed"]] == [(2, "locality_drop")]
        assert query(connection, sql("results_drift"), model="m")["release"].to_pylist() == [1, 2]
        history = query(connection, sql("results_history"), model="m").to_pylist()
        assert [h["locality_drop"] for h in history] == pytest.approx([0, 1 / 6])
        assert query(connection, sql("results_history"), model="nobody").num_rows == 0


def test_a_correction_that_used_to_pass_is_named(store):
    failing = changed(healthy(6), "rewrite", "c003", pass_after=False, says_after="old")
    for number, rows in ((1, None), (2, None), (3, failing)):
        append(store, run(number, rows=rows))
    with connect(store, released(1, 2)) as connection:
        (named,) = regressions(connection, run(3, rows=failing))
        assert (named["correction_id"], named["last_passed"], named["says"]) == ("c003", 2, "old")
        assert regressions(connection, run(3)) == []
    with connect(store, released(1, 2, 3)) as connection:
        (again,) = query(connection, sql("results_regressions"), model=None).to_pylist()
        assert (again["correction_id"], again["release"], again["last_passed"]) == ("c003", 3, 2)


def test_a_correction_that_never_passed_is_no_regression(store):
    failing = changed(healthy(6), "rewrite", "c003", pass_after=False)
    append(store, run(1, rows=failing))
    with connect(store, released(1)) as connection:
        assert regressions(connection, run(2, rows=failing)) == []


def test_an_old_file_that_lacks_a_column_reads_as_null(store):
    append(store, run(1))
    append(store, run(2))
    older = run(0).drop_columns(["kl"])
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(older, sink)
    store.create("results/date=2026-01-01/model=m/run-0.parquet", sink.getvalue().to_pybytes())
    with connect(store) as connection:
        found = query(connection, "select count(*) as n, count(kl) as kl from rows where run_id = 'run-0'")
    assert found.to_pylist() == [{"n": older.num_rows, "kl": 0}]


FORBIDDEN = [
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from read_parquet('s3://bucket/key')",
    "select * from read_csv('https://example.org/a.csv')",
    "select * from glob('/*')",
    "copy (select 1) to '/tmp/corrigenda-stolen.csv'",
    "attach '/tmp/corrigenda-stolen.db'",
    "set enable_external_access = true",
    "install httpfs",
    "load httpfs",
    "create table t as select 1",
    "drop view rows",
    "select 1; drop view rows",
    "export database '/tmp/corrigenda-stolen'",
    "explain analyze copy (select 1) to '/tmp/corrigenda-stolen.csv'",
    "select * from store",
    "selec nonsense",
    "",
]


@pytest.mark.parametrize("text", FORBIDDEN)
def test_sql_reads_results_and_nothing_else(store, text, tmp_path):
    append(store, run(1))
    with connect(store) as connection:
        with pytest.raises(UsageError) as refusal:
            query(connection, text)
        assert "\n" not in str(refusal.value)
        assert query(connection, "select count(*) as n from rows")["n"][0].as_py() > 0


def _write_nights(path, nights):
    store = LocalStore.open(path)
    for number in range(nights):
        append(store, run(number))


def test_readers_ask_while_a_run_writes(tmp_path):
    """No lock, no error, and what was once seen stays."""
    path = tmp_path / "store"
    store = LocalStore.open(path, create=True)
    append(store, replace_run(run(0), "first"))
    writer = multiprocessing.get_context("spawn").Process(target=_write_nights, args=(path, 60 * SCALE))
    writer.start()
    seen, while_writing = [], 0
    while len(seen) < 40 * SCALE or writer.is_alive():
        while_writing += writer.is_alive()
        with connect(store) as connection:
            seen.append(query(connection, "select count(distinct run_id) as n from rows")["n"][0].as_py())
    writer.join()
    assert writer.exitcode == 0
    assert seen == sorted(seen)
    assert while_writing
    print(f"{len(seen)} queries, {while_writing} of them while the run wrote")
    with connect(store) as connection:
        assert (
            query(connection, "select count(distinct run_id) as n from rows")["n"][0].as_py()
            == 60 * SCALE + 1
        )
