"""What may be deleted from a store: bytes that no kept release, ref or cache entry can reach.

Marks from the refs through the history, and keeps everything younger than the grace period: a run that is
going on has written blobs that nothing names yet. Ages are told by the store's own clock. Deletion has two
phases: what is marked is looked at again after a wait, while no writer is at work; it goes if it is still
doomed and nobody has written or revived it. Damage in one model keeps all of that model, and nobody else.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice

from corrigenda.errors import CorruptBlobError, NotFoundError, SetupError
from corrigenda.storage.objects import blobs, cache
from corrigenda.storage.objects.interface import BROKEN, ObjectInfo, ObjectStore
from corrigenda.storage.releases import chronicle, layouts, lease, manifests, refs, signatures
from corrigenda.storage.releases.chronicle import Chronicle, Line
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Ref

GRACE = timedelta(days=7)
REF_BYTES = 16 << 10  # what is no larger may be an old ref, of a model whose log cannot be read
_BATCH = 64  # objects that are handed to the workers together
_WORKERS = 8  # deletions at a time


@dataclass(frozen=True, slots=True)
class Plan:
    """What gc found. `doomed` may go; sizes in bytes.

    damaged   per model whose refs or manifests are damaged: what is wrong; nothing of it may go
    """

    doomed: tuple[ObjectInfo, ...]
    kept_blobs: int
    kept_bytes: int
    damaged: Mapping[str, str] = field(default_factory=dict)

    @property
    def doomed_bytes(self) -> int:
        return sum(info.size for info in self.doomed)


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep.

    grace      nothing younger is touched
    releases   how many of a model's newest releases are kept besides release 0 and what the refs
               point to; None: the whole history
    cache_age  cache entries older than this go, too; None: all are kept
    wait       between marking and deleting: writers who are late still save what they name
    """

    grace: timedelta = GRACE
    releases: int | None = None
    cache_age: timedelta | None = None
    wait: timedelta = timedelta()


@dataclass(slots=True)
class _Kept:
    """What is in use: digests of blobs and manifests; keys of numbered manifests; where refs point."""

    digests: set[str] = field(default_factory=set)
    numbered: set[str] = field(default_factory=set)
    current: set[tuple[str, int]] = field(default_factory=set)
    damaged: dict[str, str] = field(default_factory=dict)

    def add(self, model: str, line: Line) -> None:
        self.digests |= {*line.blobs}
        self.numbered.add(manifests.key(model, line.number))


def plan(store: ObjectStore, policy: Policy | None = None, *, now: datetime | None = None) -> Plan:
    """What may be deleted now. Reads only.

    now   by the store's clock; None: ask it

    Raises CorruptBlobError when so much of a model is damaged that nobody can say what it keeps alive, and
    SetupError when a link in the store leads nowhere: what it stood for is not gone.
    """
    policy = policy or Policy()
    before = (now or store.clock()) - policy.grace
    # First: what is written from now on is not in this list, and what comes into use from now on is marked.
    stored = {info.key.rpartition("/")[2]: info for info in _whole_links(store.list(blobs.BLOBS))}
    models = _by_model(store)
    kept = _Kept()
    for model, objects in models.items():
        _mark(store, model, objects, stored, policy.releases, before, kept)
    doomed = [
        info for objects in models.values() for info in _unkept(objects, kept) if info.modified < before
    ]
    doomed += _old_prefixes(store, kept.current, before)
    stale, alive = _sort_cache(store, policy, before)
    count = size = 0
    for digest, info in stored.items():
        may_be_a_move = kept.damaged and info.size <= REF_BYTES
        if digest in kept.digests or digest in alive or info.modified >= before or may_be_a_move:
            count, size = count + 1, size + info.size
        else:
            doomed.append(info)
    return Plan((*stale, *doomed), count, size, kept.damaged)


def collect(
    store: ObjectStore, policy: Policy | None = None, *, sleep: Callable[[float], None] = time.sleep
) -> Plan:
    """Delete what `plan` finds, in two phases, the second while nobody writes; the plan of what is gone.

    Raises BusyError when a run is at work; LostRaceError when the lease is lost meanwhile (what has gone by
    then was doomed); whatever `plan` raises.
    """
    policy = policy or Policy()
    agreed = None
    if policy.wait:
        agreed = {_state(info) for info in plan(store, policy).doomed}
        sleep(policy.wait.total_seconds() if agreed else 0)
    with lease.hold_store(store, f"gc by {lease.person()}") as held:
        written = store.stat(lease.STORE)
        found = plan(store, policy, now=written.modified if written else None)
        doomed = [info for info in found.doomed if agreed is None or _state(info) in agreed]
        gone = tuple(_delete(store, held, doomed))
        store.sweep(store.clock() - policy.grace)
    return replace(found, doomed=gone)


def _delete(store: ObjectStore, held: lease.Lease, doomed: Sequence[ObjectInfo]) -> Iterator[ObjectInfo]:
    """In order, some at a time, as long as the lease lasts; what is really gone."""

    def delete(info: ObjectInfo) -> bool:
        held.check()
        return store.delete_unchanged(info)

    with ThreadPoolExecutor(_WORKERS) as pool:
        for start in range(0, len(doomed), _BATCH):
            batch = doomed[start : start + _BATCH]
            yield from (info for info, gone in zip(batch, pool.map(delete, batch), strict=True) if gone)


