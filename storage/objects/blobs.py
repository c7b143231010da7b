"""Content-addressed bytes: the key is the digest, so that putting twice is putting once.

Every read is hashed; bytes that do not match their name are never handed out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects.interface import ObjectStore

BLOBS = "blobs/sha256/"
SPAN = 8 << 20  # bytes read from a file or the store at a time
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Names bytes in the store: SHA-256 in lower-case hexadecimal, and their number."""

    digest: str
    size: int

    def to_json(self) -> dict[str, str | int]:
        return {"digest": self.digest, "size": self.size}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BlobRef:
        """Raises ValueError when `value` is anything but a digest and a size."""
        digest, size = value.get("digest"), value.get("size")
        if not is_digest(digest) or type(size) is not int or not 0 <= size < 1 << 50:
            raise ValueError(f"no blob reference: {dict(value)!r:.200}")
        return cls(str(digest), size)


def is_digest(value: object) -> bool:
    """Whether this is 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def key(digest: str) -> str:
    """Where the bytes of that digest lie. Raises CorruptBlobError when it is no digest."""
    if not is_digest(digest):
        raise CorruptBlobError("this is no digest", remedy="Run `corrigenda doctor`", digest=digest[:80])
    return f"{BLOBS}{digest[:2]}/{digest}"


def put(store: ObjectStore, body: bytes) -> BlobRef:
    """Store `body` under its own name; what is there already is not sent again, and is young again."""
    ref = BlobRef(sha256_hex(body), len(body))
    if not _revived(store, ref):
        store.create(key(ref.digest), body)
    return ref


def put_file(store: ObjectStore, path: Path) -> BlobRef:
    """`put` with a file's bytes, streamed twice: once to know the name, once to send."""
    ref = ref_of_file(path)
    if not _revived(store, ref):
        store.create_from_file(key(ref.digest), path)
    return ref


def ref_of_file(path: Path) -> BlobRef:
    """Digest and size of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(SPAN):
            digest.update(chunk)
            size += len(chunk)
    return BlobRef(digest.hexdigest(), size)


def get(store: ObjectStore, digest: str) -> bytes:
    """The bytes of that name. Raises NotFoundError, and CorruptBlobError when they are others."""
    body, _ = store.get(key(digest))
    if sha256_hex(body) != digest:
        raise corrupt(store, digest)
    return body


def fetch(store: ObjectStore, ref: BlobRef, path: Path) -> None:
    """Write a blob to `path`, hashed while it streams; a wrong one leaves no file.

    Raises NotFoundError and CorruptBlobError.
    """
    try:
        with path.open("wb") as file:
            for chunk in _verified_chunks(store, ref, key(ref.digest)):
                file.write(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def verify(store: ObjectStore, ref: BlobRef, where: str | None = None) -> None:
    """Read a blob and hash it, some megabytes at a time. Raises NotFoundError, CorruptBlobError.

    where   the key of a copy of the blob, which is read instead
    """
    for _ in _verified_chunks(store, ref, where or key(ref.digest)):
        pass


def _verified_chunks(store: ObjectStore, ref: BlobRef, where: str) -> Iterator[bytes]:
    """The bytes at `where` piece by piece; the last step raises when they are not the blob's."""
    found = store.stat(where)
    if found is None:
        raise missing(store, ref.digest)
    digest = hashlib.sha256()
    for start in range(0, ref.size, SPAN):
        chunk = store.get_range(where, start, min(start + SPAN, ref.size))
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != ref.digest or found.size != ref.size:
        raise corrupt(store, ref.digest)


def heal(store: ObjectStore, body: bytes) -> BlobRef:
    """`put`, but a stored blob whose bytes do not match its name is written anew."""
    ref = BlobRef(sha256_hex(body), len(body))
    try:
        if _present(store, ref):
            get(store, ref.digest)
    except CorruptBlobError:
        store.delete(key(ref.digest))
    return put(store, body)


def _present(store: ObjectStore, ref: BlobRef) -> bool:
    found = store.stat(key(ref.digest))
    if found is not None and found.size != ref.size:
        raise corrupt(store, ref.digest)
    return found is not None


def _revived(store: ObjectStore, ref: BlobRef) -> bool:
    """Whether the blob is there; gc, which may have marked it, then finds it changed and leaves it."""
    return _present(store, ref) and store.touch(key(ref.digest))


def corrupt(store: ObjectStore, digest: str) -> CorruptBlobError:
    return CorruptBlobError(
        "stored bytes do not match their digest",
        remedy="Run `corrigenda doctor --deep`, and restore the blob or roll back",
        digest=digest,
        store=store.url,
    )


def missing(store: ObjectStore, digest: str) -> NotFoundError:
    return NotFoundError(
        "a blob is missing from the store",
        remedy="Run `corrigenda doctor`, and restore it or roll back",
        digest=digest,
        store=store.url,
    )
