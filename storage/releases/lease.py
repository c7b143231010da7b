"""One writer at a time per model: a lease that expires, so that a dead writer blocks nobody for long.

The lease saves work, it does not protect data: that is what the compare-and-swap of `latest` is for. So a
clock that is a little wrong can waste a night, and never publish two.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from corrigenda.errors import BusyError, CorrigendaError, LostRaceError, NotFoundError
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases.manifests import check_model

TTL_S = 120.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease.

    token        unique for every holding
    expires_at   seconds since the epoch by the holder's clock
    host, pid, started   which process, so that its death on this very machine is noticed at once
    """

    owner: str
    token: str
    expires_at: float
    host: str
    pid: int
    started: str

    @property
    def is_over(self) -> bool:
        """Whether another may take the lease: it expired, or its process died on this machine."""
        return time.time() > self.expires_at or self._died_here

    @property
    def _died_here(self) -> bool:
        return self.host == _host() and self.started != _start_of(self.pid)


@dataclass(slots=True)
class Lease:
    """A lease that is being held; `check` says whether it still is."""

    model: str
    holder: Holder
    version: str
    _lost: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises LostRaceError when the lease ran out or was taken over."""
        if self._lost.is_set() or time.time() > self.holder.expires_at:
            raise LostRaceError(
                "the lease was lost during the work",
                remedy="Start again; what was computed is in the cache",
                model=self.model,
                owner=self.holder.owner,
            )


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
    holder, _ = _look(store, model)
    return holder if holder and not holder.is_over else None


@contextmanager
def hold(store: ObjectStore, model: str, owner: str, ttl_s: float = TTL_S) -> Iterator[Lease]:
    """Hold the model's lease for the length of the block; a thread renews it.

    owner   for people: who is at work
    ttl_s   seconds after which a silent holder may be replaced

    Raises BusyError when somebody else holds it.
    """
    lease = _take(store, model, owner, ttl_s)
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(store, lease, ttl_s, done), daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        done.set()
        renewer.join()
        _give_back(store, lease)


def _take(store: ObjectStore, model: str, owner: str, ttl_s: float) -> Lease:
    expires = time.time() + ttl_s
    pid = os.getpid()
    mine = Holder(owner, secrets.token_hex(8), expires, _host(), pid, _start_of(pid))
    holder, version = _look(store, model)
    if holder is None or holder.is_over:
        if version is None:
            taken = store.create(key(model), _to_bytes(mine))
        else:
            taken = store.replace(key(model), _to_bytes(mine), version=version)
        # The answer to our own write may have been lost: whose token is there decides.
        holder, version = (mine, taken) if taken else _look(store, model)
    if holder is None or version is None or holder.token != mine.token:
        raise BusyError(
            "another run is at work on this model",
            remedy="Wait for it, or for its lease to expire",
            model=model,
            owner=holder.owner if holder else None,
            expires_in_s=round(holder.expires_at - time.time()) if holder else None,
        )
    return Lease(model, mine, version)


def _renew(store: ObjectStore, lease: Lease, ttl_s: float, done: threading.Event) -> None:
    while not done.wait(ttl_s / 3):
        later = Holder(**{**asdict(lease.holder), "expires_at": time.time() + ttl_s})
        try:
            version = store.replace(key(lease.model), _to_bytes(later), version=lease.version)
            if version is None:
                holder, version = _look(store, lease.model)
                if holder != later:
                    lease._lost.set()
                    return
        except CorrigendaError:
            continue  # the store is away: the next try is in time, or the lease runs out by itself
        lease.holder, lease.version = later, str(version)


def _give_back(store: ObjectStore, lease: Lease) -> None:
    """Let the lease expire now. Never a delete, which could hit a successor's."""
    over = Holder(**{**asdict(lease.holder), "expires_at": 0.0})
    try:
        store.replace(key(lease.model), _to_bytes(over), version=lease.version)
    except CorrigendaError:
        return  # it expires by itself


def _look(store: ObjectStore, model: str) -> tuple[Holder | None, str | None]:
    try:
        body, version = store.get(key(model))
    except NotFoundError:
        return None, None
    try:
        return Holder(**json.loads(body)), version
    except (ValueError, TypeError):
        return None, version  # damaged: nobody can renew it either


def _to_bytes(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), sort_keys=True).encode()


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
