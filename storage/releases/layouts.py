"""Releases for consumers without corrigenda: a full Hugging Face prefix inside the store.

Assembled by the server from blobs that it has already, so that no byte of the checkpoint is uploaded again.
The prefix of a release is whole before `latest` points to it, and `models/<name>/refs/latest` is the only
pointer: a second one could lag behind it. Knows nothing of how a release is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from corrigenda.errors import CorruptBlobError, NotFoundError, UsageError
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectInfo, ObjectStore
from corrigenda.storage.releases import manifests, signatures
from corrigenda.storage.releases.manifests import LAID_OUT, Release

_PREFIX = "hf/"
_CONFIG = "config.json"
_WORKERS = 8  # copies at a time


def prefix_of(release: Release) -> str:
    """Where the files of a release lie for those who read the bucket by themselves."""
    return f"{_PREFIX}{release.model}/{release.number}/"


def assemble(store: ObjectStore, release: Release) -> str:
    """Copy every file of a release to its own name below `prefix_of`; returns that prefix.

    First the manifest, which claims the prefix, then the files, `config.json` last: no loader takes a
    prefix without it for a model, so that half a copy is never loaded. Doing it twice is doing it once,
    and mends what is missing.

    Raises NotFoundError when a blob is gone, CorruptBlobError when a copy has another size, UsageError
    when the release itself has a file of the manifest's name.
    """
    if LAID_OUT in release.files:
        raise UsageError(
            "a file of the base has a name that is needed for the layout",
            remedy="Rename that file in the base, or publish without `layouts`",
            model=release.model,
            file=LAID_OUT,
        )
    prefix = prefix_of(release)
    _claim(store, release, prefix)
    _copy(store, prefix, {path: ref for path, ref in release.files.items() if path != _CONFIG})
    signatures.copy_beside(store, release, prefix)
    _copy(store, prefix, {path: ref for path, ref in release.files.items() if path == _CONFIG})
    return prefix


def is_whole(store: ObjectStore, release: Release, *, deep: bool = False) -> bool:
    """Whether the prefix holds every file of this very release, by name and size; `deep`: by its bytes."""
    prefix = prefix_of(release)
    sizes = {info.key.removeprefix(prefix): info.size for info in store.list(prefix)}
    there = all(sizes.get(path) == ref.size for path, ref in release.files.items())
    if not there or not _claimed(store, release, prefix):
        return False
    try:
        for path, ref in release.files.items() if deep else ():
            blobs.verify(store, ref, prefix + path)
    except (CorruptBlobError, NotFoundError):
        return False
    return True


def in_use(store: ObjectStore, model: str) -> bool:
    """Whether a release of the model is laid out: its readers then expect the next ones there, too."""
    return any(True for _ in store.list(f"{_PREFIX}{manifests.check_model(model)}/"))


def prefixes(store: ObjectStore) -> Mapping[tuple[str, int], list[ObjectInfo]]:
    """All prefixes by model and number, with their objects in the order in which they may be deleted."""
    found: dict[tuple[str, int], list[ObjectInfo]] = {}
    for info in store.list(_PREFIX):
        parts = info.key.split("/", 3)
        if len(parts) == 4 and parts[2].isascii() and parts[2].isdigit():
            found.setdefault((parts[1], int(parts[2])), []).append(info)
    # The configuration goes first, as it comes last.
    return {
        name: sorted(objects, key=lambda info: not info.key.endswith(f"/{_CONFIG}"))
        for name, objects in found.items()
    }


def _claim(store: ObjectStore, release: Release, prefix: str) -> None:
    """Let the prefix belong to this release; what an abandoned candidate of its number left goes away."""
    if _claimed(store, release, prefix):
        return
    stale = sorted(store.list(prefix), key=lambda info: info.key != prefix + _CONFIG)
    for info in stale:
        store.delete(info.key)
    store.copy(blobs.key(release.digest), prefix + LAID_OUT)


def _claimed(store: ObjectStore, release: Release, prefix: str) -> bool:
    try:
        return sha256_hex(store.get(prefix + LAID_OUT)[0]) == release.digest
    except NotFoundError:
        return False


def _copy(store: ObjectStore, prefix: str, files: Mapping[str, BlobRef]) -> None:
    def one(path: str) -> None:
        ref = files[path]
        if not _has(store, prefix + path, ref):
            store.copy(blobs.key(ref.digest), prefix + path)
            if not _has(store, prefix + path, ref):
                raise blobs.corrupt(store, ref.digest)

    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in pool.map(one, sorted(files)):
            pass


def _has(store: ObjectStore, key: str, ref: BlobRef) -> bool:
    found = store.stat(key)
    return found is not None and found.size == ref.size
