"""Putting checkpoints into the store: the base once, then releases that change one small shard each.

Order of every publication: blobs, manifest, `canary`; after the stored files were read back and
validated, `latest`. Until that last single write nothing has happened, for anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrigenda.errors import NotFoundError, UsageError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.conditional_writes import require_conditional_writes
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.storage.objects.scratch import scratch_folder
from corrigenda.storage.releases import (
    history,
    layouts,
    lease,
    manifests,
    refs,
    safetensors,
    shards,
    signatures,
    whole,
)
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.provenance import statement
from corrigenda.storage.releases.refs import Ref, Seen
from corrigenda.storage.releases.safetensors import RawTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a night made of a model, besides the tensors: everything that goes into its manifest."""

    ledger: BlobRef | None = None
    consumed: BlobRef | None = None
    layer: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    gates: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)  # run id, versions, device: for the provenance


def register_base(
    store: ObjectStore,
    model: str,
    directory: Path,
    *,
    source: str,
    editable: Sequence[str],
    shard_bytes: int = shards.SHARD_BYTES,
    prepare: Callable[[Release], object] = lambda release: None,
    keys: Keyring = NOBODY,
) -> Release:
    """Publish a Hugging Face directory as release 0, re-sharded so that each editable tensor is alone.

    Streams: at most one shard of `shard_bytes` is on the scratch disk, some megabytes are in memory.
    Doing it twice is doing it once.

    editable   names of the tensors that a release may replace, as the model or the checkpoint calls them
    prepare    what must happen to release 0 before `latest` points to it
    keys       release 0 and the ref are signed with these

    Raises UsageError when the name belongs to another base, or when what lies there was not made by this;
    NotFoundError for a missing tensor; SetupError when the store ignores conditional writes.
    """
    require_conditional_writes(store)
    with lease.ensure(store, model):
        return _register(store, model, directory, source, editable, shard_bytes, prepare, keys)


def _register(
    store: ObjectStore,
    model: str,
    directory: Path,
    source: str,
    editable: Sequence[str],
    shard_bytes: int,
    prepare: Callable[[Release], object],
    keys: Keyring,
) -> Release:
    found = safetensors.read_checkpoint(directory)
    alone = list(dict.fromkeys(safetensors.resolve(found, name) for name in editable))
    files, digests = shards.put_shards(store, shards.plan(found, alone, shard_bytes), found)
    files |= {
        path.relative_to(directory).as_posix(): blobs.put_file(store, path)
        for path in shards.other_files(directory)
    }
    base = {
        "source": source,
        "weights_digest": safetensors.weights_digest(digests, found),
        "tokenizer_digest": shards.tokenizer_digest(files),
    }
    seen = refs.read(store, model, "latest")
    if seen.ref is not None:
        return _same_base(manifests.read(store, model, 0), base)
    release = Release(model=model, number=0, files=files, created_at=_now(), base=base)
    release = replace(release, provenance=statement(release, parent=None, details={}))
    written = _write_base(store, release)
    signatures.keep(store, written, keys)
    prepare(written)
    whole.require(store, written)
    refs.advance(store, model, "latest", seen=seen, to=Ref.to(written, "the base was registered"), keys=keys)
    return written


def next_number(store: ObjectStore, model: str) -> int:
    """The number that the next release of a model gets; numbers of unpublished candidates are not reused."""
    return (manifests.numbers(store, model) or [-1])[-1] + 1


def stage(
    store: ObjectStore,
    base: Release,
    files: Mapping[str, BlobRef],
    candidate: Candidate,
    *,
    parent: Release,
    move_canary: bool = True,
    keys: Keyring = NOBODY,
) -> Release:
    """Publish a candidate's manifest and move `canary`.

    When nothing differs from `parent`, `parent` itself is returned and nothing is written.

    base       release 0
    files      what the candidate consists of, stored already: see `replaced_files`
    parent     the release that `latest` pointed to when this night began
    """
    with lease.ensure(store, base.model):
        return _stage(store, base, files, candidate, parent, move_canary, keys)


def _stage(
    store: ObjectStore,
    base: Release,
    files: Mapping[str, BlobRef],
    candidate: Candidate,
    parent: Release,
    move_canary: bool,
    keys: Keyring,
) -> Release:
    release = Release(
        model=base.model,
        number=next_number(store, base.model),
        files=files,
        created_at=_now(),
        parent=parent.digest,
        base=base.base,
        ledger=candidate.ledger,
        consumed=candidate.consumed,
        layer=candidate.layer,
        settings=candidate.settings,
        counts=candidate.counts,
        gates=candidate.gates,
    )
    if unchanged(release, parent):
        return parent
    release = replace(release, provenance=statement(release, parent=parent, details=candidate.details))
    written = manifests.write(store, release)
    if move_canary:
        seen = refs.peek(store, base.model, "canary")
        to = Ref.to(written, "staged for validation")
        refs.advance(store, base.model, "canary", seen=seen, to=to, keys=keys)
    return written


def promote(
    store: ObjectStore,
    release: Release,
    *,
    seen: Seen,
    reason: str = "passed the gates",
    keys: Keyring = NOBODY,
) -> Seen:
    """Point `latest` at a candidate: the one write that publishes weights, ledger and consumed files.

    seen   `latest` as it was when the run began
    keys   the ref is sealed with these; the release is signed already

    The store must hold the release whole: what this host has cached proves nothing.

    Raises CorruptBlobError when it does not; LostRaceError when another run was first, or the lease that the
    caller holds was lost; UnknownOutcomeError, after which nothing may be cleaned up.
    """
    with lease.ensure(store, release.model):
        refs.require_unmoved(store, release.model, "latest", seen)
        whole.require(store, release)
        return refs.advance(store, release.model, "latest", seen=seen, to=Ref.to(release, reason), keys=keys)


