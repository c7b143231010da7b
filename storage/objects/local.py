"""A directory as an object store.

Creation is atomic between processes by `link(2)`, replacement by a lock and `rename(2)`. Locks are the
kernel's (`flock`), so that a killed process leaves none behind; what it may leave is a file in `.tmp`,
which no listing shows and `gc` removes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from corrigenda.errors import CorrigendaError, NotFoundError, SetupError, StorageError
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects.interface import ObjectInfo, checked_key

SCRATCH = ".tmp"
LOCKS = ".locks"


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Objects are files below `root`, keys their paths. A version is the digest of the content."""

    root: Path

    @classmethod
    def open(cls, root: Path, *, create: bool = False) -> LocalStore:
        """The store in `root`. Raises SetupError when there is no such directory and `create` is false."""
        root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow a link that may move
        with _explained(root):
            if create:
                root.mkdir(parents=True, exist_ok=True)
            if not root.is_dir():
                raise SetupError(
                    "there is no store in this place",
                    remedy="Check `url` in fleet.toml, or make it with `corrigenda run`",
                    path=str(root),
                )
        return cls(root)

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
        with _explained(self.root), self._locked(key), self._scratch() as scratch:
            target = self._path(key)
            if not target.is_file() or sha256_hex(target.read_bytes()) != version:
                return None
            scratch.write_bytes(body)
            _sync(scratch)
            scratch.replace(target)
            _sync(target.parent)
            return sha256_hex(body)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        start = self.root / prefix.rpartition("/")[0]
        with _explained(self.root):
            for path in _files(start):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    try:
                        yield _info(key, path.stat())
                    except FileNotFoundError:
                        continue  # removed since the directory was read

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
        target = self._path(key)
        with _explained(self.root):
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


def _info(key: str, stat: os.stat_result) -> ObjectInfo:
    version = f"{stat.st_mtime_ns:x}-{stat.st_ino:x}-{stat.st_size:x}"
    return ObjectInfo(key, stat.st_size, version, datetime.fromtimestamp(stat.st_mtime, UTC))


def _files(folder: Path) -> Iterator[Path]:
    """All files below `folder` in the order of their keys; names that begin with a dot are hidden."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return
    # A directory sorts as its keys do: with the slash that follows its name.
    for entry in sorted(entries, key=lambda entry: entry.name + "/" * entry.is_dir()):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)


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
