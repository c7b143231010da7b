"""What may be deleted from a store: bytes that no kept release, ref or cache entry can reach.

Marks from the refs through the history, keeps everything younger than the grace period (a run that is
going on has written blobs that nothing names yet), and while it deletes, it holds every model's lease.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.storage.objects import blobs, cache
from corrigenda.storage.objects.interface import ObjectInfo, ObjectStore
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import history, layouts, lease, manifests, refs
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Ref

GRACE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Plan:
    """What gc found. `doomed` may go; sizes in bytes."""

    doomed: tuple[ObjectInfo, ...]
    kept_blobs: int
    kept_bytes: int

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
    """

    grace: timedelta = GRACE
    releases: int | None = None
    cache_age: timedelta | None = None


def plan(store: ObjectStore, policy: Policy | None = None) -> Plan:
    """What may be deleted now. Reads only.

    Raises CorruptBlobError when a ref or a manifest is damaged: what it kept alive is not known then.
    """
    policy = policy or Policy()
    before = datetime.now(UTC) - policy.grace
    marked, numbered = _mark_releases(store, policy.releases, before)
    named = (info for model in manifests.models(store) for info in _manifest_objects(store, model))
    doomed = [info for info in named if info.key not in numbered and info.modified < before]
    doomed += _signatures_of_others(store, marked, before)
    doomed += _old_prefixes(store, before)
    stale, alive = _sort_cache(store, policy)
    marked |= alive
    kept = size = 0
    for info in store.list(blobs.PREFIX):
        if info.key.rpartition("/")[2] in marked or info.modified >= before:
            kept, size = kept + 1, size + info.size
        else:
            doomed.append(info)
    return Plan((*stale, *doomed), kept, size)


def collect(store: ObjectStore, policy: Policy | None = None) -> Plan:
    """Delete what `plan` finds, while no run is at work on any model.

    Raises LostRaceError when one is.
    """
    policy = policy or Policy()
    with ExitStack() as held:
        for model in manifests.models(store):
            held.enter_context(lease.hold(store, model, "gc"))
        found = plan(store, policy)
        for info in found.doomed:
            store.delete(info.key)
        if isinstance(store, LocalStore):
            _sweep_scratch(store, datetime.now(UTC) - policy.grace)
    return found


def _mark_releases(store: ObjectStore, newest: int | None, before: datetime) -> tuple[set[str], set[str]]:
    """Digests of blobs in use, and the keys of the manifests that are kept."""
    marked: set[str] = set()
    numbered: set[str] = set()
    for model in manifests.models(store):
        for release in _kept(store, model, newest, before):
            marked.add(release.digest)
            marked |= {ref.digest for ref in release.blobs}
            # These may name blobs, too; to keep too much does no harm. Not the provenance, which names
            # the parent: a manifest whose files are gone would look like a damaged release.
            marked |= set(_digests_in([dict(release.settings), dict(release.counts), dict(release.gates)]))
            numbered.add(manifests.key(model, release.number))
        for name in refs.NAMES:
            marked |= {ref.previous for ref in refs.log(store, model, name) if ref.previous}
    return marked, numbered


def _kept(store: ObjectStore, model: str, newest: int | None, before: datetime) -> Iterator[Release]:
    """Release 0, the newest of the history behind each ref, what a ref left or was staged just now."""
    heads = [head.manifest for head in _heads(store, model, before)]
    for digest in dict.fromkeys(heads):
        manifests.by_digest(store, digest)  # a missing head is a fault, not the end of a history
        yield from islice(history.ancestry(store, digest), newest)
    young = (info for info in _manifest_objects(store, model) if info.modified >= before)
    yield from (manifests.read(store, model, int(PurePosixPath(info.key).stem)) for info in young)
    try:
        yield manifests.read(store, model, 0)
    except (NotFoundError, CorruptBlobError):
        if heads:
            raise


def _heads(store: ObjectStore, model: str, before: datetime) -> Iterator[Ref]:
    """Where the refs point, or pointed until after `before`: rollbacks err, too."""
    for name in refs.NAMES:
        left: datetime | None = None
        for ref in refs.log(store, model, name):
            if left is not None and left < before:
                break
            yield ref
            left = datetime.fromisoformat(ref.moved_at)


def _signatures_of_others(store: ObjectStore, kept: set[str], before: datetime) -> Iterator[ObjectInfo]:
    """Signatures of manifests that are not kept."""
    for model in manifests.models(store):
        for info in store.list(f"models/{model}/signatures/"):
            if PurePosixPath(info.key).stem not in kept and info.modified < before:
                yield info


def _old_prefixes(store: ObjectStore, before: datetime) -> Iterator[ObjectInfo]:
    """Full copies for other readers, of releases that no ref points to: each is as large as a checkpoint.

    Nothing is lost with them: they are assembled again from the blobs of a kept release.
    """
    current = {
        (model, head.release) for model in manifests.models(store) for head in _heads(store, model, before)
    }
    for name, objects in layouts.prefixes(store).items():
        if name not in current and all(info.modified < before for info in objects):
            yield from objects


def _digests_in(value: Any) -> Iterator[str]:
    if blobs.is_digest(value):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _digests_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _digests_in(inner)


def _manifest_objects(store: ObjectStore, model: str) -> Iterator[ObjectInfo]:
    return store.list(f"models/{model}/releases/")


def _sort_cache(store: ObjectStore, policy: Policy) -> tuple[list[ObjectInfo], set[str]]:
    """Cache indexes that may go, and the blobs that the others name."""
    stale: list[ObjectInfo] = []
    alive: set[str] = set()
    age = policy.cache_age
    before = datetime.now(UTC) - max(age, policy.grace) if age is not None else None
    for info in store.list(cache.PREFIX):
        ref = cache.parse_index(store.get(info.key)[0])
        if ref is None or (before is not None and info.modified < before):
            stale.append(info)
        else:
            alive.add(ref.digest)
    return stale, alive


def _sweep_scratch(store: LocalStore, before: datetime) -> None:
    for path in store.scratch_files():
        if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
            path.unlink(missing_ok=True)
