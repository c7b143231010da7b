"""Results that need not be computed twice, under keys that say everything that can change them.

An index object names a blob. Whatever is wrong with an entry, the answer is "not known": a cache may
cost time, never a wrong result.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectInfo, ObjectStore

PREFIX = "cache/"


def lookup(store: ObjectStore, kind: str, key_digest: str) -> bytes | None:
    """What was remembered under that key; None when nothing was, or when it is damaged."""
    try:
        return _read(store, _key(kind, key_digest))
    except NotFoundError:
        return None


def remember(store: ObjectStore, kind: str, key_digest: str, body: bytes) -> None:
    """Keep `body` under that key. Over a damaged or other entry it is written anew."""
    _write(store, _key(kind, key_digest), body)


def remember_pack(store: ObjectStore, kind: str, scope_digest: str, body: bytes) -> None:
    """Keep many small entries of one night as one object; a scope collects packs."""
    _write(store, f"{_packs(kind, scope_digest)}{sha256_hex(body)}", body)


def lookup_packs(store: ObjectStore, kind: str, scope_digest: str) -> list[bytes]:
    """All packs of a scope that are whole, oldest first (ties by name)."""
    found = sorted(store.list(_packs(kind, scope_digest)), key=lambda info: (info.modified, info.key))
    bodies = (_read(store, info.key) for info in found)
    return [body for body in bodies if body is not None]


def _key(kind: str, key_digest: str) -> str:
    return f"{PREFIX}{kind}/{key_digest}"


def _packs(kind: str, scope_digest: str) -> str:
    return f"{PREFIX}{kind}/packs/{scope_digest}/"


def _read(store: ObjectStore, key: str) -> bytes | None:
    ref = parse_index(store.get(key)[0])
    try:
        return blobs.get(store, ref.digest) if ref else None
    except (NotFoundError, CorruptBlobError):
        return None


def _write(store: ObjectStore, key: str, body: bytes) -> None:
    ref = blobs.heal(store, body)
    index = json.dumps(ref.to_json(), sort_keys=True).encode()
    if store.create(key, index) is None:
        there, version = store.get(key)
        if there != index:
            store.replace(key, index, version=version)


def digest_of_entry(store: ObjectStore, info: ObjectInfo) -> str | None:
    """The blob that an index object names; None when it is damaged. A pack's is its name: nothing is read."""
    name = PurePosixPath(info.key)
    if name.parts[2:3] == ("packs",) and blobs.is_digest(name.name):
        return name.name
    ref = parse_index(store.get(info.key)[0])
    return ref.digest if ref else None


def parse_index(body: bytes) -> BlobRef | None:
    """The blob that an index object names; None when it is damaged."""
    try:
        return BlobRef.from_json(json.loads(body))
    except (ValueError, AttributeError, RecursionError):
        return None
