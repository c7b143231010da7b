"""Releases and their manifests: deterministic JSON that names every file of a checkpoint by digest.

A manifest lies twice: as a blob under its digest, which refs and children point to, and under the
release's number, for people. A manifest is read with suspicion: whoever can write to a store could name
files outside of the directory that a consumer pulls into.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Any

from corrigenda.errors import CorruptBlobError, NotFoundError, SetupError, UsageError
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.stored import object_of, of_types

FORMAT = "corrigenda-release-1"
_FAMILY = "corrigenda-release-"  # what stands before the number; a higher number is another format
_MOST_BYTES = 16 << 20
RESERVED = ".corrigenda"  # where a pulled directory keeps its manifest
LAID_OUT = "corrigenda-manifest.json"  # the manifest in a prefix that is laid out for others
SIGNATURE = "model.sig"  # beside the manifest of a pulled directory, or in a prefix
_OBJECTS = ("base", "settings", "counts", "gates", "provenance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """An immutable, numbered checkpoint: what it holds and how it came to be.

    parent      digest of the manifest that this one follows; None for the registered base
    base        weights_digest, tokenizer_digest, source of the pristine checkpoint
    files       relative path -> bytes; together a plain Hugging Face directory
    ledger      snapshot of all corrections and their states
    consumed    queue files whose rows are in that ledger
    layer       the golden layer; None for the base
    settings, counts, gates, provenance   JSON-able; what was asked, done, measured, and from what
    created_at  ISO 8601, UTC
    more        keys of the same format that this version does not know; kept as they are
    """

    model: str
    number: int
    files: Mapping[str, BlobRef]
    created_at: str
    parent: str | None = None
    base: Mapping[str, Any] = field(default_factory=dict)
    ledger: BlobRef | None = None
    consumed: BlobRef | None = None
    layer: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    gates: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The manifest's name."""
        return sha256_hex(to_bytes(self))

    @property
    def layers(self) -> tuple[int, ...]:
        """The edited layers, the lowest first; of releases from before there were bands the golden one."""
        editing = self.settings.get("editing")
        named = editing.get("layers") if isinstance(editing, Mapping) else None
        if isinstance(named, list) and named and all(type(layer) is int for layer in named):
            return tuple(named)
        return () if self.layer is None else (self.layer,)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(ref.size for ref in self.files.values())

    @property
    def blobs(self) -> set[BlobRef]:
        """Everything in the store that this release needs, but for its own manifest."""
        return {*self.files.values()} | {ref for ref in (self.ledger, self.consumed) if ref}


def to_bytes(release: Release) -> bytes:
    """The manifest: the same release gives the same bytes."""
    plain = {f.name: getattr(release, f.name) for f in fields(release)}
    plain |= plain.pop("more")
    plain["files"] = {path: ref.to_json() for path, ref in release.files.items()}
    for name in ("ledger", "consumed"):
        plain[name] = plain[name].to_json() if plain[name] else None
    for name in _OBJECTS:
        plain[name] = dict(plain[name])
    body = json.dumps({"format": FORMAT, **plain}, sort_keys=True, indent=1, ensure_ascii=False)
    return body.encode() + b"\n"


def from_bytes(body: bytes) -> Release:
    """Read a manifest that may be hostile.

    Raises CorruptBlobError, which says what is wrong with it; SetupError when a newer version wrote it.
    """
    try:
        if len(body) > _MOST_BYTES:
            raise ValueError(f"it has {len(body):,} bytes, and {_MOST_BYTES:,} at most are read")
        plain = object_of(body)
        _check_format(plain.pop("format", None))
        _check_scalars(plain)
        plain["files"] = {
            safe_path(path): BlobRef.from_json(ref) for path, ref in sorted(plain["files"].items())
        }
        for name in ("ledger", "consumed"):
            plain[name] = BlobRef.from_json(plain[name]) if plain.get(name) else None
        _check_distinct(plain["files"])
        known = {f.name for f in fields(Release)} - {"more"}
        more = {name: plain.pop(name) for name in plain.keys() - known}
        release = Release(**plain, more=more)
        if to_bytes(release) != body:
            raise ValueError("it is not in canonical form")
        return release
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as fault:
        raise CorruptBlobError(
            f"this manifest is not acceptable: {fault}",
            remedy="Do not use this release; roll back, and find out who wrote it",
        ) from None


def check_model(name: str) -> str:
    """`name` itself when it may stand in a key. Raises UsageError."""
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise UsageError(
            "this cannot be the name of a model",
            remedy="Use letters, digits, '-', '_' and '.'",
            model=name,
        )
    return name


def key(model: str, number: int) -> str:
    """Where the manifest of a numbered release lies."""
    return f"models/{check_model(model)}/releases/{number}.json"


