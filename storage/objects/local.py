"""A directory as an object store.

Creation is atomic between processes by `link(2)`, replacement by a lock and `rename(2)`. Locks are the
kernel's (`flock`), so that a killed process leaves none behind; what it may leave is a file in `.tmp`,
which no listing shows and `gc` removes. Some space is kept aside in `.reserve`: on a full disk, leases and
moves of refs are written there, so that gc and rollback work where they are needed most.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from corrigenda.errors import (
    CorrigendaError,
    NotFoundError,
    ObjectUnreadableError,
    SetupError,
    StorageError,
)
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects.interface import BROKEN, ObjectInfo, checked_key, is_essential

SCRATCH = ".tmp"
LOCKS = ".locks"
RESERVE = ".reserve"
SLICES = 16  # of the reserve: each is given up by itself, so that nobody else gets more than a slice
SLICE_BYTES = 4096  # a block of most file systems: a lease, a ref, or the scratch file of one
_FULL = (errno.ENOSPC, errno.EDQUOT)
_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Objects are files below `root`, keys their paths. A version is the digest of the content."""

    root: Path

    @classmethod
    def open(cls, root: Path, *, create: bool = False, absent_ok: bool = False) -> LocalStore:
        """The store in `root`. Raises SetupError when there is no such directory, unless it is made now
        (`create`) or may be absent: then reading finds nothing, and writing fails."""
        root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow a link that may move
        with _explained(root):
            if create:
                root.mkdir(parents=True, exist_ok=True)
            if not root.is_dir() and not (absent_ok and not root.exists()):
                raise SetupError(
                    "there is no store in this place",
                    remedy="Check `url` in fleet.toml, or make it with `corrigenda run`",
                    path=str(root),
                )
        store = cls(root)
        if create:
            store._keep_reserve()
        return store

    @property
    def url(self) -> str:
        return str(self.root)

    def get(self, key: str) -> tuple[bytes, str]:
        with self._reading(key) as path:
            body = path.read_bytes()
        return body, sha256_hex(body)

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        with self._reading(key) as path, path.open("rb") as file:
            file.seek(start)
            return file.read(max(0, stop - start))

    def read_into(self, key: str, start: int, view: memoryview) -> int:
        with self._reading(key) as path, path.open("rb", buffering=0) as file:
            file.seek(start)
            done = 0
            while done < len(view) and (count := file.readinto(view[done:])):
                done += count
            return done

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with self._reading(key) as path:
                return _info(key, path.stat()) if path.is_file() else None
        except NotFoundError:
            return None

    def create(self, key: str, body: bytes) -> str | None:
        def write(scratch: Path) -> str:
            scratch.write_bytes(body)
            return sha256_hex(body)

        return self._create(key, write)

    def create_from_file(self, key: str, path: Path) -> str | None:
        return self._create(key, lambda scratch: _copied(path, scratch))

    def replace(self, key: str, body: bytes, *, version: str) -> str | None:
        return self._writing(lambda: self._replace(key, body, version))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        start = self.root / prefix.rpartition("/")[0]
        with _explained(self.root):
            for path in _files(start):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and (info := _listed(key, path)):
                    yield info

    def copy(self, source: str, target: str) -> None:
        with self._reading(source) as path, self._scratch() as scratch:
            _copied(path, scratch)
            _sync(scratch)
            self._parent(target)
            scratch.replace(self._path(target))
            _sync(self._path(target).parent)

    def delete(self, key: str) -> None:
        with _explained(self.root):
            self._path(key).unlink(missing_ok=True)

    def touch(self, key: str) -> bool:
        path = self._path(key)
        with _explained(self.root):
            try:
                with _alone_in(path.parent):
                    _renew(path)
                    return True
            except _GONE:
                return False

    def delete_unchanged(self, info: ObjectInfo) -> bool:
        path = self._path(info.key)
        with _explained(self.root):
            try:
                with _alone_in(path.parent):
                    if _info(info.key, path.stat()).version != info.version:
                        return False
                    path.unlink()
                    return True
            except _GONE:
                return True

    def clock(self) -> datetime:
        """The file system's time, which may be a server's: that of a file written now."""
        try:
            with self._scratch() as scratch:
                scratch.touch()
                return datetime.fromtimestamp(scratch.stat().st_mtime, UTC)
        except OSError:  # nothing can be written, so nothing will be deleted by what this says
            return datetime.now(UTC)

    def sweep(self, before: datetime) -> None:
        with _explained(self.root):
            for path in self.scratch_files():
                if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                    path.unlink(missing_ok=True)

    def scratch_files(self) -> Iterator[Path]:
        """What killed processes left half-written."""
        return (path for path in (self.root / SCRATCH).glob("*") if path.is_file())

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def _parent(self, key: str) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no store", str(self.root))
        self._path(key).parent.mkdir(parents=True, exist_ok=True)

    def _create(self, key: str, write: Callable[[Path], str]) -> str | None:
        return self._writing(lambda: self._link(key, write))

    def _link(self, key: str, write: Callable[[Path], str]) -> str | None:
        target = self._path(key)
        if target.exists():
            return None
        with self._scratch() as scratch:
            version = write(scratch)
            _sync(scratch)
            self._parent(key)
            try:
                os.link(scratch, target)
            except FileExistsError:
                return None
            _sync(target.parent)
            return version

    def _replace(self, key: str, body: bytes, version: str) -> str | None:
        with self._locked(key), self._scratch() as scratch:
            target = self._path(key)
            if not target.is_file() or sha256_hex(target.read_bytes()) != version:
                return None
            scratch.write_bytes(body)
            _sync(scratch)
            scratch.replace(target)
            _sync(target.parent)
            return sha256_hex(body)

    def _writing(self, act: Callable[[], str | None]) -> str | None:
        """What is essential gets the reserve when the disk is full."""
        with _explained(self.root):
            try:
                return act()
            except OSError as fault:
                if fault.errno not in _FULL or not is_essential():
                    raise
                return self._from_reserve(act, fault)

    def _from_reserve(self, act: Callable[[], str | None], full: OSError) -> str | None:
        """Give up one slice after the other until the write succeeds; then take back what is free again."""
        try:
            for slice_ in self._reserve():
                slice_.unlink(missing_ok=True)
                try:
                    return act()
                except OSError as fault:
                    if fault.errno not in _FULL:
                        raise
            raise full
        finally:
            self._keep_reserve()

    def _reserve(self) -> Iterator[Path]:
        """What is left of the reserve."""
        return (path for path in map(self._slice, range(SLICES)) if path.exists())

    def _slice(self, number: int) -> Path:
        return self.root / RESERVE / str(number)

    def _keep_reserve(self) -> None:
        """Fill the reserve; where there is no space for it or no right to, there will be none."""
        with suppress(OSError):
            (self.root / RESERVE).mkdir(exist_ok=True)
            for path in map(self._slice, range(SLICES)):
                if not path.exists():
                    _fill(path)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        folder = self.root / SCRATCH
        folder.mkdir(exist_ok=True)
        path = folder / secrets.token_hex(12)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        # Lock files stay for ever: to remove one while another process waits on it would let two in.
        folder = self.root / LOCKS
        folder.mkdir(exist_ok=True)
        with (folder / sha256_hex(key.encode())[:32]).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        with _explained(self.root):
            try:
                yield path
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise NotFoundError(
                    "there is no such object in the store",
                    remedy="Check the name, or run `corrigenda doctor`",
                    key=key,
                    store=self.url,
                ) from None
            except PermissionError:
                raise ObjectUnreadableError(
                    "this file may not be read by this user",
                    remedy="Give this user the right to read it",
                    key=key,
                    store=self.url,
                ) from None


