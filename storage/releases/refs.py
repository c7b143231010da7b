"""Refs: the small mutable pointers `latest` and `canary`, moved by compare-and-swap only.

A ref carries the digest of the ref that it replaced, kept as a blob: the log of all moves, rollbacks
included, hangs on the same single write and cannot be lost by a crash after it. Where there are keys, it
carries its own seal, too: who can write to the store cannot move it to another release, and a host that has
seen a later one knows an old one by its sequence.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from corrigenda.errors import (
    CorruptBlobError,
    LostRaceError,
    NotFoundError,
    SignatureError,
    StorageError,
    UnknownOutcomeError,
)
from corrigenda.facts import digest_of, sha256_hex
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.interface import ObjectStore, essential
from corrigenda.storage.objects.keys import NOBODY, Keyring, Seals
from corrigenda.storage.releases import lease
from corrigenda.storage.releases.manifests import Release, check_model
from corrigenda.stored import object_of

NAMES = ("latest", "canary")
_LATER = ("sequence", "expires_at", "seals")  # fields that older refs lack
_TRIES = 5  # of one and the same write, when its outcome is unknown
_PAUSE_S = 0.2  # before the second try; doubles, with jitter


@dataclass(frozen=True, slots=True)
class Ref:
    """Where a ref points, since when, and why.

    moved_at     ISO 8601, UTC
    previous     digest of the ref's bytes before
    sequence     grows with every move: at least the milliseconds since 1970, so that it also grows when the
                 ref before is lost; 0 in a ref of before there were sequences
    expires_at   ISO 8601, UTC; hosts that check refuse it from then on, unless it is confirmed; None: never
    seals        signatures of all of this, of the model and of the ref's name, by key id

    `advance` fills in what is not given by `to`.
    """

    release: int
    manifest: str
    moved_at: str
    reason: str
    previous: str | None = None
    sequence: int = 0
    expires_at: str | None = None
    seals: Seals = field(default_factory=dict)

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and datetime.fromisoformat(self.expires_at) < datetime.now(UTC)

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


def advance(
    store: ObjectStore, model: str, name: str, *, seen: Seen, to: Ref, keys: Keyring = NOBODY
) -> Seen:
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
        return _moved(store, model, name, seen, _sealed(to, model, name, seen, keys))


def _moved(store: ObjectStore, model: str, name: str, seen: Seen, to: Ref) -> Seen:
    """The write itself, tried again as long as the ref is what it was."""
    with essential():
        for attempt in range(_TRIES):
            lease.confirm(store, model)
            moved, fault = _attempt(store, model, name, seen, to)
            if moved is not None:
                return moved
            if attempt < _TRIES - 1:
                time.sleep(_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
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


def confirm(store: ObjectStore, model: str, name: str, *, seen: Seen, keys: Keyring) -> Seen:
    """Seal anew what the ref says already, for another term: no move, and nothing in its log.

    Whoever calls this vouches for what the ref says. Raises as `advance` does.
    """
    assert seen.ref is not None
    return _moved(store, model, name, seen, _sealed(seen.ref, model, name, seen, keys))


def is_due(ref: Ref, keys: Keyring) -> bool:
    """Whether a good ref should be confirmed: half of its term has passed, or it has none and should have."""
    if not keys.signers or keys.valid is None:
        return False
    left = datetime.fromisoformat(ref.expires_at) - datetime.now(UTC) if ref.expires_at else keys.valid * 0
    return left < keys.valid / 2


def is_sealed(ref: Ref, model: str, name: str, keys: Keyring) -> bool:
    """Whether a trusted key has sealed the ref, or nothing needs a seal."""
    return keys.believes("ref", _sealable(ref, model, name), ref.seals)


def require_sealed(ref: Ref, model: str, name: str, keys: Keyring) -> Ref:
    """`ref` itself, when a trusted key has sealed it or nothing needs a seal. Raises SignatureError."""
    if not is_sealed(ref, model, name, keys):
        raise SignatureError(
            f"`{name}` was not moved by anybody whose key is trusted",
            remedy="Find out who wrote it; if it is right, let the publisher run "
            f"`corrigenda sign {model}{'' if name == 'latest' else f'@{name}'}`, else "
            f"`corrigenda rollback {model} --to N`",
            model=model,
            release=ref.release,
            moved_at=ref.moved_at,
            reason=ref.reason,
        )
    return ref


def _sealed(ref: Ref, model: str, name: str, seen: Seen, keys: Keyring) -> Ref:
    now = datetime.now(UTC)
    sequence = max(int(now.timestamp() * 1000), seen.ref.sequence + 1 if seen.ref else 0)
    expires = (now + keys.valid).isoformat() if keys.signers and keys.valid else None
    ref = replace(ref, sequence=sequence, expires_at=expires, seals={})
    return replace(ref, seals=keys.seal("ref", _sealable(ref, model, name)))


def _sealable(ref: Ref, model: str, name: str) -> dict[str, Any]:
    return asdict(replace(ref, seals={})) | {"model": model, "ref": name}


def to_bytes(ref: Ref) -> bytes:
    """Deterministic JSON; `check` is the digest of the rest, because a ref is not content-addressed.

    What a ref does not say is left out: refs of before are read and written as they were.
    """
    plain = {name: value for name, value in asdict(ref).items() if value or name not in _LATER}
    return json.dumps(plain | {"check": digest_of(plain)}, sort_keys=True, ensure_ascii=False).encode()


def from_bytes(body: bytes) -> Ref:
    """Raises CorruptBlobError."""
    try:
        plain = object_of(body)
        check = plain.pop("check")
        ref = Ref(**plain)
        _check_types(ref)
        if check != digest_of(plain) or to_bytes(ref) != body or not blobs.is_digest(ref.manifest):
            raise ValueError("the check does not match")
        return ref
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CorruptBlobError(
            "a ref is damaged",
            remedy="Run `corrigenda doctor`, then `corrigenda rollback` to a release that is whole",
            digest=sha256_hex(body),
        ) from None


def _check_types(ref: Ref) -> None:
    """Raises ValueError or TypeError when a field is not what it should be."""
    texts = (ref.manifest, ref.moved_at, ref.reason, *ref.seals, *ref.seals.values())
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is none")
    if not all(type(number) is int and 0 <= number < 1 << 53 for number in (ref.release, ref.sequence)):
        raise ValueError("a number is none")
    for at in (ref.moved_at, ref.expires_at or ref.moved_at):
        if datetime.fromisoformat(at).tzinfo is None:
            raise ValueError("a time has no zone")
    if ref.previous is not None and not blobs.is_digest(ref.previous):
        raise ValueError("the ref before has no digest")


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
