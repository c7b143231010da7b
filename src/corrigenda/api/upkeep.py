"""What may be deleted, and what is wrong with a set-up and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

from corrigenda.api.opened import store_of, trusted_by
from corrigenda.config import FleetConfig, load_fleet
from corrigenda.errors import CorrigendaError
from corrigenda.storage.delivery.pull import resolve
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases import gc as collector
from corrigenda.storage.releases import signatures
from corrigenda.storage.releases.doctor import Finding, examine

# What `corrigenda[pipeline]` brings; consumers of releases need none of it.
PIPELINE = ("torch", "transformers", "prefect", "safetensors")


def gc(
    fleet: FleetConfig,
    *,
    delete: bool = False,
    grace: timedelta = timedelta(days=7),
    keep: int | None = None,
    cache_age: timedelta | None = None,
) -> collector.Plan:
    """What no release, ref or cache entry needs any more; removed when `delete` is true. See `Fleet.gc`."""
    policy = collector.Policy(grace=grace, releases=keep, cache_age=cache_age)
    return (collector.collect if delete else collector.plan)(store_of(fleet), policy)


def doctor(config: Path | str = "fleet.toml", *, deep: bool = False) -> Iterator[Finding]:
    """What is right and wrong with a set-up, as it is found.

    deep   read and hash every blob that a release needs
    """
    yield _installed()
    try:
        fleet = load_fleet(Path(config))
    except CorrigendaError as fault:
        yield Finding("fault", str(config), fault.what, fault.remedy)
        return
    yield Finding("ok", str(config), f"{len(fleet.models)} models")
    for name in ("store", "queue"):
        yield from _place(fleet, name, deep)
    if fleet.signing.key or fleet.signing.public_keys:
        yield from _signing(fleet)


def _installed() -> Finding:
    missing = [name for name in PIPELINE if find_spec(name) is None]
    if not missing:
        return Finding("ok", "python", "everything that a run needs is installed")
    what = f"no {', '.join(missing)}: this host can submit, query and pull, not run"
    return Finding("warning", "python", what, "pip install 'corrigenda[pipeline]' to run corrections here")


def _place(fleet: FleetConfig, name: str, deep: bool) -> Iterator[Finding]:
    """The store in full; of the queue, whether it is there."""
    location = getattr(fleet, name)
    try:
        store = open_store(location, root=fleet.root)
    except CorrigendaError as fault:
        yield Finding("fault", f"{name} {location.url}", fault.what, fault.remedy)
        return
    if name == "queue":
        yield Finding("ok", store.url, "is a queue that can be reached")
    else:
        yield from examine(store, deep=deep)


def _signing(fleet: FleetConfig) -> Iterator[Finding]:
    """Whether the key can be used, and whether what is published is signed as this fleet wants it."""
    trusted = trusted_by(fleet)
    try:
        if fleet.signing.key:
            signatures.SigningKey(fleet.root / fleet.signing.key, fleet.signing.password).public_pem()
            yield Finding("ok", str(fleet.signing.key), "is a key that releases can be signed with")
        store = store_of(fleet)
        for entry in fleet.models if trusted else ():
            signatures.require(store, resolve(store, entry.name, "latest"), trusted)
            yield Finding("ok", f"{entry.name}@latest", "is signed with a trusted key")
    except CorrigendaError as fault:
        subject = fault.facts.get("model") or fault.facts.get("key") or "signing"
        yield Finding("fault", str(subject), fault.what, fault.remedy)
