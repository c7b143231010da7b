"""What is published is proved in the store; what is damaged is mended from what the store still tells."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import timedelta

import pytest
from releases import EDITABLE, MODEL, checkpoint, raw, register, release, save, stage

from corrigenda.errors import BusyError, CorruptBlobError, NotFoundError, StorageError, UnknownOutcomeError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import gc, lease, manifests, mend, publish, refs, whole


@pytest.fixture
def base(local_store, tmp_path):
    return register(local_store, save(tmp_path / "base", checkpoint()))


def path_of(store, ref):
    return store.root / blobs.key(ref.digest)


@pytest.mark.parametrize("damage", ["missing", "short", "rotten"])
def test_nothing_is_published_onto_a_store_that_has_lost_a_shard(local_store, base, damage):
    first = release(local_store, base, 1)
    shard = path_of(local_store, base.files["model-00001-of-00004.safetensors"])
    body = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(body[:-1] if damage == "short" else body[:-5] + b"\0" + body[-4:])
    with pytest.raises(CorruptBlobError, match="model-00001-of-00004"):
        release(local_store, base, 2)
    assert refs.require(local_store, MODEL, "latest").manifest == first.digest


def test_of_a_large_release_every_part_has_its_turn(local_store, base, monkeypatch):
    read: list[str] = []
    verify = blobs.verify
    monkeypatch.setattr(blobs, "verify", lambda store, ref: (read.append(ref.digest), verify(store, ref)))
    parent, seen = base, set()
    for number in range(1, 12):
        made = stage(local_store, base, {EDITABLE[1]: raw(number)}, parent=parent)
        read.clear()
        whole.require(local_store, made, read=1000)
        assert made.files["model-00003-of-00004.safetensors"].digest in read
        seen |= set(read)
        parent = made
    assert {ref.digest for ref in base.blobs & parent.blobs} <= seen
    assert len(read) < len(parent.blobs)


@pytest.mark.parametrize("name", refs.NAMES)
def test_a_damaged_ref_is_mended_from_the_newest_release_that_is_whole(local_store, base, name):
    made = [release(local_store, base, seed) for seed in (1, 2, 3)]
    (local_store.root / refs.key(MODEL, name)).write_bytes(b"{}")
    if name == "latest":
        path_of(local_store, made[-1].files["model-00003-of-00004.safetensors"]).unlink()
    said = list(mend.mend(local_store, MODEL))
    assert len(said) == 1 and name in said[0]
    expected = made[1] if name == "latest" else made[2]
    assert refs.require(local_store, MODEL, name).manifest == expected.digest
    assert list(mend.mend(local_store, MODEL)) == []
    if name == "canary":
        assert release(local_store, base, 4).number == 4


def test_rollback_repairs_a_damaged_ref(local_store, base):
    made = [release(local_store, base, seed) for seed in (1, 2)]
    (local_store.root / refs.key(MODEL, "latest")).write_bytes(b"\xff")
    rolled, seen = publish.rollback(local_store, MODEL, to=2)
    assert rolled.digest == made[-1].digest
    assert seen.ref.reason == "rolled back from a damaged ref to 2"
    assert release(local_store, base, 3).parent == made[-1].digest


def test_a_rollback_to_what_is_not_whole_is_refused(local_store, base):
    made = [release(local_store, base, seed) for seed in (1, 2)]
    path_of(local_store, made[0].files["model-00003-of-00004.safetensors"]).unlink()
    with pytest.raises(CorruptBlobError, match="does not hold the release whole"):
        publish.rollback(local_store, MODEL, to=1)
    assert refs.require(local_store, MODEL, "latest").release == 2


def test_either_copy_of_a_manifest_is_mended_from_the_other(local_store, base):
    made = release(local_store, base, 1)
    good = manifests.to_bytes(made)
    for damaged in (blobs.key(made.digest), manifests.key(MODEL, 1)):
        (local_store.root / damaged).write_bytes(b"{}")
        assert len(list(mend.mend(local_store, MODEL))) == 1
        assert local_store.get(damaged)[0] == good
    (local_store.root / blobs.key(made.digest)).unlink()
    assert len(list(mend.mend(local_store, MODEL))) == 1


def test_nothing_is_mended_during_a_run(local_store, base):
    with lease.hold(local_store, MODEL, "the night"):
        pass
    held = lease.hold(local_store, "other", "x")
    with held, lease.hold_store(LocalStore.open(local_store.root / "..", create=True), "elsewhere"):
        assert list(mend.mend(local_store, MODEL)) == []
    (local_store.root / lease.key(MODEL)).write_bytes(
        b'{"owner": "a", "token": "t", "ttl_s": 60, "host": "elsewhere", "pid": 1, "started": "1"}'
    )
    with pytest.raises(BusyError):
        list(mend.mend(local_store, MODEL))


HOLDER = {"owner": "ann", "token": "t", "host": "elsewhere", "pid": 1, "started": "1"}


@pytest.mark.parametrize(
    "changed",
    [
        {"ttl_s": float("nan")}, {"ttl_s": float("inf")}, {"ttl_s": "soon"}, {"ttl_s": None},
        {"ttl_s": 10**400}, {"ttl_s": -5}, {"expires_at": float("nan")}, {"expires_at": "x"},
        {"ttl_s": 60, "pid": "x"}, {"ttl_s": 60, "owner": 3}, {},
    ],
)  # fmt: skip
def test_a_lease_that_says_nothing_is_free(local_store, changed):
    local_store.create(lease.key("m"), json.dumps(HOLDER | changed).encode())
    with lease.hold(local_store, "m", "next"):
        pass


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff\xfe", b"[" * 200_000, b'"text"', b"{}", b"3"])
def test_a_damaged_lease_is_free(local_store, body):
    local_store.create(lease.key("m"), body)
    with lease.hold(local_store, "m", "next"):
        pass


@pytest.mark.parametrize("asked", [{"ttl_s": 365 * 86_400.0}, {"expires_at": time.time() + 365 * 86_400}])
def test_a_dead_writer_blocks_its_model_for_minutes_and_can_be_unlocked(local_store, asked):
    local_store.create(lease.key("m"), json.dumps(HOLDER | asked).encode())
    with pytest.raises(BusyError, match="unlock") as caught, lease.hold(local_store, "m", "next"):
        pass
    assert 0 < caught.value.facts["expires_in_s"] <= lease._MOST_S
    assert lease.unlock(local_store, "m").owner == "ann"
    assert lease.unlock(local_store, "m") is None
    with lease.hold(local_store, "m", "next"):
        pass


class Failing:
    """A store that fails some writes of `latest` without their landing."""

    def __init__(self, store, times: int) -> None:
        self._store, self.left = store, times

    def __getattr__(self, name):
        return getattr(self._store, name)

    def replace(self, key, body, *, version):
        if "/refs/latest" in key and self.left:
            self.left -= 1
            raise StorageError("the store answered 503", remedy="Try again later")
        return self._store.replace(key, body, version=version)


def test_an_outage_while_latest_moves_is_waited_for_and_told_as_one(local_store, base, monkeypatch):
    monkeypatch.setattr(refs, "_PAUSE_S", 0.001)
    assert release(Failing(local_store, refs._TRIES - 1), base, 1).number == 1
    with pytest.raises(UnknownOutcomeError, match="the store failed each time that `latest`") as caught:
        release(Failing(local_store, 99), base, 2)
    assert caught.value.facts["cause"].startswith("the store answered 503")
    assert refs.require(local_store, MODEL, "latest").release == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of some hundred kilobytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk; CI's containers run as root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place) -> None:
    try:
        with (place / "fill").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
    except OSError:
        return


def test_on_a_full_disk_gc_and_rollback_work_and_nothing_else(small_disk, tmp_path):
    store = LocalStore.open(small_disk / "store", create=True)
    base = register(store, save(tmp_path / "base", checkpoint()))
    for seed in (1, 2):
        release(store, base, seed)
    orphan = blobs.put(store, b"o" * 9000)
    fill(small_disk)
    for seed in (3, 4, 5):
        with pytest.raises(StorageError, match="No space left"):
            release(store, base, seed)
    for number in (1, 2, 1):
        publish.rollback(store, MODEL, to=number)
    assert refs.require(store, MODEL, "latest").release == 1
    assert gc.collect(store, gc.Policy(grace=timedelta(0))).doomed
    with pytest.raises(NotFoundError):
        blobs.get(store, orphan.digest)
    (small_disk / "fill").unlink()
    assert release(store, base, 6).number > 2
