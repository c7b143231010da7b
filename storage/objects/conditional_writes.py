"""Proof, on a scratch key, that a store honours conditional writes: all of publication stands on it."""

from __future__ import annotations

import secrets
from contextlib import suppress

from corrigenda.errors import CorrigendaError, SetupError
from corrigenda.storage.objects.interface import ObjectStore


def require_conditional_writes(store: ObjectStore) -> None:
    """Prove on a scratch key that the store refuses what must be refused.

    A store that overwrites where it was told not to would let two publishers both believe that they
    won. Raises SetupError, which names the defect.
    """
    key = f"probes/{secrets.token_hex(8)}"
    try:
        defect = _defect(store, key)
    finally:
        with suppress(CorrigendaError):
            store.delete(key)
    if defect:
        raise SetupError(
            f"the store ignores conditional writes: {defect}",
            remedy="Use a store that honours If-None-Match and If-Match (AWS S3, SeaweedFS, MinIO, R2)",
            url=store.url,
        )


def _defect(store: ObjectStore, key: str) -> str | None:
    first = store.create(key, b"first")
    if first is None:
        return "If-None-Match refused a key that does not exist"
    if store.create(key, b"second") is not None or store.get(key)[0] != b"first":
        return "a second create with If-None-Match overwrote the first"
    if store.replace(key, b"third", version=first) is None:
        return "If-Match refused the version that is there"
    if store.replace(key, b"fourth", version=first) is not None or store.get(key)[0] != b"third":
        return "a write with a stale If-Match was accepted"
    return None
