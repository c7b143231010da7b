"""Blobs from a store into a directory: ranges in parallel, resumable, hashed while they stream.

What is under `blobs/` was whole when it got there; `partial/` holds verified-later beginnings from which
the next attempt goes on. Knows nothing of releases.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from corrigenda.errors import SetupError
from corrigenda.facts import Progress
from corrigenda.storage.objects import blobs, ranges
from corrigenda.storage.objects.blobs import SPAN, BlobRef
from corrigenda.storage.objects.interface import ObjectStore

# A blob of a shared cache goes after so long: what the next pull lacks, it finds in what it replaces.
UNUSED_S = 86_400.0


@dataclass(frozen=True, slots=True)
class BlobFolder:
    """Verified blobs in a directory, shared by hard links with whoever needs them."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    def path(self, ref: BlobRef) -> Path:
        return self.root / "blobs" / ref.digest

    def partial(self, ref: BlobRef) -> Path:
        return self.root / "partial" / ref.digest

    def prepare(self) -> None:
        for name in ("blobs", "partial"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def has(self, ref: BlobRef) -> bool:
        """Whether the blob is here and still whole; a damaged one is removed."""
        if holds(self.path(ref), ref):
            os.utime(self.path(ref), ns=(time.time_ns(), self.path(ref).stat().st_mtime_ns))
            return True
        self.path(ref).unlink(missing_ok=True)
        return False

    def adopt(self, ref: BlobRef, path: Path) -> None:
        """Take over a verified file, by rename; read-only, because other names share its bytes."""
        path.chmod(0o444)
        path.replace(self.path(ref))

    def prune(self, keep: Iterable[BlobRef]) -> None:
        """Remove all blobs and beginnings but those of `keep`."""
        names = {ref.digest for ref in keep}
        for folder in ("blobs", "partial"):
            for path in (self.root / folder).iterdir():
                if path.name not in names:
                    path.unlink(missing_ok=True)

    def prune_unused(self, age_s: float = UNUSED_S) -> None:
        """Remove blobs that no directory shares and nobody asked for in that time, and beginnings as old.

        The caller holds the folder's lock. Without it, a cache grows by each night's edited tensors for ever.
        """
        before = time.time() - age_s
        for path in (self.root / "blobs").iterdir():
            stat = path.stat()
            if stat.st_nlink == 1 and stat.st_atime < before:
                path.unlink()
        for path in (self.root / "partial").iterdir():
            if path.stat().st_mtime < before:
                path.unlink()


def holds(path: Path, ref: BlobRef) -> bool:
    """Whether a plain file has exactly these bytes."""
    try:
        plain = path.is_file() and not path.is_symlink() and path.stat().st_size == ref.size
        return plain and blobs.ref_of_file(path) == ref
    except FileNotFoundError:
        return False


def download(
    store: ObjectStore, wanted: Iterable[BlobRef], folder: BlobFolder, progress: Progress | None = None
) -> int:
    """Bring blobs into `folder`; returns the bytes that were transferred.

    Each blob goes on where an earlier attempt was cut. One that turns out wrong is fetched once more from
    its beginning, in case only the earlier part was damaged here.

    Raises CorruptBlobError when the store's bytes are wrong, StorageError when it stops answering (what
    has arrived is kept), NotFoundError when a blob is missing.
    """
    needed = list(dict.fromkeys(wanted))
    moved, failed = _pass(store, needed, folder, progress)
    if failed:
        again, failed = _pass(store, failed, folder, progress)
        moved += again
    if failed:
        raise blobs.corrupt(store, failed[0].digest)
    return moved


def _pass(
    store: ObjectStore, refs: list[BlobRef], folder: BlobFolder, progress: Progress | None
) -> tuple[int, list[BlobRef]]:
    """One attempt at every blob; returns the bytes moved and the blobs whose digest came out wrong."""
    started = {ref: _begun(folder, ref) for ref in refs}
    wanted = (
        span
        for ref, start in started.items()
        for span in ranges.spans(blobs.key(ref.digest), start, ref.size)
    )
    moved, failed = 0, []
    with ranges.bodies(store, wanted) as bodies, ThreadPoolExecutor(1) as writer:
        for ref in refs:
            with folder.partial(ref).open("ab") as file:
                digest = _digest_of_start(folder.partial(ref))
                for body in ranges.take(bodies, ref.size - started[ref]):
                    written = writer.submit(file.write, body)
                    digest.update(body)
                    written.result()
                    moved += len(body)
                    if progress:
                        progress(len(body))
            if digest.hexdigest() == ref.digest:
                folder.adopt(ref, folder.partial(ref))
            else:
                folder.partial(ref).unlink()
                failed.append(ref)
    return moved, failed


def _begun(folder: BlobFolder, ref: BlobRef) -> int:
    """How many bytes an earlier attempt left; more than the blob has is nonsense and removed."""
    path = folder.partial(ref)
    have = path.stat().st_size if path.is_file() else 0
    if have > ref.size:
        path.unlink()
        return 0
    return have


def _digest_of_start(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(SPAN):
            digest.update(chunk)
    return digest


def place(source: Path, target: Path) -> None:
    """The same bytes under another name: a hard link, or a copy where links are impossible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as reader, target.open("xb") as writer:
            while chunk := reader.read(SPAN):
                writer.write(chunk)
        target.chmod(0o444)


def require_space(folder: Path, size: int) -> None:
    """Raises SetupError when fewer than `size` bytes are free."""
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    if free < size:
        raise SetupError(
            "the disk has too little space for this release",
            remedy="Free some space, or pull to another disk",
            path=str(folder),
            needed_bytes=size,
            free_bytes=free,
        )
