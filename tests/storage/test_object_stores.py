"""One conformance suite; every store inherits the proof."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from store_servers import answering, location, scaled

from corrigenda.errors import NotFoundError, SetupError, StorageError, UnknownOutcomeError, UsageError
from corrigenda.storage.objects import s3
from corrigenda.storage.objects.conditional_writes import require_conditional_writes
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.objects.s3 import S3Store

WRITERS = 16
LATE = timedelta(seconds=1.5)  # dates of S3 are whole seconds


class ObjectStoreContract:
    """What any ObjectStore must do. Subclass it, provide `store`, inherit the proof.

    tick   seconds by which two writes differ in age for sure
    """

    tick = 1.1

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError

    def test_what_is_created_is_read_back(self, store):
        version = store.create("a/b", b"body")
        assert store.get("a/b") == (b"body", version)

    def test_nothing_is_created_over_something(self, store):
        store.create("k", b"1")
        assert store.create("k", b"2") is None
        assert store.get("k")[0] == b"1"

    def test_replace_needs_the_version_that_is_there(self, store):
        first = store.create("k", b"1")
        second = store.replace("k", b"2", version=first)
        assert second not in (None, first)
        assert store.replace("k", b"3", version=first) is None
        assert store.get("k") == (b"2", second)

    def test_replace_of_what_is_gone_is_lost(self, store):
        first = store.create("k", b"1")
        store.delete("k")
        assert store.replace("k", b"2", version=first) is None
        assert store.stat("k") is None

    def test_a_range_is_half_open_and_ends_with_the_object(self, store):
        store.create("k", b"0123456789")
        assert store.get_range("k", 2, 5) == b"234"
        assert store.get_range("k", 8, 99) == b"89"
        assert store.get_range("k", 4, 4) == b""
        assert store.get_range("k", 10, 12) == b""
        for start, stop in ((2, 5), (8, 99), (4, 4), (10, 12)):
            buffer = bytearray(stop - start)
            count = store.read_into("k", start, memoryview(buffer))
            assert buffer[:count] == b"0123456789"[start:stop]

    def test_what_is_not_there_is_not_found(self, store):
        with pytest.raises(NotFoundError):
            store.get("nothing/here")
        with pytest.raises(NotFoundError):
            store.get_range("nothing/here", 0, 1)
        with pytest.raises(NotFoundError):
            store.read_into("nothing/here", 0, memoryview(bytearray(1)))
        with pytest.raises(NotFoundError):
            store.copy("nothing/here", "k")
        assert store.stat("nothing/here") is None

    def test_a_listing_is_by_prefix_of_the_key(self, store):
        for key in ("b/2", "a/1", "b/10", "b-1", "c"):
            store.create(key, key.encode())
        assert sorted(info.key for info in store.list("b")) == ["b-1", "b/10", "b/2"]
        assert [(info.key, info.size) for info in store.list("a/")] == [("a/1", 3)]
        assert list(store.list("nothing/")) == []

    def test_a_listing_goes_on_behind_a_thousand(self, store):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: store.create(f"many/{n:04}", b""), range(1005)))
        assert len(list(store.list("many/"))) == 1005

    def test_deleting_twice_is_deleting_once(self, store):
        store.create("k", b"1")
        store.delete("k")
        store.delete("k")
        assert store.stat("k") is None
        assert store.create("k", b"2") is not None

    def test_what_was_touched_since_a_listing_is_not_deleted_by_it(self, store):
        store.create("k", b"1")
        [listed] = store.list("k")
        assert not store.touch("nothing") and store.stat("nothing") is None
        time.sleep(self.tick)
        assert store.touch("k")
        assert store.get("k")[0] == b"1"
        assert store.stat("k").modified > listed.modified
        assert not store.delete_unchanged(listed)
        [now] = store.list("k")
        assert store.delete_unchanged(now) and store.stat("k") is None
        assert store.delete_unchanged(now)

    def test_objects_are_dated_by_the_stores_clock(self, store):
        before = store.clock()
        store.create("k", b"1")
        assert before - LATE <= store.stat("k").modified <= store.clock() + LATE

    def test_sweeping_leaves_what_is_listed(self, store):
        store.create("k", b"1")
        store.sweep(store.clock() + timedelta(days=1))
        assert store.get("k")[0] == b"1"

    def test_a_copy_overwrites(self, store):
        store.create("from", b"new")
        store.create("to", b"old")
        store.copy("from", "to")
        assert store.get("to")[0] == b"new" == store.get("from")[0]

    def test_a_file_is_created_once(self, store, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"x" * 100_000)
        version = store.create_from_file("k", path)
        assert store.get("k") == (path.read_bytes(), version)
        assert store.create_from_file("k", path) is None

    def test_a_large_file_goes_up_in_parts_and_is_created_once(self, store, tmp_path, monkeypatch):
        monkeypatch.setattr(s3, "PART", 5 << 20)
        path = tmp_path / "file"
        path.write_bytes(bytes(range(256)) * (11 << 12))
        assert store.create_from_file("k", path) is not None
        assert store.get("k")[0] == path.read_bytes()
        path.write_bytes(b"other" * (2 << 20))
        assert store.create_from_file("k", path) is None
        assert store.get_range("k", 0, 4) == bytes(range(4))

    def test_a_large_object_is_copied_in_parts(self, store, tmp_path, monkeypatch):
        monkeypatch.setattr(s3, "COPY_LIMIT", 5 << 20)
        monkeypatch.setattr(s3, "COPY_PART", 5 << 20)
        body = bytes(range(256)) * (3 << 13)
        store.create("from", body)
        store.copy("from", "to")
        assert store.get("to")[0] == body

    def test_empty_and_odd_names_and_bodies(self, store):
        for key in ("empty", "with blank", "größe/名前.parquet", "date=2026-01-01/x+y@z"):
            version = store.create(key, b"")
            assert store.get(key) == (b"", version)
            assert store.stat(key).size == 0
            assert key in [info.key for info in store.list(key)]

    @pytest.mark.parametrize("key", ["", "../x", "a/../../x", "/etc/passwd", "a//b", "a/.", "a\0b"])
    def test_a_key_that_leaves_the_store_is_refused(self, store, key):
        with pytest.raises(UsageError):
            store.get(key)
        with pytest.raises(UsageError):
            store.create(key, b"")

    def test_conditional_writes_are_honoured(self, store):
        require_conditional_writes(store)
        assert list(store.list("probes/")) == []


class RaceContract:
    """Exactly one writer wins, every time."""

    rounds = 10

    def test_one_of_many_creators_wins(self, store):
        for round_ in range(scaled(self.rounds)):
            assert len(race(lambda n, r=round_: store.create(f"race/{r}", b"%d" % n))) == 1

    def test_one_of_many_replacers_wins(self, store):
        version = store.create("race", b"start")
        for round_ in range(scaled(self.rounds)):
            seen = version
            won = race(lambda n, r=round_, v=seen: store.replace("race", b"%d %d" % (r, n), version=v))
            assert len(won) == 1
            [(winner, version)] = won.items()
            assert store.get("race") == (b"%d %d" % (round_, winner), version)


def race(attempt):
    """Let WRITERS threads try at once; returns the winners and what each of them got."""
    start = threading.Barrier(WRITERS)

    def one(number):
        start.wait()
        return number, attempt(number)

    with ThreadPoolExecutor(WRITERS) as pool:
        return {number: got for number, got in pool.map(one, range(WRITERS)) if got is not None}


class TestLocal(ObjectStoreContract, RaceContract):
    tick = 0.02

    @pytest.fixture
    def store(self, local_store):
        return local_store


class TestSeaweedFS(ObjectStoreContract, RaceContract):
    rounds = 1  # its losers wait whole seconds for the winner

    @pytest.fixture
    def store(self, weed_store):
        return weed_store


class TestMoto(ObjectStoreContract):
    """moto lets two creators win a race now and then, so that it cannot be held to the races."""

    @pytest.fixture
    def store(self, moto_store):
        return moto_store


def test_a_store_that_overwrites_is_refused_by_the_name_of_its_defect(rclone_endpoint):
    store = S3Store.connect(location(rclone_endpoint, "x"))
    with pytest.raises(SetupError, match=r"ignores conditional writes: a second create .* overwrote"):
        require_conditional_writes(store)


def test_a_missing_directory_is_one_clear_line(tmp_path: Path):
    with pytest.raises(SetupError, match="there is no store in this place"):
        LocalStore.open(tmp_path / "nowhere")


def test_a_missing_bucket_is_one_clear_line(moto_endpoint):
    where = location(moto_endpoint).model_copy(update={"url": "s3://no-such-bucket/x"})
    with pytest.raises(SetupError, match="there is no such bucket"):
        S3Store.connect(where)


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n"


@pytest.mark.parametrize("headers", [b'ETag: "a"\r\nLast-Modified: Sat, 28 No', b"", b"ETag"])
def test_a_line_that_is_cut_within_the_headers_is_an_answer_to_be_asked_for_again(headers):
    store = S3Store.connect(location(answering(OK + b"\r\n", OK + headers)))
    for read in (lambda: store.get("k"), lambda: store.stat("k")):
        with pytest.raises(StorageError, match="does not answer") as caught:
            read()
        assert caught.value.retryable


def test_the_end_of_a_write_whose_answer_is_cut_within_the_headers_is_not_known():
    store = S3Store.connect(location(answering(OK + b"\r\n", OK + b"x-amz-ver")))
    with pytest.raises(UnknownOutcomeError):
        store.create("k", b"1")


def test_a_date_that_is_cut_is_an_answer_to_be_asked_for_again():
    store = S3Store.connect(location(answering(OK + b"\r\n", OK + b"Date: Sat, 28 No")))
    with pytest.raises(StorageError, match="does not answer"):
        store.clock()