def _state(info: ObjectInfo) -> tuple[str, str, datetime]:
    return info.key, info.version, info.modified


def _by_model(store: ObjectStore) -> dict[str, list[ObjectInfo]]:
    """All objects of every model, from one listing."""
    found: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in _whole_links(store.list("models/")):
        found[info.key.split("/")[1]].append(info)
    return found


def _whole_links(listed: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    for info in listed:
        if info.version == BROKEN:
            raise SetupError(
                "a link in the store leads nowhere, so that nobody can say what is in use",
                remedy="Mount the disk that it leads to, or remove the link if what it stood for is gone",
                key=info.key,
            )
        yield info


def _mark(
    store: ObjectStore,
    model: str,
    objects: Sequence[ObjectInfo],
    stored: Mapping[str, ObjectInfo],
    newest: int | None,
    before: datetime,
    kept: _Kept,
) -> None:
    """Mark what a model keeps; all of it when its refs or their releases are damaged."""
    numbered = [info for info in objects if _kind(info) == "releases"]
    known = chronicle.load(store, model)
    walked: set[str] = set()
    try:
        heads = [head for name in refs.NAMES for head in _heads(store, known, model, name, stored, before)]
        for digest in dict.fromkeys(head.manifest for head in heads):
            if digest not in stored:  # a missing head is a fault, not the end of a history
                raise blobs.missing(store, digest)
            for line in islice(chronicle.ancestry(store, known, digest), newest):
                if newest is None and line.manifest in walked:
                    break  # and so is all that it follows
                walked.add(line.manifest)
                kept.add(model, line)
        for name in refs.NAMES:
            past = chronicle.moves(store, known, refs.read(store, model, name).ref)
            kept.digests |= {ref.previous for ref in past if ref.previous}
        kept.current |= {(model, head.release) for head in heads}
    except (CorruptBlobError, NotFoundError) as fault:
        kept.damaged[model] = str(fault)
        kept.current |= {(model, number) for number in manifests.numbers(store, model)}
        kept.digests |= {signatures.manifest_of(info.key) for info in objects if _kind(info) == "signatures"}
        for info in numbered:
            kept.add(model, Line.of(_numbered(store, info)))
        return
    for info in numbered:
        if info.key not in kept.numbered and (info.modified >= before or info.key.endswith("/0.json")):
            try:
                kept.add(model, Line.of(_numbered(store, info)))
            except CorruptBlobError as fault:  # no ref needs it, or it was marked by its digest
                kept.damaged[model] = str(fault)
                kept.numbered.add(info.key)


def _numbered(store: ObjectStore, info: ObjectInfo) -> Release:
    """A release by its number, whether or not its blob is there."""
    try:
        return manifests.from_bytes(store.get(info.key)[0])
    except CorruptBlobError as fault:
        raise CorruptBlobError(
            "a manifest is damaged, and nobody can say what it keeps alive",
            remedy="Run `corrigenda doctor --mend`",
            key=info.key,
            cause=fault.what,
        ) from None


def _heads(
    store: ObjectStore,
    known: Chronicle,
    model: str,
    name: str,
    stored: Mapping[str, ObjectInfo],
    before: datetime,
) -> Iterator[Ref]:
    """Where a ref points, or pointed until after `before`: rollbacks err, too."""
    for ref in chronicle.moves(store, known, refs.read(store, model, name).ref):
        yield ref
        past = stored.get(ref.previous or "")
        # Its bytes were kept when it was left: both clocks must say that this is long ago.
        if past is None or max(past.modified, datetime.fromisoformat(ref.moved_at)) < before:
            return


def _unkept(objects: Iterable[ObjectInfo], kept: _Kept) -> Iterator[ObjectInfo]:
    """Manifests, and signatures of manifests, that are not kept."""
    for info in objects:
        releases = _kind(info) == "releases" and info.key not in kept.numbered
        signed = _kind(info) == "signatures" and signatures.manifest_of(info.key) not in kept.digests
        if releases or signed:
            yield info


def _kind(info: ObjectInfo) -> str:
    """The folder of a model's object."""
    parts = info.key.split("/")
    return parts[2] if len(parts) == 4 else ""


def _old_prefixes(
    store: ObjectStore, current: set[tuple[str, int]], before: datetime
) -> Iterator[ObjectInfo]:
    """Full copies for other readers, of releases that no ref points to: each is as large as a checkpoint.

    Nothing is lost with them: they are assembled again from the blobs of a kept release.
    """
    for name, objects in layouts.prefixes(store).items():
        if name not in current and all(info.modified < before for info in objects):
            yield from objects


def _sort_cache(store: ObjectStore, policy: Policy, before: datetime) -> tuple[list[ObjectInfo], set[str]]:
    """Cache indexes that may go, and the blobs that the others name."""
    stale: list[ObjectInfo] = []
    alive: set[str] = set()
    age = policy.cache_age
    old = None if age is None else before + policy.grace - max(age, policy.grace)
    for info in _whole_links(store.list(cache.CACHE)):
        digest = cache.digest_of_entry(store, info)
        if digest is None or (old is not None and info.modified < old):
            stale.append(info)
        else:
            alive.add(digest)
    return stale, alive
