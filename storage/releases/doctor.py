"""What is wrong with a store, and how to mend it: findings, each with a remedy; nothing is changed.

A check that fails is a finding, never an exception: the doctor goes on to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from corrigenda.errors import CorrigendaError, CorruptBlobError, NotFoundError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.conditional_writes import require_conditional_writes
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import chronicle, history, layouts, lease, manifests, refs
from corrigenda.storage.releases.manifests import Release

Level = Literal["ok", "warning", "fault"]
SKEW_S = 5.0  # a clock that is further off makes leases expire too early or too late


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report; `remedy` is empty when all is well."""

    level: Level
    subject: str
    what: str
    remedy: str = ""


def examine(store: ObjectStore, *, deep: bool = False) -> Iterator[Finding]:
    """Findings about a store, in the order in which they should be mended.

    deep   read and hash every blob that a release needs, instead of comparing sizes
    """
    yield _tried(
        store.url, "can be written, and honours conditions", lambda: require_conditional_writes(store)
    )
    yield from _clock(store)
    seen: dict[BlobRef, Finding | None] = {}
    try:
        names = manifests.models(store)
    except CorrigendaError as fault:
        yield _fault(store.url, fault)
        return
    for model in names:
        yield from _model(store, model, seen, deep)


def _model(
    store: ObjectStore, model: str, seen: dict[BlobRef, Finding | None], deep: bool
) -> Iterator[Finding]:
    """Refs, then every release behind them with its files, then the lease."""
    checked: set[str] = set()
    yield from _numbered(store, model)
    for name in refs.NAMES:
        try:
            ref = refs.read(store, model, name).ref
            if ref is None:
                if name == "latest":
                    yield Finding("warning", model, "is not registered yet", "Start `corrigenda run`")
                continue
            deque(refs.log(store, model, name), maxlen=0)  # each move was read, or one is damaged
            head = manifests.by_digest(store, ref.manifest)
            if name == "latest":
                yield from _laid_out(store, head, deep)
            for release in history.ancestry(store, ref.manifest):
                if release.digest not in checked:
                    checked.add(release.digest)
                    yield from _release(store, release, seen, deep)
        except CorrigendaError as fault:
            yield _fault(f"{model}@{name}", fault)
    for part in chronicle.damaged(store, model):
        yield Finding("fault", part, "is a damaged part of the chronicle", "Delete it; runs write it anew")
    held = lease.look(store, model)
    if held.holder:
        what = f"is being worked on by {held.holder.owner}, lease for {held.left_s:.0f} s more"
        yield Finding("ok", model, what)


def _numbered(store: ObjectStore, model: str) -> Iterator[Finding]:
    """Manifests under their numbers are what a pull of a number reads."""
    for number in manifests.numbers(store, model):
        try:
            manifests.read(store, model, number)
        except CorrigendaError as fault:
            yield _fault(f"{model}@{number}", fault)


def _laid_out(store: ObjectStore, head: Release, deep: bool) -> Iterator[Finding]:
    """Readers without corrigenda find the published release whole, where they find releases at all."""
    if layouts.in_use(store, head.model) and not layouts.is_whole(store, head, deep=deep):
        remedy = f"Delete what lies there, then start `corrigenda run --model {head.model} --layout hf`"
        yield Finding("fault", layouts.prefix_of(head), "is not the whole published release", remedy)


def _release(
    store: ObjectStore, release: Release, seen: dict[BlobRef, Finding | None], deep: bool
) -> Iterator[Finding]:
    subject = f"{release.model}@{release.number}"
    bad = 0
    for ref in sorted(release.blobs, key=lambda ref: ref.digest):
        if ref not in seen:
            seen[ref] = _blob(store, ref, deep)
        found = seen[ref]
        if found:
            bad += 1
            names = [path for path, file in release.files.items() if file == ref]
            yield Finding("fault", subject, f"{', '.join(names) or 'ledger'}: {found.what}", found.remedy)
    if not bad:
        yield Finding("ok", subject, f"{len(release.files)} files, {release.size:,} bytes, are whole")


def _blob(store: ObjectStore, ref: BlobRef, deep: bool) -> Finding | None:
    try:
        found = store.stat(blobs.key(ref.digest))
        if found is None:
            raise blobs.missing(store, ref.digest)
        if found.size != ref.size or (deep and not _hashes(store, ref)):
            raise blobs.corrupt(store, ref.digest)
    except (CorruptBlobError, NotFoundError) as fault:
        remedy = (
            "Restore it from a host's cache (the file name is its digest), or roll back to a whole release"
        )
        return Finding("fault", ref.digest[:12], fault.what, remedy)
    return None


def _hashes(store: ObjectStore, ref: BlobRef) -> bool:
    try:
        blobs.verify(store, ref)
    except CorruptBlobError:
        return False
    return True


def _clock(store: ObjectStore) -> Iterator[Finding]:
    try:
        off = (store.clock() - datetime.now(UTC)).total_seconds()
    except CorrigendaError as fault:
        yield _fault(store.url, fault)
        return
    if abs(off) > SKEW_S:
        yield Finding(
            "warning", store.url, f"its clock is {off:+.0f} s off ours", "Let NTP set this machine's clock"
        )


def _tried(subject: str, what: str, check: Callable[[], None]) -> Finding:
    try:
        check()
    except CorrigendaError as fault:
        return _fault(subject, fault)
    return Finding("ok", subject, what)


def _fault(subject: str, fault: CorrigendaError) -> Finding:
    return Finding("fault", subject, fault.what, fault.remedy)
