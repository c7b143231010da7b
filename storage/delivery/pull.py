"""A release as a plain Hugging Face directory on a serving host.

`DEST` is a link to a finished directory beside it, so that one rename switches from one release to the
next: a reader that resolves the link once sees one release only, and the one before stays until the next
pull. Needs neither torch nor an orchestrator.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from corrigenda.errors import CorruptBlobError, UsageError
from corrigenda.facts import Progress
from corrigenda.storage.delivery import memory
from corrigenda.storage.delivery.destination import (
    Place,
    expected_names,
    explained,
    files_of,
    locked,
    looks_whole,
    names_in,
    read_manifest,
    read_signature,
)
from corrigenda.storage.delivery.download import BlobFolder, download, holds, place, require_space
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.storage.releases import manifests, refs, signatures
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Ref


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did. Sizes in bytes; `reused` was here already and verified again."""

    release: Release
    path: Path
    downloaded: int
    reused: int
    was_current: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """What an offline check found: the release that the directory claims to be, and what is wrong."""

    release: Release
    faults: tuple[str, ...]


def parse_target(text: str) -> tuple[str, str]:
    """`MODEL[@REF]` as model and ref; the ref is `latest` unless it is named.

    >>> parse_target("smollm2-135m@3")
    ('smollm2-135m', '3')
    """
    model, _, ref = text.partition("@")
    return manifests.check_model(model), ref or "latest"


@dataclass(frozen=True, slots=True)
class Found:
    """A release that may be taken.

    pointer     the ref that names it; None where its number was asked for
    signature   by a trusted key; None where nothing has to be signed
    """

    release: Release
    pointer: Ref | None = None
    signature: bytes | None = None


def find(
    store: ObjectStore, model: str, ref: str, keys: Keyring = NOBODY, *, allow_older: bool = False
) -> Found:
    """The release that `latest`, `canary` or a number stands for, whole and from whom it should be.

    keys          where there are some, one of them must have signed the release, and sealed the ref
    allow_older   take what a ref names that has expired or has no seal; the release is signed all the same

    Raises as `resolve` does, and SignatureError.
    """
    release, pointer = named(store, model, ref)
    if not keys.checks:
        return Found(release, pointer)
    if pointer is not None and not allow_older:
        memory.require_fresh(refs.require_sealed(pointer, model, ref, keys), model)
    return Found(release, pointer, signatures.require(store, release, keys))


def resolve(store: ObjectStore, model: str, ref: str) -> Release:
    """The release that `latest`, `canary` or a number stands for, whole, whoever wrote it.

    Raises NotFoundError, UsageError, CorruptBlobError.
    """
    return named(store, model, ref)[0]


def named(store: ObjectStore, model: str, ref: str) -> tuple[Release, Ref | None]:
    """What `resolve` gives, and the ref that names it; None where its number was asked for."""
    if ref.isascii() and ref.isdigit():
        return manifests.read(store, model, int(ref)), None
    if ref not in refs.NAMES:
        raise UsageError("this is no ref", remedy="Use latest, canary, or a release's number", ref=ref)
    pointer = refs.require(store, model, ref)
    release = manifests.by_digest(store, pointer.manifest)
    if (release.model, release.number) != (model, pointer.release):
        raise CorruptBlobError(
            "the ref points to another model's release",
            remedy="Run `corrigenda doctor`",
            model=model,
            ref=ref,
        )
    return release, pointer


def pull(
    store: ObjectStore,
    model: str,
    ref: str,
    dest: Path,
    cache: Path | None = None,
    *,
    repair: bool = False,
    keys: Keyring | None = NOBODY,
    allow_older: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Make `dest` the release `ref` of `model`, downloading only what neither it nor the cache has.

    cache         a directory of blobs that several destinations share by hard links; default: beside `dest`
    repair        hash everything again although `dest` shows the release already, and mend what is wrong
    keys          only what one of them has signed is taken, and nothing else fetched; where there are none,
                  those that `dest` was made with before hold on. None: not even those
    allow_older   take a ref that is older than what `dest` has seen, has expired, or has no seal

    Safe to kill at any moment and to run again. Raises NotFoundError, UsageError (dest is something of
    somebody else's), SignatureError and CorruptBlobError (nothing was switched), StorageError (run it
    again: it goes on).
    """
    place_of = Place.of(dest)
    keys = NOBODY if keys is None else keys if keys.checks else memory.keys_of(place_of)
    found = find(store, model, ref, keys, allow_older=allow_older)
    if keys.checks and found.pointer and not allow_older:
        memory.require_not_older(place_of, model, ref, found.pointer)
    done = materialise(
        store, found.release, dest, cache, repair=repair, signature=found.signature, progress=progress
    )
    if keys.checks:
        memory.remember(place_of, model, ref, found.pointer, keys)
    return done


def materialise(
    store: ObjectStore,
    release: Release,
    dest: Path,
    cache: Path | None = None,
    *,
    repair: bool = False,
    signature: bytes | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Make `dest` the given release, whether or not a manifest of it is in the store yet.

    A candidate is tested from the very blobs that its consumers would get. A signature is laid beside the
    manifest, so that it can be checked without the store. Raises as `pull` does.
    """
    place_of = Place.of(dest)
    with ExitStack() as held, explained(dest):
        place_of.require_ours()
        held.enter_context(locked(place_of.side / "lock"))
        folder = BlobFolder(cache or place_of.side)
        folder.prepare()
        if cache:
            held.enter_context(locked(folder.lock))
        current = not repair and place_of.shows(release, signature) and looks_whole(place_of.dest, release)
        downloaded = 0
        if not current:
            downloaded = _fill(store, release, folder, place_of, progress)
            place_of.switch(place_of.assemble(release, folder, signature))
        place_of.tidy(folder if cache is None else None)
        if cache:
            folder.prune_unused()
        return Pulled(release, dest, downloaded, release.size - downloaded, was_current=current)


def check(dest: Path, keys: Keyring = NOBODY) -> Verified:
    """Hash every file of a pulled directory against its manifest; needs no network.

    keys   one of them must have signed the release

    Raises NotFoundError when this is no pulled directory, CorruptBlobError when its manifest is damaged,
    SignatureError.
    """
    release = read_manifest(dest)
    if keys.checks:
        signature = read_signature(dest)
        signatures.require_good([] if signature is None else [signature], release, keys)
    faults = [
        f"{path}: {_fault(dest / path)}" for path, r in release.files.items() if not holds(dest / path, r)
    ]
    extra = names_in(dest) - expected_names(release)
    faults += [f"{name}: does not belong to the release" for name in sorted(extra)]
    return Verified(release, tuple(faults))


def _fill(
    store: ObjectStore, release: Release, folder: BlobFolder, place_of: Place, progress: Progress | None
) -> int:
    """Get every blob of the release into `folder`; returns the bytes downloaded."""
    lacking = [ref for ref in dict.fromkeys(release.files.values()) if not folder.has(ref)]
    current = place_of.current()
    for path, ref in files_of(current).items() if current else ():
        # The cache may have been emptied since: what the last pull made is as good, when it is whole.
        if ref in lacking and current and holds(current / path, ref):
            place(current / path, folder.path(ref))
            lacking.remove(ref)
    require_space(folder.root, sum(ref.size for ref in lacking))
    return download(store, lacking, folder, progress)


def _fault(path: Path) -> str:
    if path.is_symlink():
        return "is a link"
    return "its bytes differ from the manifest" if path.is_file() else "is missing"
