"""Releases at their readers: pulled, checked, exported, rolled back, signed, pushed to a hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from corrigenda.api.opened import trusted_by
from corrigenda.api.values import Card, Move, Signed
from corrigenda.config import FleetConfig
from corrigenda.errors import UsageError
from corrigenda.models.families import keeps_transposed
from corrigenda.models.sources import cache_home, hub_id_of
from corrigenda.storage.delivery import pull as pulling
from corrigenda.storage.delivery.download import Progress
from corrigenda.storage.delivery.pull import Checked, Pulled, parse_target, resolve
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import layouts, publish, signatures
from corrigenda.storage.releases.manifests import Release

if TYPE_CHECKING:
    from corrigenda.storage.delivery.hub import Pushed
    from corrigenda.storage.delivery.lora import Adapter


def pull(
    store: ObjectStore,
    target: str,
    dest: Path,
    *,
    cache: Path | None = None,
    repair: bool = False,
    trusted: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Pulled:
    """Make `dest` the release `MODEL[@REF]`; see `corrigenda.pull`."""
    model, ref = parse_target(target)
    return pulling.pull(store, model, ref, dest, cache, repair=repair, trusted=trusted, progress=progress)


def check(target: str, dest: Path, trusted: Sequence[Path] = ()) -> Checked:
    """Verify a pulled directory against its own manifest, and that it is `target`; needs no store."""
    found = pulling.check(dest, trusted)
    release, (model, ref) = found.release, parse_target(target)
    if release.model == model and (not ref.isdigit() or int(ref) == release.number):
        return found
    other = f"the directory holds {release.model}@{release.number}"
    return replace(found, faults=(*found.faults, other))


def export_lora(store: ObjectStore, target: str, dest: Path, trusted: Sequence[Path] = ()) -> Adapter:
    """Write a release as a PEFT adapter for its base."""
    from corrigenda.storage.delivery import lora

    release = resolve(store, *parse_target(target))
    if trusted:
        signatures.require(store, release, trusted)
    config = json.loads(blobs.get(store, release.files["config.json"].digest))
    transposed = keeps_transposed(str(config.get("model_type")))
    return lora.export(store, release, dest, stored_transposed=transposed)


def rollback(store: ObjectStore, model: str, *, to: int, reason: str = "") -> Move:
    """Move `latest` back to an older release, at once and recorded."""
    from corrigenda.api.books import move

    _, seen = publish.rollback(store, model, to=to, reason=reason)
    assert seen.ref is not None
    return move(store, seen.ref)


def sign(fleet: FleetConfig, store: ObjectStore, target: str, key: Path | None = None) -> Signed:
    """Sign a release that was published without a key, or with another one."""
    release = resolve(store, *parse_target(target))
    chosen = key or (fleet.signing.key and fleet.root / fleet.signing.key)
    if chosen is None:
        raise UsageError(
            "there is no key to sign with", remedy="Give --key, or set `key` under [signing] in fleet.toml"
        )
    made = signatures.keep(store, release, signatures.SigningKey(chosen, fleet.signing.password))
    if layouts.is_whole(store, release):
        layouts.assemble(store, release)
    return Signed(release.model, release.number, release.digest, signatures.key(release), made)


def card(
    fleet: FleetConfig, store: ObjectStore, target: str, repository: str, base_model: str | None = None
) -> tuple[Release, Card]:
    """What a push would bring. Where the fleet names keys, one of them must have signed the release."""
    from corrigenda.storage.delivery import card as cards
    from corrigenda.storage.delivery import hub

    for name in (repository, base_model):
        if name is not None:
            hub.check_repository(name)
    release = resolve(store, *parse_target(target))
    if keys := trusted_by(fleet):
        signatures.require(store, release, keys)
    base = base_model or hub_id_of(str(release.base.get("source")))
    text = cards.card_of(store, release, base_model=base)
    return release, Card(release.model, release.number, len(release.files), release.size, text)


def push(
    fleet: FleetConfig,
    store: ObjectStore,
    target: str,
    repository: str,
    *,
    base_model: str | None = None,
    private: bool = False,
) -> Pushed:
    """Put a release and its card on a Hugging Face hub, in one commit with a tag."""
    from corrigenda.storage.delivery import hub

    release, told = card(fleet, store, target, repository, base_model)
    api = hub.client()
    place = cache_home() / "pushed" / release.model
    pulling.materialise(store, release, place, cache_home() / "blobs")
    return hub.push(api, release, place, told.text, repository, private=private)