def _info(key: str, stat: os.stat_result) -> ObjectInfo:
    # The change time, too: a file that is written anew in its place may keep all the rest.
    version = f"{stat.st_mtime_ns:x}-{stat.st_ctime_ns:x}-{stat.st_ino:x}-{stat.st_size:x}"
    return ObjectInfo(key, stat.st_size, version, datetime.fromtimestamp(stat.st_mtime, UTC))


def _listed(key: str, path: Path) -> ObjectInfo | None:
    """What a listing says of a file; None when it was removed since the directory was read."""
    try:
        return _info(key, path.stat())
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        return replace(_info(key, path.lstat()), size=0, version=BROKEN)


def _files(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """All files below `folder` in the order of their keys; names that begin with a dot are hidden.

    Links are followed, as reading follows them: what can be read is listed. One that leads nowhere is listed
    too, so that nobody takes what it stood for as gone for good.

    above   device and inode of the folders that lead here
    """
    try:
        here = folder.stat()
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except _GONE:
        return
    place = (here.st_dev, here.st_ino)
    if place in above:
        raise OSError(errno.ELOOP, "a link leads back to a folder above it", str(folder))
    # A directory sorts as its keys do: with the slash that follows its name.
    for entry in sorted(entries, key=lambda entry: entry.name + "/" * entry.is_dir()):
        if entry.is_dir():
            yield from _files(Path(entry.path), above | {place})
        elif entry.is_file() or entry.is_symlink():
            yield Path(entry.path)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time changes the age of this folder's files, or removes them by it.

    The folder itself is locked: that needs no space. Raises FileNotFoundError when there is none.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _renew(path: Path) -> None:
    """Let a file be written now, by the file system's clock."""
    try:
        os.utime(path)
    except PermissionError:  # another user's file in a shared store: a copy of it takes its place
        copy = path.with_name(f".{secrets.token_hex(8)}")
        try:
            shutil.copyfile(path, copy)
            copy.replace(path)
        finally:
            copy.unlink(missing_ok=True)


def _fill(path: Path) -> None:
    """A slice of the reserve, or nothing."""
    try:
        path.write_bytes(os.urandom(SLICE_BYTES))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _copied(source: Path, target: Path) -> str:
    """Copy bytes, and their digest on the way."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn the operating system's refusals into ours, with what to do."""
    try:
        yield
    except CorrigendaError:
        raise
    except PermissionError as fault:
        raise SetupError(
            "the store's directory may not be used by this user",
            remedy="Give this user the right to read and write it",
            path=str(fault.filename or root),
        ) from None
    except OSError as fault:
        free = shutil.disk_usage(root).free if root.is_dir() else None
        raise StorageError(
            f"the store's directory failed: {fault.strerror or fault}",
            remedy="Free some space"
            if fault.errno == errno.ENOSPC
            else "Check the file system and try again",
            path=str(root),
            free_bytes=free,
        ) from None
