"""Inputs that ask for too much: they are refused by a line, and take no more memory or time than is said."""

from __future__ import annotations

import os
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from releases import checkpoint, register, save

from corrigenda.config import load_fleet
from corrigenda.errors import ConfigError, CorruptBlobError, UsageError
from corrigenda.storage.corrections import intake, reading
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import manifests
from corrigenda.validation import results

FLEET = '[store]\nurl = "{}"\n[queue]\nurl = "{}"\n[[models]]\nname = "m"\nsource = "x"\n'


def rows(count: int, subject: str = "Bohr") -> pa.Table:
    columns = {"correction_id": [f"id-{n}" for n in range(count)], "model": ["m"] * count}
    columns |= {
        "subject": [subject] * count,
        "prompt": ["{} lives in"] * count,
        "target_new": ["Rome"] * count,
    }
    return pa.table(columns | {"asserted_at": pa.array([0] * count, pa.timestamp("us", tz="UTC"))})


def parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def test_a_small_file_of_much_text_stays_in_the_queue_and_is_not_decoded_whole():
    body = parquet(rows(20_000, "x" * 4_000))
    assert len(body) < 300_000
    pool = pa.default_memory_pool()
    before = pool.max_memory()
    found = reading.read("bomb.parquet", body)
    assert isinstance(found, reading.Problem) and found.reason == "too_large"
    assert found.remedy and pool.max_memory() - before < 120 << 20


def test_a_large_file_of_ordinary_rows_is_read():
    found = reading.read("large.parquet", parquet(rows(100_000)))
    assert isinstance(found, reading.QueueFile) and found.good.num_rows == 100_000


def fleet_of(folder, store="store", where="queue"):
    (folder / "fleet.toml").write_text(FLEET.format(store, where))
    return load_fleet(folder / "fleet.toml")


def test_a_night_takes_in_so_many_rows_and_leaves_the_rest_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "MOST_ROWS", 150)
    fleet, files = fleet_of(tmp_path), LocalStore.open(tmp_path / "queue", create=True)
    state = LocalStore.open(tmp_path / "store", create=True)
    for number in range(3):
        files.create(f"{number}.parquet", parquet(rows(100 + number)))
    taken: frozenset[str] = frozenset()
    for expected in (201, 102, 0):
        found = intake.look(files, state, fleet, {"m": taken})
        intake.record(files, state, found)
        assert found.of("m").rows.num_rows == expected
        assert [p.reason for p in found.problems] == (["night_is_full"] if expected == 201 else [])
        taken |= found.of("m").files


def test_a_file_that_is_written_anew_in_its_place_is_read(tmp_path):
    """Same name, same size, same time: another content all the same."""
    fleet, files = fleet_of(tmp_path), LocalStore.open(tmp_path / "queue", create=True)
    state = LocalStore.open(tmp_path / "store", create=True)
    path = tmp_path / "queue" / "rows.parquet"
    path.write_bytes(parquet(rows(1)))
    first = intake.look(files, state, fleet, {"m": frozenset()})
    intake.record(files, state, first)
    taken, stat = first.of("m").files, path.stat()
    other = parquet(rows(1).set_column(4, "target_new", [["Oslo"]]))
    assert len(other) == stat.st_size
    with path.open("r+b") as file:
        file.write(other)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert intake.look(files, state, fleet, {"m": taken}).of("m").rows["target_new"].to_pylist() == ["Oslo"]


@pytest.mark.parametrize(("store", "where"), [("s", "s"), ("s", "s/queue"), ("q/store", "q"), ("s", "./s/")])
def test_a_queue_and_a_store_in_one_another_are_refused(tmp_path, store, where):
    with pytest.raises(ConfigError, match="must lie apart"):
        fleet_of(tmp_path, store, where)
    buckets = (f"s3://b/{place}" for place in (store, where.removeprefix("./")))
    with pytest.raises(ConfigError, match="must lie apart"):
        fleet_of(tmp_path, *buckets)


def test_places_that_only_begin_alike_lie_apart(tmp_path):
    fleet_of(tmp_path, "s", "s2")
    fleet_of(tmp_path, "s3://b/s", "s3://b/s2")
    fleet_of(tmp_path, "s3://b/s", "s")


def test_a_link_out_of_a_models_directory_is_refused(local_store, tmp_path):
    directory = save(tmp_path / "base", checkpoint())
    (tmp_path / "secret.txt").write_text("root:x:0:0")
    (directory / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UsageError, match="a link that leads out of it"):
        register(local_store, directory)
    (directory / "notes.txt").unlink()
    (directory / "chat.jinja").symlink_to(directory / "templates" / "chat.jinja")
    assert "chat.jinja" in register(local_store, directory).files


def test_what_lies_in_a_hubs_cache_may_be_links_to_its_own_blobs(local_store, tmp_path):
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    save(blobs, checkpoint())
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        if path.is_file():
            (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert "config.json" in register(local_store, snapshot).files


def test_files_that_belong_to_no_model_stay_where_they_are(local_store, tmp_path):
    directory = save(tmp_path / "base", checkpoint())
    for name in ("id_rsa", "core.dump", "pytorch_model.bin", "history.sqlite", "LICENSE", "modeling.py"):
        (directory / name).write_bytes(b"x")
    taken = set(register(local_store, directory).files)
    assert {"LICENSE", "modeling.py", "templates/chat.jinja"} <= taken
    assert not taken & {"id_rsa", "core.dump", "pytorch_model.bin", "history.sqlite"}


def test_a_manifest_of_many_megabytes_is_not_parsed(monkeypatch):
    monkeypatch.setattr(manifests, "_MOST_BYTES", 1000)
    with pytest.raises(CorruptBlobError, match="1,000 at most are read"):
        manifests.from_bytes(b"[" * 1001)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("select count(*) from range(100000000000) a, range(1000) b", "took longer than"),
        ("select list(range) from range(500000000)", "needs more than"),
        ("select repeat('x', 1000000) from range(1000)", "more than 1 MB"),
    ],
)
def test_a_question_has_its_bounds(local_store, monkeypatch, text, said):
    monkeypatch.setattr(results, "_MOST_S", 0.5 if "longer" in said else 30.0)
    monkeypatch.setattr(results, "MOST_MEMORY", "50MB" if "needs" in said else "1GB")
    monkeypatch.setattr(results, "MOST_ANSWER", 1 << 20)
    with results.connect(local_store) as connection, pytest.raises(UsageError, match=said):
        results.query(connection, text)
