"""The directory that a pull maintains: a link, and beside it a hidden folder of finished releases.

`model -> .model.corrigenda/release-3-…`. Switching is one rename of the link.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from corrigenda.errors import CorruptBlobError, NotFoundError, SetupError, UsageError
from corrigenda.facts import sha256_hex
from corrigenda.storage.delivery.download import BlobFolder, place
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.releases import manifests
from corrigenda.storage.releases.manifests import RESERVED, SIGNATURE, Release

KEPT = 2  # finished directories: the current one, and one for readers that have it open
FINISHED = "release-"
UNFINISHED = "building-"


@dataclass(frozen=True, slots=True)
class Place:
    """The destination: a link, and beside it the hidden directory with the finished releases."""

    dest: Path
    side: Path

    @classmethod
    def of(cls, dest: Path) -> Place:
        dest = dest.parent.resolve() / dest.name
        if dest.name in ("", ".", ".."):
            raise UsageError("the destination needs a name", remedy="Name a directory", path=str(dest))
        return cls(dest, dest.parent / f".{dest.name}.corrigenda")

    def current(self) -> Path | None:
        """The finished directory that the link points to."""
        return self.dest.parent / self.dest.readlink() if self.dest.is_symlink() else None

    def shows(self, release: Release, signature: bytes | None = None) -> bool:
        """Whether the link points to that release; with that signature, when one is given."""
        current = self.current()
        if current is None or not (current / RESERVED / f"{release.digest}.json").is_file():
            return False
        return signature is None or read_signature(current) == signature

    def require_ours(self) -> None:
        """Nothing of somebody else's is ever replaced; an empty directory may be."""
        self.dest.parent.mkdir(parents=True, exist_ok=True)
        current = self.current()
        foreign = current.parent != self.side if current else self.dest.exists()
        if foreign and not (self.dest.is_dir() and current is None and not any(self.dest.iterdir())):
            raise UsageError(
                "the destination exists and was not made by `corrigenda pull`",
                remedy="Name another destination, or move this one away",
                path=str(self.dest),
            )
        self.side.mkdir(exist_ok=True)

    def versions(self) -> list[Path]:
        """Finished directories, oldest first."""
        return sorted(self.side.glob(f"{FINISHED}*"), key=lambda path: path.stat().st_mtime_ns)

    def assemble(self, release: Release, folder: BlobFolder, signature: bytes | None = None) -> Path:
        """Build the release beside the others; the directory gets its name when it is complete."""
        token = secrets.token_hex(4)
        scratch = self.side / f"{UNFINISHED}{token}"
        for path, ref in release.files.items():
            place(folder.path(ref), scratch / path)
        manifest = scratch / RESERVED / f"{release.digest}.json"
        manifest.parent.mkdir(parents=True)
        if signature is not None:
            (manifest.parent / SIGNATURE).write_bytes(signature)
        manifest.write_bytes(manifests.to_bytes(release))
        # Not the weights: waiting for the disk costs as much as the download. After a power cut a file
        # that did not reach the disk is too short, which the next pull sees, or fails `--check`.
        for written in (*manifest.parents[:2], manifest):
            _sync(written)
        # A name of its own for every pull: a damaged directory is never mended under a reader's eyes.
        finished = self.side / f"{FINISHED}{release.number}-{release.digest[:12]}-{token}"
        scratch.rename(finished)
        return finished

    def switch(self, finished: Path) -> None:
        """Let the link point to a finished directory, in one rename."""
        link = self.side / f"{UNFINISHED}{secrets.token_hex(4)}"
        link.symlink_to(Path(self.side.name) / finished.name)
        if self.dest.is_dir() and not self.dest.is_symlink():
            self.dest.rmdir()
        link.replace(self.dest)
        _sync(self.dest.parent)

    def tidy(self, folder: BlobFolder | None) -> None:
        """Remove what no reader can still want. `folder` is pruned when nobody shares it."""
        current = self.current()
        old = [path for path in self.versions() if path != current]
        for path in (*old[: len(old) - (KEPT - 1)], *self.side.glob(f"{UNFINISHED}*")):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)
        if folder:
            folder.prune(ref for path in self.versions() for ref in files_of(path).values())


def read_manifest(directory: Path) -> Release:
    """The manifest that a pulled directory carries; its file name is its digest."""
    found = sorted((directory / RESERVED).glob("*.json"))
    if len(found) != 1:
        raise NotFoundError(
            "this directory was not made by `corrigenda pull`",
            remedy="Pull the model into a new directory",
            path=str(directory),
        )
    body = found[0].read_bytes()
    release = manifests.from_bytes(body)
    if sha256_hex(body) != found[0].stem:
        raise CorruptBlobError(
            "the directory's manifest is damaged", remedy="Pull the release again", path=str(found[0])
        )
    return release


def read_signature(directory: Path) -> bytes | None:
    """The signature that a pulled directory carries, unverified; None when there is none."""
    path = directory / RESERVED / SIGNATURE
    return path.read_bytes() if path.is_file() else None


def expected_names(release: Release) -> set[str]:
    """All files of a finished directory, but for its signature."""
    return {*release.files, f"{RESERVED}/{release.digest}.json"}


def names_in(directory: Path) -> set[str]:
    """All that is in a directory but plain folders and its signature; links are listed, not followed."""
    found = (path for path in directory.resolve().rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(directory.resolve()).as_posix() for path in found}
    return names - {f"{RESERVED}/{SIGNATURE}"}


def looks_whole(directory: Path, release: Release) -> bool:
    """Names, sizes, and that nothing was written since the directory was finished; no byte is read."""
    if names_in(directory) != expected_names(release):
        return False
    finished = (directory / RESERVED / f"{release.digest}.json").stat().st_mtime_ns
    stats = ((directory / path).lstat() for path in release.files)
    sizes = (ref.size for ref in release.files.values())
    return all(s.st_size == size and s.st_mtime_ns <= finished for s, size in zip(stats, sizes, strict=True))


def files_of(directory: Path) -> dict[str, BlobRef]:
    """What a finished directory should hold; nothing when it does not say."""
    try:
        return dict(read_manifest(directory).files)
    except (NotFoundError, CorruptBlobError):
        return {}


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One pull at a time; the kernel frees the lock of a killed process."""
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def explained(dest: Path) -> Iterator[None]:
    """Turn the operating system's refusals into ours, with what to do."""
    try:
        yield
    except OSError as fault:
        raise SetupError(
            f"the destination cannot be written: {fault.strerror or fault}",
            remedy="Check the disk and the rights on it, then run the same command again",
            path=str(fault.filename or dest),
        ) from None