def write(store: ObjectStore, release: Release) -> Release:
    """Publish the manifest; nobody sees it before a ref points to it.

    Returns the release as written: when its number is taken by another release, it has the next free one.
    """
    while True:
        body = to_bytes(release)
        blobs.put(store, body)
        name = key(release.model, release.number)
        if store.create(name, body) is not None or store.get(name)[0] == body:
            return release
        release = replace(release, number=release.number + 1)


def read(store: ObjectStore, model: str, number: int) -> Release:
    """The release of that number. Raises NotFoundError, CorruptBlobError."""
    try:
        body, _ = store.get(key(model, number))
    except NotFoundError:
        raise NotFoundError(
            "there is no such release",
            remedy="List the releases with `corrigenda log MODEL`",
            model=model,
            release=number,
        ) from None
    digest = sha256_hex(body)
    # The number says nothing about the bytes, but the blob of the same bytes must be there.
    if store.stat(blobs.key(digest)) is None:
        raise blobs.corrupt(store, digest)
    return _expected(from_bytes(body), model, number)


def by_digest(store: ObjectStore, digest: str) -> Release:
    """The release of that manifest. Raises NotFoundError, CorruptBlobError."""
    return from_bytes(blobs.get(store, digest))


def numbers(store: ObjectStore, model: str) -> list[int]:
    """Numbers of all manifests, candidates that were never promoted included."""
    prefix = f"models/{check_model(model)}/releases/"
    names = (info.key.removeprefix(prefix).removesuffix(".json") for info in store.list(prefix))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def models(store: ObjectStore) -> list[str]:
    """Names of all models that the store knows."""
    return sorted({info.key.split("/")[1] for info in store.list("models/") if info.key.count("/") > 1})


def _expected(release: Release, model: str, number: int) -> Release:
    if (release.model, release.number) != (model, number):
        raise CorruptBlobError(
            "this manifest belongs to another release",
            remedy="Run `corrigenda doctor`",
            wanted=f"{model}@{number}",
            found=f"{release.model}@{release.number}",
        )
    return release


def _check_format(name: object) -> None:
    """A newer format is no forgery: the reader is too old."""
    number = name.removeprefix(_FAMILY) if isinstance(name, str) and name.startswith(_FAMILY) else ""
    if number.isascii() and number.isdigit() and int(number) > int(FORMAT.removeprefix(_FAMILY)):
        raise SetupError(
            "this release was written by a newer corrigenda",
            remedy="Upgrade corrigenda on this host; the releases behind it can still be pulled by number",
            format=name,
            reads=FORMAT,
        )
    if name != FORMAT:
        raise ValueError(f"the format is not {FORMAT}")


def _check_scalars(plain: Mapping[str, Any]) -> None:
    model, number, parent, layer = (plain.get(name) for name in ("model", "number", "parent", "layer"))
    if not isinstance(model, str) or not isinstance(plain.get("created_at"), str):
        raise ValueError("model and created_at must be text")
    if type(number) is not int or not 0 <= number < 1 << 31:
        raise ValueError("the number must be a whole number from 0")
    if parent is not None and not blobs.is_digest(parent):
        raise ValueError("the parent must be a digest")
    if layer is not None and (type(layer) is not int or not 0 <= layer < 1 << 16):
        raise ValueError("the layer must be a whole number")
    if any(not isinstance(plain.get(name, {}), dict) for name in _OBJECTS):
        raise ValueError(f"{', '.join(_OBJECTS)} must be objects")
    for name in ("base", "counts"):
        if any(isinstance(value, dict | list) for value in plain.get(name, {}).values()):
            raise ValueError(f"the values of {name} must be texts and numbers")
    _check_gates(plain.get("gates", {}))
    check_model(model)


def _check_gates(gates: dict[str, Any]) -> None:
    """What pages and cards show of the gates has the types that they expect."""
    number = (int, float, type(None))
    of_types(gates, passed=bool, gates=list, figures=dict)
    for gate in gates.get("gates", ()):
        if not isinstance(gate, dict):
            raise ValueError("a gate must be an object")
        of_types(gate, gate=str, figure=number, threshold=number, passed=bool)
    if any(type(figure) not in number for figure in gates.get("figures", {}).values()):
        raise ValueError("the gates' figures must be numbers")


def safe_path(path: str) -> str:
    """A relative path that stays inside of the directory on every file system, or ValueError."""
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") and part == part.strip() for part in parts)
    printable = all(c.isprintable() and c not in '\\:*?"<>|' for c in path)
    if not plain or not printable or parts[0].casefold() == RESERVED or len(path.encode()) > 512:
        raise ValueError(f"the file name {path!r:.120} is not allowed")
    return path


def _check_distinct(files: Mapping[str, BlobRef]) -> None:
    """No two names that one file system takes for the same, and no file that is also a folder."""
    folded = [path.casefold() for path in files]
    if len(set(folded)) != len(folded):
        raise ValueError("two file names differ in case only")
    folders = {str(parent) for path in folded for parent in PurePosixPath(path).parents}
    if folders & set(folded):
        raise ValueError("a file has the name of a folder")
