"""The one interface to where bytes lie: a directory or a bucket, under the same keys.

All that corrigenda stores is immutable but for refs, leases and cache indexes; those are changed by
`replace`, which needs the version that was read. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from corrigenda.errors import UsageError

_CHUNK = 1 << 20  # bytes; what a stream yields at most
BROKEN = "broken link"  # the version of what a listing shows and nobody can read

_essential: ContextVar[bool] = ContextVar("essential", default=False)


@contextmanager
def essential() -> Iterator[None]:
    """Writes in the block may use the space that a store keeps aside for a full disk.

    For the few small ones without which nothing can be freed or undone: leases and moves of refs.
    """
    before = _essential.get()
    _essential.set(True)
    try:
        yield
    finally:
        _essential.set(before)


def is_essential() -> bool:
    """Whether the caller is in such a block."""
    return _essential.get()


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing says of one object.

    version   a hint whether the object changed; `replace` wants the one that `get` or a write gave
    modified  time of the last write, UTC
    """

    key: str
    size: int
    version: str
    modified: datetime


class ObjectStore(Protocol):
    """Get, ranged get, create-if-absent, compare-and-swap, list, copy.

    Every method raises StorageError when the store fails, and SetupError when it cannot be used at all.
    A write whose answer was lost raises UnknownOutcomeError: it may have landed.
    """

    @property
    def url(self) -> str:
        """Where this is, for people and for error messages; never with a secret."""
        ...

    def get(self, key: str) -> tuple[bytes, str]:
        """Body and version. Raises NotFoundError."""
        ...

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` (inclusive) to `stop` (exclusive), fewer at the end. Raises NotFoundError."""
        ...

    def read_into(self, key: str, start: int, view: memoryview) -> int:
        """Fill `view` with the bytes from `start` on; how many there were. Raises NotFoundError."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """What is known of one object without reading it; None when there is none."""
        ...

    def create(self, key: str, body: bytes) -> str | None:
        """Write unless the key exists; the new version, or None when something was there already.

        None does not prove that somebody else was first: a repeated request whose first answer was
        lost also finds the key taken. Who needs to know looks at what is there.
        """
        ...

    def create_from_file(self, key: str, path: Path) -> str | None:
        """`create` with a file's bytes, streamed; in parts when it is large."""
        ...

    def replace(self, key: str, body: bytes, *, version: str) -> str | None:
        """Write only over that version; the new version, or None when the race was lost."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose keys begin with `prefix`, each once, in the store's own order.

        Names that begin with a dot are hidden.
        """
        ...

    def copy(self, source: str, target: str) -> None:
        """Copy inside the store, overwriting; no byte passes through here. Raises NotFoundError."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object; removing what is not there is no error."""
        ...

    def touch(self, key: str) -> bool:
        """Let an object be as young as if it had been written now; False when there is none."""
        ...

    def delete_unchanged(self, info: ObjectInfo) -> bool:
        """Remove the object that a listing told of, unless it was written or touched since.

        Returns whether it is gone: False when it was left alone.
        """
        ...

    def sweep(self, before: datetime) -> None:
        """Remove what killed writers left half-written before then; no listing shows it."""
        ...

    def clock(self) -> datetime:
        """What time it is by the clock that dates the objects: the only one to judge their age by, UTC."""
        ...


def checked_key(key: str) -> str:
    """`key` itself, when each of its parts is a plain name. Raises UsageError otherwise."""
    parts = key.split("/")
    if "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise UsageError("this is no key of a store", remedy="Use plain names joined by '/'", key=key)
    return key
