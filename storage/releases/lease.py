"""One writer at a time per model, and none while gc deletes: leases that expire, for the dead block nobody.

A lease lasts from the last write of its object, by the store's own clock: no clock of a host can lengthen
or shorten it. Two things stand on leases. They save work, for one and the same model; data is protected there
by the compare-and-swap of `latest`. And they keep gc from deleting what a writer is about to name: a writer
takes its model's lease, then looks for gc's; gc takes its own, then looks for every model's. Whoever comes
second finds the other.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from corrigenda.errors import BusyError, CorrigendaError, LostRaceError, NotFoundError
from corrigenda.storage.objects.interface import ObjectStore, essential
from corrigenda.storage.releases.manifests import check_model
from corrigenda.stored import object_of

TTL_S = 120.0
_MOST_S = 600.0  # no lease lasts longer than this after its last write, whatever it asks for
_PAUSE_S = 0.5  # between two looks at gc's
_MARGIN = 0.2  # the share of its life that a lease must still have when its holder goes on by it
STORE = "gc/lease"  # held by whoever deletes


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease.

    token   unique for every holding
    ttl_s   seconds that it lasts after each write of it; 0: it was given back
    host, pid, started   which process, so that its death on this very machine is noticed at once
    """

    owner: str
    token: str
    ttl_s: float
    host: str
    pid: int
    started: str

    @property
    def is_alive_here(self) -> bool:
        """Whether its process is one of this machine's, and at work."""
        return self.host == _host() and self.started == _start_of(self.pid) and not self._is_forgotten

    @property
    def died_here(self) -> bool:
        return self.host == _host() and not self.is_alive_here

    @property
    def _is_forgotten(self) -> bool:
        """Whether this very process held it, and failed to give it back."""
        return self.pid == os.getpid() and self.token not in _tokens


@dataclass(frozen=True, slots=True)
class Taken:
    """A lease object as it was found. `holder` is None when nobody holds it, or its bytes say nothing.

    left_s   seconds that it still lasts unless it is renewed
    """

    holder: Holder | None
    version: str | None
    left_s: float = 0.0


@dataclass(slots=True)
class Lease:
    """A lease that is being held; `check` says whether it still is.

    until   when it may no longer be relied on, by a clock that goes on while the machine sleeps
    """

    store: ObjectStore
    key: str
    holder: Holder
    version: str
    until: float
    _lost: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises LostRaceError when the lease ran out, is about to, or was seen to be taken over."""
        if self._lost.is_set() or _clock() > self.until:
            raise LostRaceError(
                "the lease was lost during the work",
                remedy="Start again; what was computed is in the cache",
                lease=self.key,
                owner=self.holder.owner,
            )


_held: ContextVar[tuple[Lease, ...]] = ContextVar("held", default=())
_tokens: set[str] = set()  # of all leases that this process holds


def person() -> str:
    """Whose process this is, for people; in a container the user may have a number and no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def key(model: str) -> str:
    return f"models/{check_model(model)}/lease"


def read(store: ObjectStore, model: str) -> Holder | None:
    """Who holds the model's lease now; None when nobody does."""
    return look(store, model).holder


def look(store: ObjectStore, model: str) -> Taken:
    """Who holds the model's lease now, and for how long."""
    return _look(store, key(model))


@contextmanager
def hold(
    store: ObjectStore, model: str, owner: str, ttl_s: float = TTL_S, *, patience_s: float = 0.0
) -> Iterator[Lease]:
    """Hold the model's lease for the length of the block; a thread renews it.

    owner        for people: who is at work
    ttl_s        seconds after which a silent holder may be replaced
    patience_s   seconds to wait for gc, which does nobody's work but its own

    Raises BusyError when somebody else holds it, LostRaceError when gc is deleting.
    """
    with _holding(store, key(model), owner, ttl_s) as lease:
        end = _clock() + patience_s
        while (gc := _look(store, STORE)).holder is not None:
            if _clock() > end:
                _refuse(gc, LostRaceError, "gc is deleting from the store", model=model)
            time.sleep(_PAUSE_S)
        yield lease


@contextmanager
def hold_store(store: ObjectStore, owner: str, ttl_s: float = TTL_S) -> Iterator[Lease]:
    """Be the only one who deletes; no writer of any model is at work, and none begins. Raises BusyError."""
    with _holding(store, STORE, owner, ttl_s) as lease:
        for info in store.list("models/"):
            _, model, *rest = info.key.split("/")
            if rest == ["lease"]:
                _refuse(_look(store, info.key), BusyError, "a run is at work on a model", model=model)
        yield lease


@contextmanager
def ensure(store: ObjectStore, model: str, owner: str | None = None) -> Iterator[Lease]:
    """The model's lease, for every writer: the one that the caller holds already, or a new one."""
    mine = _mine(store, key(model))
    if mine is not None:
        mine.check()
        yield mine
        return
    with hold(store, model, owner or f"{person()}@{socket.gethostname()}:{os.getpid()}") as lease:
        yield lease


def confirm(store: ObjectStore, model: str) -> None:
    """Raises LostRaceError when the caller held the model's lease and has lost it, as the store says now."""
    mine = _mine(store, key(model))
    if mine is not None:
        if _look(store, mine.key).holder != mine.holder:
            mine._lost.set()
        mine.check()


