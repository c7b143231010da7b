"""Results that need not be computed twice, under keys that say everything that can change them.

An index object names a blob. Whatever is wrong with an entry, the answer is "not known": a cache may
cost time, never a wrong result. Where there are keys, that goes for entries that none of them sealed, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from corrigenda.errors import CorruptBlobError, NotFoundError, SetupError
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectInfo, ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.stored import UnreadableError, object_of

CACHE = "cache/"


@dataclass(frozen=True, slots=True)
class Cache:
    """The remembered results of a store.

    keys   an entry is sealed with them when it is made, and believed when one of them sealed it
    """

    store: ObjectStore
    keys: Keyring = NOBODY

    def lookup(self, kind: str, key_digest: str) -> bytes | None:
        """What was remembered under that key; None when nothing was, or when it is not to be believed."""
        try:
            return self._read(_key(kind, key_digest))
        except NotFoundError:
            return None

    def remember(self, kind: str, key_digest: str, body: bytes) -> None:
        """Keep `body` under that key. Over a damaged or other entry it is written anew."""
        self._write(_key(kind, key_digest), body)

    def remember_pack(self, kind: str, scope_digest: str, body: bytes) -> None:
        """Keep many small entries of one night as one object; a scope collects packs."""
        self._write(f"{_packs(kind, scope_digest)}{sha256_hex(body)}", body)

    def lookup_packs(self, kind: str, scope_digest: str) -> list[bytes]:
        """All packs of a scope that are whole, oldest first (ties by name)."""
        listed = self.store.list(_packs(kind, scope_digest))
        found = sorted(listed, key=lambda info: (info.modified, info.key))
        bodies = (self._read(info.key) for info in found)
        return [body for body in bodies if body is not None]

    def _read(self, key: str) -> bytes | None:
        index = self.store.get(key)[0]
        ref = parse_index(index)
        try:
            return blobs.get(self.store, ref.digest) if ref and self._believes(key, ref, index) else None
        except (NotFoundError, CorruptBlobError):
            return None

    def _write(self, key: str, body: bytes) -> None:
        ref = blobs.heal(self.store, body)
        index = _index(ref, self.keys.seal("cache", _facts(key, ref)))
        if self.store.create(key, index) is None:
            there, version = self.store.get(key)
            if parse_index(there) != ref or not self._believes(key, ref, there):
                self.store.replace(key, index, version=version)

    def _believes(self, key: str, ref: BlobRef, index: bytes) -> bool:
        try:
            seals = object_of(index, seals=dict).get("seals", {})
            return self.keys.believes("cache", _facts(key, ref), seals)
        except (UnreadableError, SetupError):  # what cannot be checked here is not known here
            return False


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
        return BlobRef.from_json(object_of(body))
    except ValueError:
        return None


def _index(ref: BlobRef, seals: dict[str, str]) -> bytes:
    said: dict[str, Any] = {**ref.to_json(), **({"seals": seals} if seals else {})}
    return json.dumps(said, sort_keys=True).encode()


def _facts(key: str, ref: BlobRef) -> dict[str, str]:
    """An entry is sealed with its place: under another key it would be another result."""
    return {"key": key, "digest": ref.digest}


def _key(kind: str, key_digest: str) -> str:
    return f"{CACHE}{kind}/{key_digest}"


def _packs(kind: str, scope_digest: str) -> str:
    return f"{CACHE}{kind}/packs/{scope_digest}/"
