"""Whether the store itself holds a release whole: all of it by size, and by its bytes as far as one reads.

The answer never comes from a cache of the host that asks: what a worker has is not what consumers get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import manifests
from corrigenda.storage.releases.manifests import Release

_READ = 4 << 30  # bytes, of what a release has from before; of more than that, each release another part
_WORKERS = 8


def require(store: ObjectStore, release: Release, *, read: int = _READ) -> None:
    """Return when the store holds every file of the release, its ledger, and its manifest.

    Sizes of all are compared. What is new since the parent is read and hashed, and of the rest `read` bytes;
    where that is not all, releases that follow each other read one part after the other.

    Raises CorruptBlobError, which names the first fault.
    """
    manifest = BlobRef(release.digest, len(manifests.to_bytes(release)))
    everything = sorted({manifest, *release.blobs}, key=lambda ref: ref.digest)
    _each(lambda ref: _has_size(store, ref), everything, release)
    if read:
        before = _blobs_of(store, release.parent)
        new = [ref for ref in everything if ref not in before]
        old = _part([ref for ref in everything if ref in before], release.number, read)
        _each(lambda ref: blobs.verify(store, ref), (*new, *old), release)


def revive(store: ObjectStore, release: Release) -> None:
    """Let all be young again that the release has and its base has not, before a ref points to it once more.

    gc, which may have marked an old release and gone to sleep, then leaves it alone. Raises CorruptBlobError.
    """
    try:
        always = manifests.read(store, release.model, 0).blobs
    except (NotFoundError, CorruptBlobError):
        always = set()
    manifest = BlobRef(release.digest, len(manifests.to_bytes(release)))

    def touch(ref: BlobRef) -> None:
        if not store.touch(blobs.key(ref.digest)):
            raise blobs.missing(store, ref.digest)

    _each(touch, {manifest, *release.blobs} - always, release)
    store.touch(manifests.key(release.model, release.number))


def is_whole(store: ObjectStore, release: Release) -> bool:
    """Whether `require` is content."""
    try:
        require(store, release)
    except CorruptBlobError:
        return False
    return True


def _part(refs: Sequence[BlobRef], turn: int, read: int) -> Sequence[BlobRef]:
    """Every n-th of them, so that about `read` bytes come together; the next turn takes the next ones."""
    parts = max(1, -(-sum(ref.size for ref in refs) // read))
    return refs[turn % parts :: parts]


def _blobs_of(store: ObjectStore, digest: str | None) -> set[BlobRef]:
    """What a release before has; nothing when it is gone, so that all counts as new."""
    try:
        return manifests.by_digest(store, digest).blobs if digest else set()
    except (NotFoundError, CorruptBlobError):
        return set()


def _has_size(store: ObjectStore, ref: BlobRef) -> None:
    found = store.stat(blobs.key(ref.digest))
    if found is None:
        raise blobs.missing(store, ref.digest)
    if found.size != ref.size:
        raise blobs.corrupt(store, ref.digest)


def _each(look: Callable[[BlobRef], None], refs: Iterable[BlobRef], release: Release) -> None:
    """Look at blobs side by side; the first fault says which file of the release it is."""
    refs = tuple(refs)
    with ThreadPoolExecutor(_WORKERS) as pool:
        for ref, looked in zip(refs, [pool.submit(look, ref) for ref in refs], strict=True):
            try:
                looked.result()
            except (NotFoundError, CorruptBlobError) as fault:
                names = [path for path, file in release.files.items() if file == ref]
                raise CorruptBlobError(
                    f"the store does not hold the release whole: {fault.what}",
                    remedy=fault.remedy,
                    model=release.model,
                    release=release.number,
                    file=names[0] if names else "ledger or manifest",
                    digest=ref.digest,
                ) from None
