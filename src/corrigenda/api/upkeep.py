"""What may be deleted, and what is wrong with a set-up and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

from corrigenda.api.opened import store_of, trusted_by
from corrigenda.config import FleetConfig, load_fleet
from corrigenda.errors import BusyError, CorrigendaError
from corrigenda.storage.delivery.pull import find
from corrigenda.storage.objects.keys import Keyring
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases import gc as collector
from corrigenda.storage.releases import lease, manifests
from corrigenda.storage.releases import mend as mending
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
    wait: timedelta = timedelta(seconds=10),
) -> collector.Plan:
    """What no release, ref or cache entry needs any more; removed when `delete` is true. See `Fleet.gc`."""
    policy = collector.Policy(grace=grace, releases=keep, cache_age=cache_age, wait=wait)
    return (collector.collect if delete else collector.plan)(store_of(fleet), policy)


def unlock(fleet: FleetConfig, model: str, *, force: bool = False) -> str | None:
    """End the lease of a run that is known to be dead; whose it was. See `Fleet.unlock`."""
    store, name = store_of(fleet), fleet.model(model).name
    holder = lease.read(store, name)
    if holder is not None and holder.is_alive_here and not force:
        raise BusyError(
            "the run that holds this lease is alive on this machine",
            remedy="Wait for it, stop it, or use --force",
            model=name,
            owner=holder.owner,
            pid=holder.pid,
        )
    ended = lease.unlock(store, name) if holder else None
    return ended.owner if ended else None


def doctor(config: Path | str = "fleet.toml", *, deep: bool = False, mend: bool = False) -> Iterator[Finding]:
    """What is right and wrong with a set-up, as it is found.

    deep   read and hash every blob that a release needs
    mend   first repair refs and manifests from what the store still tells
    """
    yield _installed()
    try:
        fleet = load_fleet(Path(config))
    except CorrigendaError as fault:
        yield Finding("fault", str(config), fault.what, fault.remedy)
        return
    yield Finding("ok", str(config), f"{len(fleet.models)} models")
    if mend:
        yield from _mended(fleet)
    for name in ("store", "queue"):
        yield from _place(fleet, name, deep)
    if fleet.signing.key or fleet.signing.public_keys:
        yield from _signing(fleet)


def _mended(fleet: FleetConfig) -> Iterator[Finding]:
    """What was repaired of every model in the store; what cannot be is told by the findings that follow."""
    try:
        store = store_of(fleet)
        names = manifests.models(store)
    except CorrigendaError:
        return  # said with the store's own findings
    for model in names:
        try:
            for done in mending.mend(store, model, Keyring.of(fleet)):
                yield Finding("ok", "mended", done)
        except CorrigendaError as fault:
            yield Finding("fault", model, f"cannot be mended: {fault.what}", fault.remedy)


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
    keys = Keyring(trusted=trusted_by(fleet))
    try:
        for signer in Keyring.of(fleet).signers:
            signer.load()
            yield Finding("ok", signer.path.name, "is a key that releases can be signed with")
        store = store_of(fleet)
        for entry in fleet.models if keys.checks else ():
            for ref in ("0", "latest"):
                find(store, entry.name, ref, keys)
                yield Finding("ok", f"{entry.name}@{ref}", "is signed with a trusted key")
    except CorrigendaError as fault:
        subject = fault.facts.get("model") or fault.facts.get("key") or "signing"
        yield Finding("fault", str(subject), fault.what, fault.remedy)
