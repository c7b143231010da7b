"""Refs and leases: one winner, no lost move, no stale holder."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from store_servers import location, scaled

from corrigenda.errors import CorruptBlobError, LostRaceError, NotFoundError, UnknownOutcomeError
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import lease, refs
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Ref, Seen

WRITERS = 16


def ref(number: int, reason: str = "test") -> Ref:
    release = Release(model="m", number=number, files={}, created_at="now")
    return Ref.to(release, reason)


class LostAnswers:
    """A store whose conditional writes land, or do not, without anyone being told."""

    def __init__(self, store, lands: bool, times: int = 1) -> None:
        self._store, self._lands, self._left = store, lands, times

    def __getattr__(self, name):
        return getattr(self._store, name)

    def _lose(self, write):
        if self._left == 0:
            return write()
        self._left -= 1
        if self._lands:
            write()
        raise UnknownOutcomeError("it is not known whether a write landed", remedy="Look")

    def replace(self, key, body, *, version):
        return self._lose(lambda: self._store.replace(key, body, version=version))

    def create(self, key, body):
        if "/refs/" not in key:
            return self._store.create(key, body)
        return self._lose(lambda: self._store.create(key, body))


class Retried(LostAnswers):
    """A store whose client repeats a write that had landed: the second answer is a refusal."""

    def _lose(self, write):
        write()
        return write()


def test_a_ref_moves_only_from_where_it_was_seen(local_store):
    nothing = refs.read(local_store, "m", "latest")
    assert nothing == Seen(None, None)
    first = refs.advance(local_store, "m", "latest", seen=nothing, to=ref(1))
    second = refs.advance(local_store, "m", "latest", seen=first, to=ref(2))
    assert refs.read(local_store, "m", "latest") == second
    for stale in (nothing, first):
        with pytest.raises(LostRaceError, match="moved while we were at work"):
            refs.advance(local_store, "m", "latest", seen=stale, to=ref(3))
    assert [r.release for r in refs.log(local_store, "m", "latest")] == [2, 1]


@pytest.mark.parametrize("store", [LostAnswers, Retried])
def test_our_own_write_whose_answer_was_lost_is_granted(local_store, store):
    line = store(local_store, lands=True, times=2)
    seen = refs.advance(line, "m", "latest", seen=Seen(None, None), to=ref(1))
    seen = refs.advance(line, "m", "latest", seen=seen, to=ref(2))
    assert seen == refs.read(local_store, "m", "latest") and seen.ref.release == 2


def test_a_write_that_did_not_land_is_tried_again(local_store):
    line = LostAnswers(local_store, lands=False, times=2)
    assert refs.advance(line, "m", "latest", seen=Seen(None, None), to=ref(1)).ref.release == 1


def test_when_nobody_can_say_the_outcome_is_unknown(local_store):
    class Dark(LostAnswers):
        def get(self, key):
            raise UnknownOutcomeError("the store does not answer", remedy="Try again")

    with pytest.raises(UnknownOutcomeError, match="not known whether the ref moved"):
        refs.advance(Dark(local_store, lands=True), "m", "latest", seen=Seen(None, None), to=ref(1))


def test_a_rival_who_wins_after_a_lost_answer_is_not_overwritten(local_store):
    class Rival(LostAnswers):
        def create(self, key, body):
            self._store.create(key, refs.to_bytes(ref(9)))
            raise UnknownOutcomeError("it is not known whether a write landed", remedy="Look")

    with pytest.raises(LostRaceError):
        refs.advance(Rival(local_store, lands=True), "m", "latest", seen=Seen(None, None), to=ref(1))
    assert refs.require(local_store, "m", "latest").release == 9


def test_every_damaged_byte_of_a_ref_is_noticed(local_store):
    refs.advance(local_store, "m", "latest", seen=Seen(None, None), to=ref(1, "because é"))
    path = local_store.root / refs.key("m", "latest")
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(CorruptBlobError, match="a ref is damaged"):
            refs.read(local_store, "m", "latest")


def test_a_ref_that_is_not_there_is_not_found(local_store):
    with pytest.raises(NotFoundError, match="has no `canary`"):
        refs.require(local_store, "m", "canary")


@pytest.mark.parametrize(("name", "rounds"), [("local_store", 25), ("weed_store", 1)])
def test_of_many_writers_one_moves_the_ref(request, name, rounds):
    store = request.getfixturevalue(name)
    seen = refs.advance(store, "m", "latest", seen=Seen(None, None), to=ref(0))
    for number in range(scaled(rounds)):
        won = race(lambda n, s=seen, r=number: refs.advance(store, "m", "latest", seen=s, to=ref(n, f"{r}")))
        assert len(won) == 1
        assert refs.read(store, "m", "latest") == won[0]
        seen = won[0]


def race(attempt):
    """Let WRITERS threads try at once; what those who did not lose got."""
    start = threading.Barrier(WRITERS)

    def one(number):
        start.wait()
        try:
            return attempt(number)
        except LostRaceError:
            return None

    with ThreadPoolExecutor(WRITERS) as pool:
        return [got for got in pool.map(one, range(WRITERS)) if got is not None]


PROCESS = """
import sys
from pathlib import Path
from corrigenda.errors import LostRaceError
from corrigenda.storage.releases import refs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases.refs import Ref
store = LocalStore.open(Path(sys.argv[1]))
won = 0
while won < int(sys.argv[2]):
    seen = refs.read(store, "m", "latest")
    to = Ref(seen.ref.release + 1, seen.ref.manifest, seen.ref.moved_at, sys.argv[3] + str(won))
    try:
        refs.advance(store, "m", "latest", seen=seen, to=to)
        won += 1
    except LostRaceError:
        pass
