"""What is new for which model: globs and tags, consumed files, the index, rejects on record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from queue_rows import parquet, row

from corrigenda.config import FleetConfig, Location, ModelEntry
from corrigenda.errors import ObjectUnreadableError, StorageError
from corrigenda.storage.corrections import intake
from corrigenda.storage.corrections.intake import Intake
from corrigenda.storage.corrections.queue import submit
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.objects.s3 import S3Store

NOTHING: dict[str, frozenset[str]] = {"llama-8b": frozenset(), "llama-70b": frozenset(), "smol": frozenset()}


def fleet_of(**models: tuple[str, ...]) -> FleetConfig:
    entries = tuple(
        ModelEntry(name=n.replace("_", "-"), source="none", tags=tags) for n, tags in models.items()
    )
    return FleetConfig(store=Location(url="s"), queue=Location(url="q"), models=entries)


FLEET = fleet_of(llama_8b=("chat",), llama_70b=(), smol=("chat",))


class CountingStore(LocalStore):
    """A directory that remembers what was read from it."""

    def get(self, key: str) -> tuple[bytes, str]:
        reads.append(key)
        return LocalStore.get(self, key)


reads: list[str] = []


@pytest.fixture
def waiting(tmp_path: Path) -> LocalStore:
    reads.clear()
    (tmp_path / "queue").mkdir()
    return CountingStore(tmp_path / "queue")


@pytest.fixture
def state(tmp_path: Path) -> LocalStore:
    return LocalStore.open(tmp_path / "state", create=True)


def drop(store: LocalStore, name: str, *rows: dict[str, Any]) -> None:
    store.create(name, parquet(list(rows)))


def ids(found: Intake, model: str) -> list[str]:
    return [arrival.correction.correction_id for arrival in found.of(model).arrivals()]


def test_names_globs_and_tags_reach_the_models_that_they_mean(waiting: LocalStore, state: LocalStore) -> None:
    selectors = ["smol", "llama-*", "tag:chat", "*"]
    drop(waiting, "a.parquet", *(row(correction_id=s, model=s) for s in selectors))
    found = intake.look(waiting, state, FLEET, NOTHING)
    assert ids(found, "smol") == ["smol", "tag:chat", "*"]
    assert ids(found, "llama-8b") == ["llama-*", "tag:chat", "*"]
    assert ids(found, "llama-70b") == ["llama-*", "*"]


def test_what_a_model_consumed_is_not_new_to_it_but_to_the_others(
    waiting: LocalStore, state: LocalStore
) -> None:
    drop(waiting, "a.parquet", row(correction_id="a"))
    first = intake.look(waiting, state, FLEET, NOTHING)
    drop(waiting, "b.parquet", row(correction_id="b"))
    found = intake.look(waiting, state, FLEET, NOTHING | {"smol": first.of("smol").files})
    assert ids(found, "smol") == ["b"]
    assert ids(found, "llama-8b") == ["a", "b"]


def test_looking_writes_nothing(waiting: LocalStore, state: LocalStore) -> None:
    drop(waiting, "a.parquet", row(), row(prompt="bad"))
    intake.look(waiting, state, FLEET, NOTHING)
    assert list(state.list("")) == []


def test_a_file_that_every_model_consumed_is_not_read_again(waiting: LocalStore, state: LocalStore) -> None:
    drop(waiting, "a.parquet", row())
    drop(waiting, "only-bad.parquet", row(prompt="bad"))
    found = intake.look(waiting, state, FLEET, NOTHING)
    intake.record(waiting, state, found)
    reads.clear()
    again = intake.look(waiting, state, FLEET, {model: found.of(model).files for model in NOTHING})
    assert (again.models, again.skipped, reads) == ((), 2, [])


def test_a_file_without_rows_for_the_models_looked_for_is_not_read_again(
    waiting: LocalStore, state: LocalStore
) -> None:
    drop(waiting, "a.parquet", row(model="llama-8b"))
    intake.record(waiting, state, intake.look(waiting, state, FLEET, NOTHING))
    reads.clear()
    assert intake.look(waiting, state, FLEET, {"smol": frozenset()}).models == ()
    assert reads == []


def test_a_lost_index_costs_reading_and_nothing_else(waiting: LocalStore, state: LocalStore) -> None:
    drop(waiting, "a.parquet", row())
    found = intake.look(waiting, state, FLEET, NOTHING)
    consumed = {model: found.of(model).files for model in NOTHING}
    assert intake.look(waiting, state, FLEET, consumed).models == ()
    assert reads.count("a.parquet") == 2


def test_the_index_is_one_object_and_forgets_files_that_are_gone(
    waiting: LocalStore, state: LocalStore
) -> None:
    for night in "abc":
        drop(waiting, f"{night}.parquet", row(correction_id=night))
        intake.record(waiting, state, intake.look(waiting, state, FLEET, NOTHING))
    waiting.delete("a.parquet")
    drop(waiting, "d.parquet", row(correction_id="d"))
    found = intake.look(waiting, state, FLEET, NOTHING)
    intake.record(waiting, state, found)
    assert len(found.index) == 3
    assert len(list(state.list("cache/queue/"))) == 1
    reads.clear()
    consumed = {model: found.of(model).files for model in NOTHING}
    assert intake.look(waiting, state, FLEET, consumed).skipped == 3
    assert reads == []


def test_what_another_run_has_consumed_since_the_look_is_not_new_any_more(
    waiting: LocalStore, state: LocalStore
) -> None:
    drop(waiting, "a.parquet", row(correction_id="a"))
    first = intake.look(waiting, state, FLEET, NOTHING).of("smol")
    drop(waiting, "b.parquet", row(correction_id="b"))
    late = intake.look(waiting, state, FLEET, NOTHING).of("smol")
    left = late.without(first.files)
    assert [arrival.correction.correction_id for arrival in left.arrivals()] == ["b"]
    assert left.files == late.files - first.files
    assert late.without(frozenset()) == late


def test_a_file_that_changes_in_place_is_a_new_file(waiting: LocalStore, state: LocalStore) -> None:
    drop(waiting, "a.parquet", row(correction_id="a"))
    first = intake.look(waiting, state, FLEET, NOTHING)
    intake.record(waiting, state, first)
    (Path(waiting.url) / "a.parquet").write_bytes(parquet([row(correction_id="b")]))
    found = intake.look(waiting, state, FLEET, {"smol": first.of("smol").files})
    assert ids(found, "smol") == ["b"]


def test_the_same_bytes_under_two_names_are_one_file(waiting: LocalStore, state: LocalStore) -> None:
    for name in ("a.parquet", "copies/b.parquet"):
        drop(waiting, name, row(), row(prompt="bad"))
    found = intake.look(waiting, state, FLEET, NOTHING)
    assert (ids(found, "smol"), len(found.of("smol").files), found.rejected) == (["mayor-1"], 1, 1)


def test_a_half_written_file_stops_nobody_and_is_read_when_it_is_whole(
    waiting: LocalStore, state: LocalStore
) -> None:
    body = parquet([row(correction_id="late")])
    path = Path(waiting.url) / "half.parquet"
    path.write_bytes(body[:100])
    drop(waiting, "whole.parquet", row())
    for _ in range(2):  # every night says so
        found = intake.look(waiting, state, FLEET, NOTHING)
        intake.record(waiting, state, found)
        assert [(p.file, p.reason) for p in found.problems] == [("half.parquet", "unreadable_file")]
        assert ids(found, "smol") == ["mayor-1"]
    path.write_bytes(body)
    found = intake.look(waiting, state, FLEET, NOTHING | {"smol": found.of("smol").files})
    assert (ids(found, "smol"), found.problems) == (["late"], [])


def test_rejects_are_on_record_with_their_file_once(waiting: LocalStore, state: LocalStore) -> None:
    drop(waiting, "a.parquet", row(), row(prompt="bad"), row(model="unheard-of"))
    for _ in range(2):
        intake.record(waiting, state, intake.look(waiting, state, FLEET, NOTHING))
    rejects = intake.rejects(state).to_pylist()
    assert [(r["file"], r["row"], r["reason"]) for r in rejects] == [
        ("a.parquet", 1, "no_slot"),
        ("a.parquet", 2, "unknown_model"),
    ]


def test_rows_for_a_model_that_joins_later_are_taken_then(waiting: LocalStore, state: LocalStore) -> None:
    drop(waiting, "a.parquet", row(correction_id="early", model="newcomer"), row())
    first = intake.look(waiting, state, FLEET, NOTHING)
    intake.record(waiting, state, first)
    consumed = {model: first.of(model).files for model in NOTHING} | {"newcomer": frozenset()}
    grown = fleet_of(llama_8b=("chat",), llama_70b=(), smol=("chat",), newcomer=())
    found = intake.look(waiting, state, grown, consumed)
    intake.record(waiting, state, found)
    assert found.models == ("newcomer",)
    assert ids(found, "newcomer") == ["early", "mayor-1"]
    assert intake.rejects(state).num_rows == 0


def test_a_file_that_may_not_be_read_is_a_problem_but_a_store_that_fails_is_an_error(
    waiting: LocalStore, state: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:

    drop(waiting, "a.parquet", row())

    def refuse(self: LocalStore, key: str) -> tuple[bytes, str]:
        raise ObjectUnreadableError("may not be read", remedy="Allow it")

    monkeypatch.setattr(CountingStore, "get", refuse)
    assert [p.detail for p in intake.look(waiting, state, FLEET, NOTHING).problems] == [
        "may not be read. Allow it"
    ]

    def fail(self: LocalStore, key: str) -> tuple[bytes, str]:
        raise StorageError("down", remedy="Wait")

    monkeypatch.setattr(CountingStore, "get", fail)
    with pytest.raises(StorageError):
        intake.look(waiting, state, FLEET, NOTHING)


def test_an_empty_queue_is_no_work(waiting: LocalStore, state: LocalStore) -> None:
    found = intake.look(waiting, state, FLEET, NOTHING)
    intake.record(waiting, state, found)
    assert (found.models, ids(found, "smol"), list(state.list(""))) == ((), [], [])


def test_a_bucket_is_a_queue_too(moto_store: S3Store, state: LocalStore) -> None:
    receipt = submit([row(), row(correction_id="b", prompt="bad")], to=moto_store, strict=False)
    moto_store.create("deep/er/a.parquet", parquet([row(correction_id="c", model="smol")]))
    moto_store.create("half.parquet", b"PAR1")
    found = intake.look(moto_store, state, FLEET, NOTHING)
    intake.record(moto_store, state, found)
    assert (receipt.accepted, ids(found, "smol")) == (1, ["mayor-1", "c"])
    assert [p.file for p in found.problems] == ["half.parquet"]
    consumed = {model: found.of(model).files for model in NOTHING}
    again = intake.look(moto_store, state, FLEET, consumed)
    assert (again.models, again.skipped) == ((), 2)


def test_the_benchmark_runs_in_small() -> None:
    command = [sys.executable, "-m", "bench.ingest", "--rows", "2000", "--files", "4", "--models", "5"]
    root = Path(__file__).parents[2]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    assert said.startswith("rows taken 1,9")
    assert "peak" in said
