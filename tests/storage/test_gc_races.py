"""gc among writers that it does not expect: what is published can be pulled, whoever is late or asleep."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from releases import EDITABLE, MODEL, checkpoint, raw, register, release, save, stage
from test_gc import age

from corrigenda.errors import BusyError, CorrigendaError, LostRaceError, SetupError
from corrigenda.storage.delivery import pull
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import gc, lease, manifests, publish, refs
from corrigenda.storage.releases.gc import Policy

WEEK = Policy(grace=timedelta(days=7))


@pytest.fixture
def base(local_store, tmp_path):
    return register(local_store, save(tmp_path / "base", checkpoint()))


def pulls(store, tmp_path, model=MODEL) -> int:
    """The release that a host gets, whole."""
    got = pull.pull(store, model, "latest", tmp_path / "hosts" / str(time.time_ns()))
    assert pull.check(got.path).faults == ()
    return got.release.number


def abandoned(store, base, seed=1):
    """A candidate that nobody published, some weeks ago: its bytes are garbage."""
    staged = stage(store, base, {EDITABLE[1]: raw(seed)}, parent=base)
    store.delete(refs.key(MODEL, "canary"))
    age(store, 30)
    return staged


def meanwhile(monkeypatch, act) -> list[CorrigendaError]:
    """Let another thread act when gc deletes its first object; what it was refused with."""
    refused: list[CorrigendaError] = []
    delete = LocalStore.delete_unchanged
    begun = threading.Event()

    def attempt():
        try:
            act()
        except CorrigendaError as fault:
            refused.append(fault)

    def first(store, info):
        if not begun.is_set():
            begun.set()
            other = threading.Thread(target=attempt)
            other.start()
            other.join()
        return delete(store, info)

    monkeypatch.setattr(LocalStore, "delete_unchanged", first)
    return refused


@pytest.mark.parametrize("act", ["rollback", "register", "release"])
def test_no_writer_begins_while_gc_deletes(local_store, base, tmp_path, monkeypatch, act):
    for seed in range(4):
        release(local_store, base, seed)
    abandoned(local_store, base, seed=9)
    acts = {
        "rollback": lambda: publish.rollback(local_store, MODEL, to=1),
        "register": lambda: register(local_store, save(tmp_path / "new", checkpoint(seed=9)), "new"),
        "release": lambda: release(local_store, base, 9),
    }
    refused = meanwhile(monkeypatch, acts[act])
    assert gc.collect(local_store, WEEK).doomed
    assert [type(fault) for fault in refused] == [LostRaceError]
    assert "gc is deleting" in str(refused[0])
    assert pulls(local_store, tmp_path) == 4


def test_gc_does_not_begin_while_somebody_writes(local_store, base):
    with lease.hold(local_store, MODEL, "ann"), pytest.raises(BusyError, match="ann"):
        gc.collect(local_store, WEEK)
    with lease.hold(local_store, "not registered yet".replace(" ", "-"), "bob"), pytest.raises(BusyError):
        gc.collect(local_store, WEEK)
    with lease.hold_store(local_store, "gc"), pytest.raises(LostRaceError, match="gc is deleting"):
        release(local_store, base, 1)


def sleeps_when_it_deletes(root, policy=WEEK) -> None:
    lease._renew = lambda *_: None  # a process that is stopped renews nothing
    lease.TTL_S = 1.0
    hold, delete = lease.hold_store, LocalStore.delete_unchanged
    lease.hold_store = lambda store, owner: hold(store, owner, 1.0)

    def sleeping(store, info):
        LocalStore.delete_unchanged = delete
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.2)  # the signal may reach another thread first: this one must not hold the folder then
        return delete(store, info)

    LocalStore.delete_unchanged = sleeping
    gc._BATCH = gc._WORKERS = 1
    try:
        gc.collect(LocalStore(root), policy)
    except LostRaceError:
        os._exit(4)
    os._exit(0)


def test_gc_that_slept_beyond_its_lease_deletes_nothing_of_a_newer_release(local_store, base, tmp_path):
    """The night brings the same bytes as a candidate that gc has doomed; then gc wakes."""
    old = abandoned(local_store, base)
    sleeper = multiprocessing.get_context("fork").Process(
        target=sleeps_when_it_deletes, args=(local_store.root,)
    )
    sleeper.start()
    wait_until_stopped(sleeper.pid)
    time.sleep(1.1)
    again = release(local_store, base, 1)
    assert again.files == old.files
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(30)
    assert sleeper.exitcode == 4
    assert pulls(local_store, tmp_path) == again.number


def test_gc_that_slept_deletes_nothing_of_what_was_rolled_back_to(local_store, base, tmp_path):
    for seed in range(4):
        release(local_store, base, seed)
    sleeper = multiprocessing.get_context("fork").Process(
        target=sleeps_when_it_deletes, args=(local_store.root, Policy(grace=timedelta(0), releases=2))
    )
    sleeper.start()
    wait_until_stopped(sleeper.pid)
    time.sleep(1.1)
    publish.rollback(local_store, MODEL, to=2)
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(30)
    assert sleeper.exitcode == 4
    assert pulls(local_store, tmp_path) == 2


def wait_until_stopped(pid: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.01)
    raise TimeoutError


def test_what_is_put_between_marking_and_deleting_is_revived(local_store, base, tmp_path):
    """The wait is for writers that gc did not know of."""
    old = abandoned(local_store, base)
    policy = Policy(grace=timedelta(days=7), wait=timedelta(seconds=1))
    found = gc.collect(local_store, policy, sleep=lambda _: release(local_store, base, 1))
    assert pulls(local_store, tmp_path) == old.number + 1
    assert not {info.key for info in found.doomed} & {blobs.key(ref.digest) for ref in old.blobs}


def test_bytes_without_a_lease_are_revived_by_whoever_puts_them(local_store, base, monkeypatch):
    ref = blobs.put(local_store, b"the queue's index, say")
    age(local_store, 30)
    [doomed] = gc.plan(local_store, WEEK).doomed
    blobs.put(local_store, b"the queue's index, say")
    assert not local_store.delete_unchanged(doomed)
    assert blobs.get(local_store, ref.digest)


def test_the_clock_of_gcs_host_does_not_matter(local_store, base, tmp_path, monkeypatch):
    candidate = stage(local_store, base, {EDITABLE[1]: raw(3)}, parent=base)
    local_store.delete(refs.key(MODEL, "canary"))
    ahead = time.time() + 40 * 86_400
    monkeypatch.setattr(time, "time", lambda: ahead)
    with lease.hold(local_store, MODEL, "the night"), pytest.raises(BusyError):
        gc.collect(local_store, WEEK)
    assert gc.collect(local_store, WEEK).doomed == ()
    publish.promote(local_store, candidate, seen=refs.read(local_store, MODEL, "latest"))
    assert pulls(local_store, tmp_path) == candidate.number


def test_a_model_on_another_disk_is_one_of_the_store(local_store, base, tmp_path):
    release(local_store, base, 1)
    age(local_store, 30)
    folder = local_store.root / "models" / MODEL
    shutil.move(folder, tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert manifests.models(local_store) == [MODEL]
    assert gc.collect(local_store, WEEK).doomed == ()
    assert pulls(local_store, tmp_path) == 1
    (tmp_path / "moved").rename(tmp_path / "unmounted")
    with pytest.raises(SetupError, match="a link in the store leads nowhere"):
        gc.collect(local_store, WEEK)


def test_a_link_that_leads_back_is_said(local_store, base):
    (local_store.root / "models" / MODEL / "loop").symlink_to(local_store.root / "models")
    with pytest.raises(SetupError, match="leads back"):
        gc.plan(local_store, WEEK)


def test_a_writer_that_lost_its_lease_moves_nothing(local_store, base, tmp_path):
    seen = refs.read(local_store, MODEL, "latest")
    with lease.hold(local_store, MODEL, "slow"):
        late = stage(local_store, base, {EDITABLE[1]: raw(3)}, parent=base)
        lease.unlock(local_store, MODEL)
        with pytest.raises(LostRaceError, match="lease was lost"):
            publish.promote(local_store, late, seen=seen)
    assert pulls(local_store, tmp_path) == 0
