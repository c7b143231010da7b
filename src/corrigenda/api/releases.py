"""Releases at their readers: pulled, checked, exported, rolled back, signed, pushed to a hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.api.opened import trusted_by
from corrigenda.api.values import Card, Move, Signed
from corrigenda.config import FleetConfig
from corrigenda.errors import CorruptBlobError, UsageError
from corrigenda.facts import Progress
from corrigenda.models.families import keeps_transposed
from corrigenda.models.sources import cache_home, hub_id_of
from corrigenda.storage.delivery import pull as pulling
from corrigenda.storage.delivery.pull import Pulled, Verified, parse_target
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import Keyring, SigningKey
from corrigenda.storage.releases import layouts, manifests, publish, refs, signatures
from corrigenda.storage.releases.manifests import Release
from corrigenda.stored import UnreadableError, object_of

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
    verify: bool = True,
    allow_older: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Make `dest` the release `MODEL[@REF]`; see `corrigenda.pull`."""
    model, ref = parse_target(target)
    keys = Keyring(trusted=trusted) if verify else None
    return pulling.pull(
        store, model, ref, dest, cache, repair=repair, keys=keys, allow_older=allow_older, progress=progress
    )


def check(target: str, dest: Path, trusted: Sequence[Path] = ()) -> Verified:
    """Verify a pulled directory against its own manifest, and that it is `target`; needs no store."""
    found = pulling.check(dest, Keyring(trusted=trusted))
    release, (model, ref) = found.release, parse_target(target)
    if release.model == model and (not ref.isdigit() or int(ref) == release.number):
        return found
    other = f"the directory holds {release.model}@{release.number}"
    return replace(found, faults=(*found.faults, other))


def export_lora(
    store: ObjectStore,
    target: str,
    dest: Path,
    trusted: Sequence[Path] = (),
    *,
    allow_older: bool = False,
) -> Adapter:
    """Write a release as a PEFT adapter for its base; where there are keys, both must be signed."""
    from corrigenda.storage.delivery import lora

    keys = Keyring(trusted=trusted)
    release = pulling.find(store, *parse_target(target), keys, allow_older=allow_older).release
    config = _config_of(store, release)
    transposed = keeps_transposed(str(config.get("model_type")))
    return lora.export(store, release, dest, stored_transposed=transposed, keys=keys)


def _config_of(store: ObjectStore, release: Release) -> dict[str, Any]:
    """The model's configuration. Raises CorruptBlobError when the release has none that can be read."""
    try:
        return object_of(blobs.get(store, release.files["config.json"].digest))
    except (KeyError, UnreadableError) as fault:
        raise CorruptBlobError(
            "the release's config.json cannot be read",
            remedy="Pull another release",
            model=release.model,
            release=release.number,
            cause=str(fault)[:200],
        ) from None


def rollback(fleet: FleetConfig, store: ObjectStore, model: str, *, to: int, reason: str = "") -> Move:
    """Move `latest` back to an older release, at once and recorded."""
    from corrigenda.api.books import move

    _, seen = publish.rollback(store, model, to=to, reason=reason, keys=Keyring.of(fleet))
    assert seen.ref is not None
    return move(store, seen.ref)


def sign(
    fleet: FleetConfig, store: ObjectStore, target: str, key: Path | None = None, *, added: bool = False
) -> Signed:
    """Vouch for what somebody published, or published before there was a key, or with another one.

    A number: that release. `latest` or `canary`: the base, the release, and that the ref names it.

    added   sign also a release that brings files which its base has not
    """
    keys = _signers(fleet, key)
    release, pointer = pulling.named(store, *parse_target(target))
    base = manifests.read(store, release.model, 0)
    strange = sorted(release.files.keys() - base.files.keys())
    if strange and not added:
        raise UsageError(
            "the release brings files which its base has not: no run of ours makes such a release",
            remedy="Look at them; --added signs all the same",
            release=f"{release.model}@{release.number}",
            files=strange[:10],
        )
    named = [release, base] if pointer else [release]
    made = [signatures.keep(store, one, keys) for one in named]
    if pointer:
        made.append(_seal(store, release.model, parse_target(target)[1], keys))
    if layouts.is_whole(store, release):
        layouts.assemble(store, release)
    (first, *_) = keys.public
    return Signed(release.model, release.number, release.digest, signatures.key(release, first), any(made))


def _signers(fleet: FleetConfig, key: Path | None) -> Keyring:
    own = Keyring.of(fleet)
    if key is not None:
        return Keyring([SigningKey(key, fleet.signing.password)], valid=own.valid)
    if not own.signers:
        raise UsageError(
            "there is no key to sign with", remedy="Give --key, or set `key` under [signing] in fleet.toml"
        )
    own.require_signers()
    return Keyring(own.signers, valid=own.valid)


def _seal(store: ObjectStore, model: str, name: str, keys: Keyring) -> bool:
    """Whether the ref had to be sealed: not where it bears a good seal of each key."""
    seen = refs.read(store, model, name)
    assert seen.ref is not None
    if all(refs.is_sealed(seen.ref, model, name, Keyring([one])) for one in keys.signers):
        return False
    refs.confirm(store, model, name, seen=seen, keys=keys)
    return True


def card(
    fleet: FleetConfig, store: ObjectStore, target: str, repository: str, base_model: str | None = None
) -> tuple[Release, Card]:
    """What a push would bring. Where the fleet names keys, one of them must have signed the release."""
    from corrigenda.storage.delivery import card as cards
    from corrigenda.storage.delivery import hub

    for name in (repository, base_model):
        if name is not None:
            hub.check_repository(name)
    keys = Keyring(trusted=trusted_by(fleet))
    release = pulling.find(store, *parse_target(target), keys).release
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