def rollback(
    store: ObjectStore, model: str, *, to: int, reason: str = "", keys: Keyring = NOBODY
) -> tuple[Release, Seen]:
    """Move `latest` back to an older release of its own history, recorded in the ref's log.

    Where it is there already, nothing is written.
    Ledger and consumed files move with it: corrections that later releases took in wait in the queue again.
    Where releases of the model are laid out for other readers, the older one is, too, before the ref moves.
    A damaged `latest` is repaired so: it may point to any release that is whole, for it tells no history.

    keys   where there are some, one of them must have signed the release, and the ref is sealed with them:
           hosts would refuse it otherwise

    Raises NotFoundError when that release was never published, SignatureError and SetupError when hosts would
    refuse it, CorruptBlobError when it is not whole any more, BusyError when a run is at work; LostRaceError.
    """
    with lease.ensure(store, model):
        seen = refs.peek(store, model, "latest")
        release = manifests.read(store, model, to)
        # A ref that is damaged, or that somebody else wrote, tells no history.
        if seen.ref is None and not seen.is_damaged:
            refs.require(store, model, "latest")
        ours = seen.ref is not None and refs.is_sealed(seen.ref, model, "latest", keys)
        if ours:
            _require_published(store, release)
        if keys.checks:
            keys.require_signers()
            signatures.require(store, release, keys)
        if ours and seen.ref and release.digest == seen.ref.manifest:
            return release, seen
        whole.revive(store, release)
        whole.require(store, release, read=0)
        if layouts.in_use(store, model):
            layouts.assemble(store, release)
        said = f"rolled back from {seen.ref.release if seen.ref else 'a damaged ref'} to {to}"
        said += f": {reason}" if reason else ""
        return release, refs.advance(store, model, "latest", seen=seen, to=Ref.to(release, said), keys=keys)


def _require_published(store: ObjectStore, release: Release) -> None:
    published = {ref.manifest for ref in refs.log(store, release.model, "latest")}
    if release.digest not in published | {r.digest for r in history.of_model(store, release.model)}:
        raise NotFoundError(
            "that release was a candidate and never published",
            remedy="Pick one that `corrigenda log MODEL` lists",
            model=release.model,
            release=release.number,
        )


def read_tensor(store: ObjectStore, release: Release, name: str) -> RawTensor:
    """One tensor of a stored release, verified. Raises NotFoundError, CorruptBlobError."""
    where, actual = _shard_of(store, release, name)
    with scratch_folder() as scratch:
        path = scratch / "shard"
        blobs.fetch(store, release.files[where], path)
        return safetensors.read_header(path)[actual].read()


def unchanged(release: Release, parent: Release) -> bool:
    """Whether a candidate says nothing that its parent does not say: it need not be published."""
    same = ("files", "ledger", "consumed", "layer", "settings", "base")
    return all(getattr(release, name) == getattr(parent, name) for name in same)


def _same_base(there: Release, base: Mapping[str, Any]) -> Release:
    for name in ("weights_digest", "tokenizer_digest"):
        if there.base.get(name) != base[name]:
            raise UsageError(
                "the model's name belongs to another base already",
                remedy="Give the new base another name in fleet.toml: a release is made from its own base",
                model=there.model,
                registered=there.base.get("source"),
                offered=base["source"],
                differs=name,
            )
    return there


def _write_base(store: ObjectStore, release: Release) -> Release:
    """Release 0 and no other number; a killed registration's manifest is taken over, when it is the same."""
    blobs.put(store, manifests.to_bytes(release))
    if store.create(manifests.key(release.model, 0), manifests.to_bytes(release)) is not None:
        return release
    there = _same_base(manifests.read(store, release.model, 0), release.base)
    # It is signed as ours: nothing in it may be another's but the time.
    ours = replace(release, created_at=there.created_at, provenance={})
    ours = replace(ours, provenance=statement(ours, parent=None, details={}))
    if ours != there:
        raise UsageError(
            "something lies where the base's manifest belongs, and it is not what this would write",
            remedy="No ref points to it: delete it, and find out who wrote it; after an upgrade it may be a "
            "registration that was killed before",
            key=manifests.key(release.model, 0),
        )
    return there


def _shard_of(store: ObjectStore, release: Release, name: str) -> tuple[str, str]:
    """The file that holds a tensor, and the tensor's name in it."""
    weight_map = safetensors.weight_map_of(blobs.get(store, release.files[safetensors.INDEX].digest))
    actual = safetensors.resolve(weight_map, name)
    return weight_map[actual], actual


def replaced_files(
    store: ObjectStore, base: Release, replaced: Mapping[str, RawTensor]
) -> dict[str, BlobRef]:
    """The base's files with one new shard, stored, for each replaced tensor; publishes nothing."""
    out = dict(base.files)
    for name, tensor in replaced.items():
        where, actual = _shard_of(store, base, name)
        body = safetensors.shard_bytes({actual: tensor})
        header = len(body) - tensor.size
        # The header says dtype, shape and that the tensor is alone; both were written by the same code.
        if store.get_range(blobs.key(base.files[where].digest), 0, header) != body[:header]:
            raise UsageError(
                "a replaced tensor must have the base's dtype and shape, and a shard of its own",
                remedy="Cast to the base's dtype; register with the tensor among `editable`",
                tensor=name,
                shard=where,
                dtype=tensor.dtype,
                shape=tensor.shape,
            )
        out[where] = blobs.put(store, body)
    return out


def _now() -> str:
    return datetime.now(UTC).isoformat()
