"""Blobs from a store into a directory: ranges in parallel, resumable, hashed while they stream.

What is under `blobs/` was whole when it got there; `partial/` holds verified-later beginnings from which
the next attempt goes on. Knows nothing of releases.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from corrigenda.errors import CorrigendaError, CorruptBlobError, SetupError, StorageError
from corrigenda.storage import blobs
from corrigenda.storage.blobs import BlobRef
from corrigenda.storage.objects import ObjectStore

SPAN = 8 << 20  # bytes of one ranged request
WORKERS = 8
AHEAD = 12  # requests in flight or waiting to be written: bounds memory to AHEAD * SPAN
TRIES = 6  # of one range
PAUSE_S = 0.05  # before the second try; doubles, with jitter

Progress = Callable[[int], None]  # called with the number of bytes that have been written


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
    moved, failed = 0, []
    with ThreadPoolExecutor(WORKERS) as pool, ThreadPoolExecutor(1) as writer:
        bodies = _in_order(pool, store, _spans(started))
        try:
            for ref in refs:
                with folder.partial(ref).open("ab") as file:
                    digest = _digest_of_start(folder.partial(ref))
                    for body in _take(bodies, ref.size - started[ref]):
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
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
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


def _spans(started: dict[BlobRef, int]) -> Iterator[tuple[str, int, int]]:
    for ref, start in started.items():
        for begin in range(start, ref.size, SPAN):
            yield blobs.key(ref.digest), begin, min(begin + SPAN, ref.size)


def _in_order(
    pool: ThreadPoolExecutor, store: ObjectStore, spans: Iterator[tuple[str, int, int]]
) -> Iterator[memoryview]:
    """Bodies of ranges in the order of the ranges, some of them fetched ahead.

    A body is valid until the next one is asked for: buffers are used again, because fresh memory of this
    size costs more than the copying does.
    """
    waiting: deque[Future[memoryview]] = deque()
    free: deque[bytearray] = deque()

    def first() -> Iterator[memoryview]:
        body = waiting.popleft().result()
        yield body
        if isinstance(body.obj, bytearray):
            free.append(body.obj)

    for span in spans:
        waiting.append(pool.submit(_fetch, store, free, *span))
        if len(waiting) >= AHEAD:
            yield from first()
    while waiting:
        yield from first()


def _take(bodies: Iterator[memoryview], size: int) -> Iterator[memoryview]:
    """Bodies until `size` bytes have come."""
    while size > 0:
        body = next(bodies)
        size -= len(body)
        yield body


def _fetch(store: ObjectStore, free: deque[bytearray], key: str, start: int, stop: int) -> memoryview:
    """One range, however often the line is cut. Raises StorageError, CorruptBlobError."""
    try:
        buffer = free.popleft()
    except IndexError:
        buffer = bytearray(SPAN)
    view = memoryview(buffer)[: stop - start]
    for attempt in range(TRIES):
        try:
            if store.read_into(key, start, view) == len(view):
                return view
        except CorrigendaError as fault:
            if not fault.retryable or attempt == TRIES - 1:
                raise
        time.sleep(PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
    found = store.stat(key)
    if found is not None and found.size < stop:
        raise CorruptBlobError(
            "a stored blob is shorter than its manifest says",
            remedy="Run `corrigenda doctor`",
            key=key,
            size=found.size,
        )
    raise StorageError("a download was cut again and again", remedy="Run the same command again", key=key)


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
