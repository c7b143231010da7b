"""Repairs from what a model's own objects still tell: refs, and manifests of which one copy is damaged.

A damaged `latest` is pointed to the newest release that is whole. Nothing is deleted, and no bytes are made
up: what neither copy tells stays a finding of the doctor.
"""

from __future__ import annotations

from collections.abc import Iterator

from corrigenda.errors import CorrigendaError, CorruptBlobError, NotFoundError, SignatureError
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.storage.releases import history, lease, manifests, refs, signatures, whole
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Ref, Seen


def mend(store: ObjectStore, model: str, keys: Keyring = NOBODY) -> Iterator[str]:
    """Mend what can be mended of a model, under its lease; says what was done.

    keys   where there are some, a ref is pointed only to what one of them has signed, and sealed with them

    Raises BusyError when a run is at work, CorruptBlobError when no release of the model is whole.
    """
    with lease.ensure(store, model):
        yield from _blobs_from_numbers(store, model)
        for name in refs.NAMES:
            seen = refs.peek(store, model, name)
            if seen.is_damaged:
                yield _mend_ref(store, model, name, seen, keys)
        yield from _numbers_from_blobs(store, model)


def newest_whole(store: ObjectStore, model: str, keys: Keyring = NOBODY) -> Release:
    """The release with the highest number that is signed as it must be and of which nothing is missing.

    Raises CorruptBlobError.
    """
    for number in reversed(manifests.numbers(store, model)):
        try:
            release = manifests.read(store, model, number)
            if keys.checks:
                signatures.require(store, release, keys)
        except (CorruptBlobError, SignatureError):
            continue
        if whole.is_whole(store, release):
            return release
    raise CorruptBlobError(
        "no release of this model is whole",
        remedy="Restore its blobs from a backup or from a host's cache (the file name is the digest)",
        model=model,
        store=store.url,
    )


def _mend_ref(store: ObjectStore, model: str, name: str, seen: Seen, keys: Keyring) -> str:
    """Point a damaged ref to where it most likely pointed; its log begins anew."""
    if keys.checks:
        keys.require_signers()
    head = refs.peek(store, model, "latest").ref
    if name == "latest" or head is None:
        release = newest_whole(store, model, keys)
    else:
        release = manifests.by_digest(store, head.manifest)
    whole.revive(store, release)
    to = Ref.to(release, "mended: the ref was damaged, and this is the newest release that is whole")
    refs.advance(store, model, name, seen=seen, to=to, keys=keys)
    return f"{model}: `{name}` was damaged and points to release {release.number} now"


def _blobs_from_numbers(store: ObjectStore, model: str) -> Iterator[str]:
    """A manifest whose blob is gone or rotten is written anew from the copy under its number."""
    for number in manifests.numbers(store, model):
        body, _ = store.get(manifests.key(model, number))
        try:
            manifests.from_bytes(body)
            blobs.get(store, sha256_hex(body))
        except NotFoundError:
            blobs.put(store, body)
            yield f"{model}@{number}: its manifest's blob was missing and was written anew"
        except CorruptBlobError:
            if _reads(body):
                blobs.heal(store, body)
                yield f"{model}@{number}: its manifest's blob was damaged and was written anew"


def _numbers_from_blobs(store: ObjectStore, model: str) -> Iterator[str]:
    """A damaged manifest under a number is written anew from the blob that refs and children name."""
    for release in history.of_model(store, model):
        where, body = manifests.key(model, release.number), manifests.to_bytes(release)
        try:
            there, version = store.get(where)
        except NotFoundError:
            store.create(where, body)
            yield f"{model}@{release.number}: its manifest was missing under its number and was written anew"
            continue
        if there != body and not _reads(there):
            store.replace(where, body, version=version)
            yield f"{model}@{release.number}: its manifest was damaged and was written anew"


def _reads(body: bytes) -> bool:
    try:
        manifests.from_bytes(body)
    except CorrigendaError:
        return False
    return True
