"""Refs: the small mutable pointers `latest` and `canary`, moved by compare-and-swap only.

A ref carries the digest of the ref that it replaced, kept as a blob: the log of all moves, rollbacks
included, hangs on the same single write and cannot be lost by a crash after it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from corrigenda.errors import (
    CorruptBlobError,
    LostRaceError,
    NotFoundError,
    StorageError,
    UnknownOutcomeError,
)
from corrigenda.facts import digest_of, sha256_hex
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.interface import ObjectStore, essential
from corrigenda.storage.releases import lease
from corrigenda.storage.releases.manifests import Release, check_model

NAMES = ("latest", "canary")
TRIES = 5  # of one and the same write, when its outcome is unknown
PAUSE_S = 0.2  # before the second try; doubles, with jitter


@dataclass(frozen=True, slots=True)
class Ref:
    """Where a ref points, since when, and why.

    moved_at   ISO 8601, UTC
    previous   digest of the ref's bytes before; `advance` fills it in
    """

    release: int
    manifest: str
    moved_at: str
    reason: str
    previous: str | None = None

    @classmethod
    def to(cls, release: Release, reason: str) -> Ref:
        """A ref to that release, moved now."""
        return cls(release.number, release.digest, datetime.now(UTC).isoformat(), reason)


@dataclass(frozen=True, slots=True)
class Seen:
    """A ref as it was read; `version` is what a compare-and-swap needs. Both None: there is none yet."""

    ref: Ref | None
    version: str | None

    @property
    def is_damaged(self) -> bool:
        """Whether bytes are there that say nothing."""
        return self.ref is None and self.version is not None


def key(model: str, name: str) -> str:
    return f"models/{check_model(model)}/refs/{name}"


def read(store: ObjectStore, model: str, name: str) -> Seen:
    """The ref as it is now. Raises CorruptBlobError when its bytes are damaged."""
    try:
        body, version = store.get(key(model, name))
    except NotFoundError:
        return Seen(None, None)
    return Seen(from_bytes(body), version)


def peek(store: ObjectStore, model: str, name: str) -> Seen:
    """`read` for those who are about to write over it: a damaged ref is one that says nothing."""
    try:
        return read(store, model, name)
    except CorruptBlobError:
        return Seen(None, store.get(key(model, name))[1])


def require(store: ObjectStore, model: str, name: str) -> Ref:
    """The ref as it is now. Raises NotFoundError when there is none."""
    ref = read(store, model, name).ref
    if ref is None:
        raise NotFoundError(
            f"the model has no `{name}`",
            remedy="Check the name; a model is registered by its first `corrigenda run`",
            model=model,
            store=store.url,
        )
    return ref


def require_unmoved(store: ObjectStore, model: str, name: str, seen: Seen) -> None:
    """Raises LostRaceError when the ref is not what was seen: nothing need be prepared for its move then."""
    now = _look(store, model, name)
    if now.version != seen.version:
        raise _lost(model, name, seen, now)


def advance(store: ObjectStore, model: str, name: str, *, seen: Seen, to: Ref) -> Seen:
    """Point `name` at `to`, provided that nobody moved it since `seen`.

    A refusal can be our own write whose answer was lost, so we look before we call it a conflict: if the
    ref already says `to`, the wish is granted.

    A store that fails is asked again for some seconds, as long as the ref is what it was. Where the caller
    holds the model's lease, it must not have been lost.

    Raises LostRaceError when another writer was first, or the lease was lost; UnknownOutcomeError when the
    store failed each time, or does not even say what is there now.
    """
    with essential():
        if seen.ref is not None:
            to = replace(to, previous=blobs.put(store, to_bytes(seen.ref)).digest)
        for attempt in range(TRIES):
            lease.confirm(store, model)
            moved, fault = _attempt(store, model, name, seen, to)
            if moved is not None:
                return moved
            if attempt < TRIES - 1:
                time.sleep(PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
    raise UnknownOutcomeError(
        f"the store failed each time that `{name}` was to move; when last seen, it had not moved",
        remedy="Look with `corrigenda status` when the store answers again, and start again if it has not",
        model=model,
        ref=name,
        cause=str(fault)[:200] if fault else "the write was refused, though the ref is what it was",
    ) from fault


def _attempt(
    store: ObjectStore, model: str, name: str, seen: Seen, to: Ref
) -> tuple[Seen | None, StorageError | None]:
    """One try of the write: the ref as it moved, or why it may be tried again. Raises as `advance` does."""
    fault = None
    try:
        version = _write(store, key(model, name), to_bytes(to), seen)
        if version is not None:
            return Seen(to, version), None
    except StorageError as met:
        if not met.retryable:
            raise
        fault = met
    now = _look(store, model, name)
    if now.ref == to:
        return now, None
    # Still what we saw: the write did not land, and the same write may be tried again.
    if now.version != seen.version:
        raise _lost(model, name, seen, now)
    return None, fault


def log(store: ObjectStore, model: str, name: str) -> Iterator[Ref]:
    """All moves of a ref, newest first; ends where an old one was cleaned away."""
    ref = read(store, model, name).ref
    while ref is not None:
        yield ref
        try:
            ref = from_bytes(blobs.get(store, ref.previous)) if ref.previous else None
        except NotFoundError:
            return


def to_bytes(ref: Ref) -> bytes:
    """Deterministic JSON; `check` is the digest of the rest, because a ref is not content-addressed."""
    plain = asdict(ref)
    return json.dumps(plain | {"check": digest_of(plain)}, sort_keys=True, ensure_ascii=False).encode()


def from_bytes(body: bytes) -> Ref:
    """Raises CorruptBlobError."""
    try:
        plain = json.loads(body)
        check = plain.pop("check")
        ref = Ref(**plain)
        if check != digest_of(plain) or to_bytes(ref) != body or not blobs.is_digest(ref.manifest):
            raise ValueError("the check does not match")
        return ref
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CorruptBlobError(
            "a ref is damaged",
            remedy="Run `corrigenda doctor`, then `corrigenda rollback` to a release that is whole",
            digest=sha256_hex(body),
        ) from None


def _write(store: ObjectStore, where: str, body: bytes, seen: Seen) -> str | None:
    if seen.version is None:
        return store.create(where, body)
    return store.replace(where, body, version=seen.version)


def _look(store: ObjectStore, model: str, name: str) -> Seen:
    try:
        return peek(store, model, name)
    except Exception as fault:
        raise UnknownOutcomeError(
            "it is not known whether the ref moved",
            remedy="Look with `corrigenda status` when the store answers again; clean nothing up",
            model=model,
            ref=name,
            cause=str(fault)[:200],
        ) from fault


def _lost(model: str, name: str, seen: Seen, now: Seen) -> LostRaceError:
    return LostRaceError(
        "the ref moved while we were at work",
        remedy="Start again from the new head",
        model=model,
        ref=name,
        seen=seen.ref.release if seen.ref else None,
        now=now.ref.release if now.ref else None,
    )
