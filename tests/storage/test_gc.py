"""Garbage collection deletes what nothing can reach, and never anything else."""

from __future__ import annotations

import os
import random
import time
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from releases import EDITABLE, MODEL, checkpoint, raw, register, release, save, stage

from corrigenda.errors import CorruptBlobError, LostRaceError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.cache import Cache
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import gc, history, lease, manifests, publish, refs
from corrigenda.storage.releases.gc import Policy
from corrigenda.storage.releases.publish import Candidate

NOW = Policy(grace=timedelta(0))


@pytest.fixture
def base(local_store, tmp_path):
    return register(local_store, save(tmp_path / "base", checkpoint()))


def age(store, days: float) -> None:
    """Let everything in a store look as if it had been written some days ago."""
    then = time.time() - days * 86400
    for info in store.list(""):
        os.utime(store.root / info.key, (then, then))


def doomed(store, policy=NOW) -> set[str]:
    return {info.key for info in gc.plan(store, policy).doomed}


def test_what_releases_need_stays(local_store, base):
    for seed in range(3):
        release(local_store, base, seed)
    Cache(local_store).remember("edits", "k", b"kept")
    Cache(local_store).remember_pack("edits", "s", b"packed")
    time.sleep(0.01)
    assert doomed(local_store) == set()


def test_what_nothing_names_goes(local_store, base):
    orphan = blobs.put(local_store, b"orphan")
    failed = stage(local_store, base, {EDITABLE[0]: raw(1)}, parent=base)
    release(local_store, base, seed=2)
    time.sleep(0.01)
    assert {blobs.key(orphan.digest)} <= doomed(local_store)
    assert manifests.key(MODEL, failed.number) not in doomed(local_store, Policy())
    age(local_store, 30)
    later = Policy(grace=timedelta(days=7))
    assert blobs.key(orphan.digest) in doomed(local_store, later)
    gc.collect(local_store, NOW)
    assert local_store.stat(blobs.key(orphan.digest)) is None
    assert [r.number for r in history.of_model(local_store, MODEL)] == [2, 0]


def test_the_grace_period_protects_a_run_that_is_going_on(local_store, base):
    orphan = blobs.put(local_store, b"a shard whose manifest comes next")
    assert blobs.key(orphan.digest) not in doomed(local_store, Policy())
    age(local_store, 8)
    assert blobs.key(orphan.digest) in doomed(local_store, Policy())


def test_old_releases_go_when_only_some_are_kept(local_store, base):
    made = [release(local_store, base, seed) for seed in range(5)]
    kept = Policy(grace=timedelta(0), releases=2)
    time.sleep(0.01)
    gc.collect(local_store, kept)
    assert manifests.numbers(local_store, MODEL) == [0, 4, 5]
    assert [r.number for r in history.of_model(local_store, MODEL)] == [5, 4]
    for whole in (base, made[3], made[4]):
        for ref in whole.blobs:
            blobs.get(local_store, ref.digest)


def test_what_a_rollback_left_stays_for_the_grace_period(local_store, base):
    release(local_store, base, 1)
    second = release(local_store, base, 2)
    local_store.delete(refs.key(MODEL, "canary"))
    publish.rollback(local_store, MODEL, to=1)
    age(local_store, 30)
    assert manifests.key(MODEL, second.number) not in doomed(local_store, Policy())
    assert manifests.key(MODEL, second.number) in doomed(local_store, NOW)


def test_old_cache_entries_go_when_asked(local_store, base):
    Cache(local_store).remember("edits", "old", b"old")
    age(local_store, 100)
    Cache(local_store).remember("edits", "new", b"new")
    policy = Policy(cache_age=timedelta(days=90))
    gc.collect(local_store, policy)
    gc.collect(local_store, policy)
    assert Cache(local_store).lookup("edits", "old") is None
    assert Cache(local_store).lookup("edits", "new") == b"new"


def test_nothing_is_deleted_during_a_run(local_store, base):
    blobs.put(local_store, b"orphan")
    with lease.hold(local_store, MODEL, "run"), pytest.raises(LostRaceError):
        gc.collect(local_store, NOW)


@pytest.mark.parametrize("damage", ["latest", "canary", "head"])
def test_damage_keeps_all_of_its_model_and_nothing_of_others(local_store, base, tmp_path, damage):
    register(local_store, save(tmp_path / "other", checkpoint(seed=5)), "other")
    made = [release(local_store, base, seed) for seed in range(4)]
    orphan = blobs.put(local_store, b"orphan" * gc.REF_BYTES)
    age(local_store, 30)
    if damage == "head":
        local_store.delete(blobs.key(made[-1].digest))
    else:
        (local_store.root / refs.key(MODEL, damage)).write_bytes(b"{}")
    found = gc.collect(local_store, Policy(releases=1))
    assert [info.key for info in found.doomed] == [blobs.key(orphan.digest)]
    assert set(found.damaged) == {MODEL}
    for whole in (base, *made):
        for ref in whole.blobs:
            blobs.get(local_store, ref.digest)


def test_a_model_of_which_nobody_can_say_what_it_keeps_stops_gc(local_store, base):
    (local_store.root / refs.key(MODEL, "latest")).write_bytes(b"{}")
    (local_store.root / manifests.key(MODEL, 0)).write_bytes(b"{}")
    with pytest.raises(CorruptBlobError, match="what it keeps alive"):
        gc.plan(local_store, NOW)


def test_half_written_files_go_after_the_grace_period(local_store, base):
    scratch = local_store.root / ".tmp" / "killed"
    scratch.write_bytes(b"half")
    gc.collect(local_store, Policy())
    assert scratch.exists()
    gc.collect(local_store, NOW)
    assert not scratch.exists()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4) | st.none())
def test_after_any_story_every_reachable_release_is_whole(tmp_path_factory, seed, keep):
    draw = random.Random(seed)
    folder = tmp_path_factory.mktemp("story")
    store = LocalStore.open(folder / "store", create=True)
    base = register(store, save(folder / "base", checkpoint()))
    for _ in range(draw.randrange(1, 8)):
        match draw.choice(["release", "release", "stage", "rollback", "orphan", "gc"]):
            case "release":
                release(store, base, draw.randrange(5), draw.randrange(3))
            case "stage":
                stage(store, base, {EDITABLE[0]: raw(draw.randrange(9))}, Candidate(layer=0), parent=base)
            case "rollback":
                publish.rollback(
                    store, MODEL, to=draw.choice([r.number for r in history.of_model(store, MODEL)])
                )
            case "orphan":
                blobs.put(store, draw.randbytes(5))
            case "gc":
                gc.collect(store, Policy(grace=timedelta(0), releases=keep))
    gc.collect(store, Policy(grace=timedelta(0), releases=keep))
    for name in refs.NAMES:
        if refs.read(store, MODEL, name).ref:
            for found in history.ancestry(store, refs.require(store, MODEL, name).manifest):
                for ref in found.blobs:
                    blobs.get(store, ref.digest)
    for ref in manifests.read(store, MODEL, 0).blobs:
        blobs.get(store, ref.digest)