def unlock(store: ObjectStore, model: str) -> Holder | None:
    """Take the lease away from whoever holds it, who loses what it has not published; who that was.

    None when nobody held it.
    """
    found = _look(store, key(model))
    if found.holder is None or found.version is None:
        return None
    with essential():
        store.replace(key(model), _to_bytes(replace(found.holder, ttl_s=0.0)), version=found.version)
    return found.holder


def _mine(store: ObjectStore, where: str) -> Lease | None:
    return next((one for one in _held.get() if (one.store.url, one.key) == (store.url, where)), None)


@contextmanager
def _holding(store: ObjectStore, where: str, owner: str, ttl_s: float) -> Iterator[Lease]:
    pid = os.getpid()
    mine = Holder(owner, secrets.token_hex(8), min(ttl_s, _MOST_S), _host(), pid, _start_of(pid))
    _tokens.add(mine.token)
    try:
        yield from _held_by(mine, store, where)
    finally:
        _tokens.discard(mine.token)


def _held_by(mine: Holder, store: ObjectStore, where: str) -> Iterator[Lease]:
    lease = _take(store, where, mine)
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(store, lease, done), daemon=True)
    renewer.start()
    _held.set((*_held.get(), lease))
    try:
        yield lease
    finally:
        _held.set(tuple(one for one in _held.get() if one is not lease))
        done.set()
        renewer.join()
        _give_back(store, lease)


def _take(store: ObjectStore, where: str, mine: Holder) -> Lease:
    began = _clock()
    found = _look(store, where)
    if found.holder is None:
        with essential():
            if found.version is None:
                taken = store.create(where, _to_bytes(mine))
            else:
                taken = store.replace(where, _to_bytes(mine), version=found.version)
        # The answer to our own write may have been lost: whose token is there decides.
        found = Taken(mine, taken) if taken else _look(store, where)
    if found.holder is None or found.version is None or found.holder.token != mine.token:
        what = "another gc is at work" if where == STORE else "another run is at work on this model"
        _refuse(found, BusyError, what, lease=where)
        raise LostRaceError("another run was first", remedy="Start again", lease=where)
    return Lease(store, where, mine, found.version, began + mine.ttl_s * (1 - _MARGIN))


def _refuse(found: Taken, kind: type[LostRaceError], what: str, **facts: object) -> None:
    """Raises an error of that kind when somebody holds what was found."""
    if found.holder is not None:
        raise kind(
            what,
            remedy="Wait for it, or for its lease to expire; `corrigenda unlock MODEL` ends a dead run's",
            **facts,
            owner=found.holder.owner,
            expires_in_s=round(found.left_s),
        )


def _renew(store: ObjectStore, lease: Lease, done: threading.Event) -> None:
    """Write the same bytes again and again: their age is what the lease lasts by."""
    while not done.wait(lease.holder.ttl_s / 3):
        began = _clock()
        try:
            with essential():
                version = store.replace(lease.key, _to_bytes(lease.holder), version=lease.version)
            if version is None:
                found = _look(store, lease.key)
                if found.holder != lease.holder:
                    lease._lost.set()
                    return
                version = found.version
        except CorrigendaError:
            continue  # the store is away: the next try is in time, or the lease runs out by itself
        lease.until, lease.version = began + lease.holder.ttl_s * (1 - _MARGIN), str(version)


def _give_back(store: ObjectStore, lease: Lease) -> None:
    """Let the lease be over now. Never a delete, which could hit a successor's."""
    try:
        with essential():
            over = replace(lease.holder, ttl_s=0.0)
            store.replace(lease.key, _to_bytes(over), version=lease.version)
    except CorrigendaError:
        return  # it expires by itself


def _look(store: ObjectStore, where: str) -> Taken:
    """The lease object, judged by the store's clock; one that is over has no holder."""
    try:
        body, version = store.get(where)
    except NotFoundError:
        return Taken(None, None)
    # After the body: a write between the two makes the lease younger than it is, never older.
    info = store.stat(where)
    holder = _from_bytes(body, info.modified) if info else None
    if holder is None or info is None or holder.died_here or not holder.ttl_s:
        return Taken(None, version)
    left = info.modified + timedelta(seconds=min(holder.ttl_s, _MOST_S)) - store.clock()
    return Taken(holder if left > timedelta() else None, version, left.total_seconds())


def _to_bytes(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), sort_keys=True).encode()


def _from_bytes(body: bytes, written: datetime) -> Holder | None:
    """None when the bytes are no lease: nobody can renew it, so that anybody may take it.

    Leases of earlier versions say by their host's clock when they end.
    """
    try:
        plain = object_of(body)
        if "ttl_s" not in plain:
            plain["ttl_s"] = max(0.0, plain["expires_at"] - written.timestamp())
        holder = Holder(**{name: plain[name] for name in Holder.__slots__})
        texts = (holder.owner, holder.token, holder.host, holder.started)
        ttl = float(holder.ttl_s)
        if not all(isinstance(text, str) for text in texts) or type(holder.pid) is not int:
            return None
        return replace(holder, ttl_s=ttl) if math.isfinite(ttl) and ttl >= 0 else None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _clock() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _host() -> str:
    """This machine and its process table: the same number means another process elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        table = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        # Without a process table to look at, no death can be noticed: a name that nobody else has.
        return f"{socket.gethostname()}/{secrets.token_hex(8)}"
    return f"{socket.gethostname()}/{boot}/{table}"


def _start_of(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
