"""`corrigenda gc` and `corrigenda doctor`: what may be deleted, what is wrong and how to mend it."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda import terminal
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

if TYPE_CHECKING:
    from corrigenda.config import Fleet
    from corrigenda.storage.releases.doctor import Finding

# What `corrigenda[pipeline]` brings; consumers of releases need none of it.
PIPELINE = ("torch", "transformers", "prefect", "safetensors")
COLORS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def register(app: typer.Typer) -> None:
    app.command("gc")(gc)
    app.command("doctor")(doctor)


def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it, only say what would go.")
    ] = False,
    grace_days: Annotated[float, typer.Option(min=0, help="Nothing younger is touched.")] = 7.0,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Newest releases to keep per ref [default: the whole history].")
    ] = None,
    cache_days: Annotated[
        float | None, typer.Option(min=0, help="Cache entries older than this go, too [default: none].")
    ] = None,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Find, and with --delete remove, what no release, ref or cache entry needs any more.

    Release 0 and what the refs point to always stay. Refuses to delete while a run is going on.

    Examples:
      corrigenda gc
      corrigenda gc --keep 30 --cache-days 90 --delete
    """
    from datetime import timedelta

    from corrigenda.config import load_fleet
    from corrigenda.storage.objects.opening import open_store
    from corrigenda.storage.releases import gc as collector

    fleet = load_fleet(config)
    store = open_store(fleet.store, root=fleet.root)
    age = None if cache_days is None else timedelta(days=cache_days)
    policy = collector.Policy(grace=timedelta(days=grace_days), releases=keep, cache_age=age)
    found = collector.collect(store, policy) if delete else collector.plan(store, policy)
    if json:
        said = {"deleted": delete, "objects": len(found.doomed), "bytes": found.doomed_bytes}
        print(jsonlib.dumps(said | {"kept_blobs": found.kept_blobs, "keys": [i.key for i in found.doomed]}))
        return
    for info in found.doomed:
        print(f"{info.size:>14,}  {info.key}")
    verb = "deleted" if delete else "can be deleted (nothing was; use --delete)"
    print(
        f"{len(found.doomed):,} objects, {found.doomed_bytes:,} bytes {verb}; {found.kept_blobs:,} blobs stay"
    )


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Read and hash every blob that a release needs.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Say what is wrong with this set-up and how to mend it; exit code 7 when something is.

    Example:
      corrigenda doctor --deep
    """
    findings = list(_findings(config, deep))
    if json:
        print(jsonlib.dumps([{name: getattr(f, name) for name in f.__slots__} for f in findings]))
    else:
        _show(findings)
    if any(finding.level == "fault" for finding in findings):
        raise typer.Exit(7)


def _findings(config: Path, deep: bool) -> Iterator[Finding]:
    from corrigenda.config import load_fleet
    from corrigenda.errors import CorrigendaError
    from corrigenda.storage.releases.doctor import Finding

    yield from _installed()
    try:
        fleet = load_fleet(config)
    except CorrigendaError as fault:
        yield Finding("fault", str(config), fault.what, fault.remedy)
        return
    yield Finding("ok", str(config), f"{len(fleet.models)} models")
    for name in ("store", "queue"):
        yield from _place(fleet, name, deep)
    if fleet.signing.key or fleet.signing.public_keys:
        yield from _signing(fleet)


def _installed() -> Iterator[Finding]:
    from importlib.util import find_spec

    from corrigenda.storage.releases.doctor import Finding

    missing = [name for name in PIPELINE if find_spec(name) is None]
    if missing:
        what = f"no {', '.join(missing)}: this host can submit, query and pull, not run"
        yield Finding("warning", "python", what, "pip install 'corrigenda[pipeline]' to run corrections here")
    else:
        yield Finding("ok", "python", "everything that a run needs is installed")


def _place(fleet: Fleet, name: str, deep: bool) -> Iterator[Finding]:
    """The store in full; of the queue, whether it is there."""
    from corrigenda.errors import CorrigendaError
    from corrigenda.storage.objects.opening import open_store
    from corrigenda.storage.releases.doctor import Finding, examine

    location = getattr(fleet, name)
    try:
        store = open_store(location, root=fleet.root)
    except CorrigendaError as fault:
        yield Finding("fault", f"{name} {location.url}", fault.what, fault.remedy)
        return
    if name == "queue":
        yield Finding("ok", store.url, "is a queue that can be reached")
        return
    yield from examine(store, deep=deep)


def _signing(fleet: Fleet) -> Iterator[Finding]:
    """Whether the key can be used, and whether what is published is signed as this fleet wants it."""
    from corrigenda.errors import CorrigendaError
    from corrigenda.storage.delivery.pull import resolve
    from corrigenda.storage.objects.opening import open_store
    from corrigenda.storage.releases import signatures
    from corrigenda.storage.releases.doctor import Finding

    trusted = [fleet.root / path for path in fleet.signing.public_keys]
    try:
        if fleet.signing.key:
            signatures.SigningKey(fleet.root / fleet.signing.key, fleet.signing.password).public_pem()
            yield Finding("ok", str(fleet.signing.key), "is a key that releases can be signed with")
        store = open_store(fleet.store, root=fleet.root)
        for entry in fleet.models if trusted else ():
            signatures.require(store, resolve(store, entry.name, "latest"), trusted)
            yield Finding("ok", f"{entry.name}@latest", "is signed with a trusted key")
    except CorrigendaError as fault:
        subject = fault.facts.get("model") or fault.facts.get("key") or "signing"
        yield Finding("fault", str(subject), fault.what, fault.remedy)


def _show(findings: list[Finding]) -> None:
    from rich.markup import escape

    console = terminal.console(soft_wrap=True, highlight=False)
    for finding in findings:
        remedy = f"\n        {escape(finding.remedy)}" if finding.remedy else ""
        mark = f"[{COLORS[finding.level]}]{finding.level:7}[/]"
        console.print(f"{mark} {escape(finding.subject)}: {escape(finding.what)}{remedy}")
