"""A base that lies in a bucket: a Hugging Face directory below an s3:// address, brought into a local cache.

What the bucket lists names the download, so that changed files are another one. A finished directory
appears in one rename; an attempt that was cut goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from corrigenda.config import Location
from corrigenda.errors import CorruptBlobError, NotFoundError, StorageError, UsageError
from corrigenda.facts import Progress, digest_of
from corrigenda.storage.delivery.destination import locked
from corrigenda.storage.delivery.download import require_space
from corrigenda.storage.objects import ranges
from corrigenda.storage.objects.interface import ObjectInfo
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import shards
from corrigenda.storage.releases.manifests import safe_path


def fetch(location: Location, cache: Path, progress: Progress | None = None) -> Path:
    """The local directory with the bucket's files: configuration, tokenizer and safetensors weights.

    Each file is verified by its size, and by its MD5 where the store's ETag is one; files that changed while
    they were fetched are not taken. Safe to kill at any moment and to run again.

    Raises NotFoundError when there is no checkpoint, StorageError when the store fails or the files changed
    (run it again), CorruptBlobError when the bytes are wrong twice.
    """
    store = S3Store.connect(location)
    files = _listed(store)
    done = cache / digest_of([store.url, location.endpoint_url, _versions(files)])[:24]
    cache.mkdir(parents=True, exist_ok=True)
    with locked(done.with_suffix(".lock")):
        if not done.is_dir():
            scratch = done.with_suffix(".partial")
            scratch.mkdir(exist_ok=True)
            require_space(scratch, sum(info.size for info in files))
            _fetch_all(store, files, scratch, progress)
            if _versions(_listed(store)) != _versions(files):
                shutil.rmtree(scratch)
                raise StorageError(
                    "the source changed while it was fetched", remedy="Run it again", source=store.url
                )
            scratch.rename(done)
    return done


def _listed(store: S3Store) -> list[ObjectInfo]:
    """The objects that make a checkpoint. Raises NotFoundError when they make none."""
    listed = ((info, PurePosixPath(info.key)) for info in store.list(""))
    found = [info for info, path in listed if shards.is_weights(path) or shards.is_other(path)]
    names = {info.key for info in found}
    if "config.json" not in names or not any(shards.is_weights(PurePosixPath(name)) for name in names):
        raise NotFoundError(
            "the source holds no Hugging Face checkpoint",
            remedy="Give the prefix that holds config.json and the .safetensors files",
            source=store.url,
            found=sorted(names)[:5],
        )
    for name in names:
        try:
            safe_path(name)
        except ValueError as fault:
            raise UsageError(
                str(fault), remedy="Rename that object in the bucket", source=store.url
            ) from None
    return sorted(found, key=lambda info: info.key)


def _versions(files: Sequence[ObjectInfo]) -> list[list[object]]:
    return [[info.key, info.size, info.version] for info in files]


def _fetch_all(
    store: S3Store, files: Sequence[ObjectInfo], into: Path, progress: Progress | None, tries: int = 2
) -> None:
    """Complete every file; what turns out wrong is fetched once more, in case only its beginning was."""
    begun = {info: _begun(into / info.key, info.size) for info in files}
    wanted = (span for info, start in begun.items() for span in ranges.spans(info.key, start, info.size))
    with ranges.bodies(store, wanted) as bodies:
        for info, start in begun.items():
            with (into / info.key).open("ab") as file:
                for body in ranges.take(bodies, info.size - start):
                    file.write(body)
                    if progress:
                        progress(len(body))
    wrong = [info for info in files if not _is_right(store, info, into / info.key)]
    for info in wrong:
        (into / info.key).unlink()
    if wrong and tries == 1:
        raise CorruptBlobError(
            "files of the source arrive damaged",
            remedy="Upload them again, or give another source",
            source=store.url,
            files=[info.key for info in wrong],
        )
    if wrong:
        _fetch_all(store, wrong, into, progress, tries - 1)


def _begun(path: Path, size: int) -> int:
    """How many bytes an earlier attempt left; more than the object has is nonsense and removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    have = path.stat().st_size if path.is_file() else 0
    if have > size:
        path.unlink()
        return 0
    return have


def _is_right(store: S3Store, info: ObjectInfo, path: Path) -> bool:
    wanted = store.md5_of(info)
    if wanted is None:
        return path.stat().st_size == info.size
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == wanted