"""


def test_processes_that_count_lose_no_step(local_store):
    refs.advance(local_store, "m", "latest", seen=Seen(None, None), to=ref(0))
    steps, command = scaled(20), [sys.executable, "-c", PROCESS, str(local_store.root)]
    workers = [subprocess.Popen([*command, str(steps), str(name)]) for name in range(4)]
    assert [worker.wait(120) for worker in workers] == [0] * 4
    assert refs.require(local_store, "m", "latest").release == 4 * steps
    assert len(list(refs.log(local_store, "m", "latest"))) == 4 * steps + 1


def test_a_process_killed_at_any_moment_leaves_no_lock_and_a_whole_ref(local_store):
    refs.advance(local_store, "m", "latest", seen=Seen(None, None), to=ref(0))
    command = [sys.executable, "-c", PROCESS, str(local_store.root), "100000"]
    reached = itertools.count()
    for round_ in range(scaled(3)):
        worker = subprocess.Popen([*command, str(round_)])
        time.sleep(0.7 + 0.037 * (round_ % 10))
        worker.send_signal(signal.SIGKILL)
        worker.wait(10)
        seen = refs.read(local_store, "m", "latest")
        refs.advance(local_store, "m", "latest", seen=seen, to=ref(next(reached)))
    assert all(not info.key.startswith(".") for info in local_store.list(""))


def test_a_lease_is_held_by_one(local_store):
    with lease.hold(local_store, "m", "first") as held:
        held.check()
        assert lease.read(local_store, "m").owner == "first"
        with (
            pytest.raises(LostRaceError, match="another run is at work"),
            lease.hold(local_store, "m", "second"),
        ):
            pass
        with lease.hold(local_store, "other", "second"):
            pass
    assert lease.read(local_store, "m") is None
    with lease.hold(local_store, "m", "second"):
        pass


@pytest.mark.parametrize("name", ["local_store", "weed_store"])
def test_of_many_takers_one_gets_the_lease(request, name):
    store = request.getfixturevalue(name)
    done = threading.Event()

    def take(number):
        with lease.hold(store, "m", str(number)) as held:
            done.wait(3)
            return held.holder.owner

    assert len(race(take)) == 1


def test_a_user_without_a_name_has_a_number(monkeypatch):
    """Containers are often run so."""

    def nameless():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert lease.person() == "user 12345"


def test_a_lease_is_renewed_while_it_is_held(local_store):
    with lease.hold(local_store, "m", "first", ttl_s=0.6) as held:
        time.sleep(1.5)
        held.check()
        with pytest.raises(LostRaceError), lease.hold(local_store, "m", "second"):
            pass


def silent_holder(store, **changes) -> None:
    """The lease of somebody on another machine who does not renew it."""
    holder = {"owner": "away", "token": "t", "expires_at": time.time() + 60, "host": "elsewhere", "pid": 1}
    store.create(lease.key("m"), json.dumps(holder | {"started": "1"} | changes).encode())


def test_an_expired_lease_is_taken_over_and_its_holder_notices(local_store):
    silent_holder(local_store)
    with pytest.raises(LostRaceError, match="away"), lease.hold(local_store, "m", "next"):
        pass
    local_store.delete(lease.key("m"))
    silent_holder(local_store, expires_at=time.time() - 1)
    with lease.hold(local_store, "m", "next", ttl_s=0.3) as held:
        _, version = local_store.get(lease.key("m"))
        local_store.replace(lease.key("m"), b"stolen", version=version)
        time.sleep(0.5)
        with pytest.raises(LostRaceError, match="lost during the work"):
            held.check()
    assert local_store.get(lease.key("m"))[0] == b"stolen"


def test_the_lease_of_a_killed_process_is_free_at_once(local_store):
    code = (
        "import sys, time; from pathlib import Path; from corrigenda.storage.releases import lease;"
        "from corrigenda.storage.objects.local import LocalStore\n"
        "with lease.hold(LocalStore.open(Path(sys.argv[1])), 'm', 'killed'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(local_store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"held\n"
        with pytest.raises(LostRaceError, match="killed"), lease.hold(local_store, "m", "next"):
            pass
        os.kill(worker.pid, signal.SIGKILL)
    with lease.hold(local_store, "m", "next"):
        pass


def test_a_store_that_went_away_is_said_to_be_away():
    with pytest.raises(Exception, match="does not answer") as caught:
        S3Store.connect(location("http://127.0.0.1:9"))
    assert caught.value.retryable
