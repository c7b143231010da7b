"""`corrigenda gc`, `doctor` and `unlock`: what may be deleted, what is wrong and how to mend it."""

from __future__ import annotations

import json as jsonlib
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda import terminal
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

if TYPE_CHECKING:
    from corrigenda.api.values import Finding

COLORS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def register(app: typer.Typer) -> None:
    app.command("gc")(gc)
    app.command("doctor")(doctor)
    app.command("unlock")(unlock)


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
    wait_s: Annotated[
        float, typer.Option(min=0, help="Seconds between marking and deleting: late writers save theirs.")
    ] = 10.0,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Find, and with --delete remove, what no release, ref or cache entry needs any more.

    Release 0 and what the refs point to always stay. Refuses to delete while a run is going on. Of a model
    whose refs are damaged, all stays.

    Examples:
      corrigenda gc
      corrigenda gc --keep 30 --cache-days 90 --delete
    """
    from datetime import timedelta

    from corrigenda.api.fleet import Fleet

    age = None if cache_days is None else timedelta(days=cache_days)
    grace = timedelta(days=grace_days)
    wait = timedelta(seconds=wait_s)
    found = Fleet.open(config).gc(delete=delete, grace=grace, keep=keep, cache_age=age, wait=wait)
    if json:
        said = {"deleted": delete, "objects": len(found.doomed), "bytes": found.doomed_bytes}
        more = {"kept_blobs": found.kept_blobs, "damaged": dict(found.damaged)}
        print(jsonlib.dumps(said | more | {"keys": [info.key for info in found.doomed]}))
        return
    for info in found.doomed:
        print(f"{info.size:>14,}  {info.key}")
    verb = "deleted" if delete else "can be deleted (nothing was; use --delete)"
    print(
        f"{len(found.doomed):,} objects, {found.doomed_bytes:,} bytes {verb}; {found.kept_blobs:,} blobs stay"
    )
    for model, fault in found.damaged.items():
        typer.echo(f"warning: {model} is damaged, so that all of it stays: {fault}", err=True)


def unlock(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Also when the run is a process that is alive on this machine.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
) -> None:
    """End the lease of a run that is known to be dead; it ends by itself some minutes after its last sign.

    A run that is alive after all publishes nothing any more, and loses nothing: its queue files wait.

    Example:
      corrigenda unlock smollm2-135m
    """
    from corrigenda.api.fleet import Fleet

    owner = Fleet.open(config).unlock(model, force=force)
    print(f"{model}: the lease of {owner} is over" if owner else f"{model}: nobody holds a lease")


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Read and hash every blob that a release needs.")
    ] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="First repair refs and manifests from what the store still tells.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Say what is wrong with this set-up and how to mend it; exit code 7 when something is.

    With --mend, a damaged ref is pointed to the newest release that is whole, and a manifest of which one of
    its two copies is damaged is written anew from the other.

    Examples:
      corrigenda doctor --deep
      corrigenda doctor --mend
    """
    from corrigenda.api import upkeep

    findings = list(upkeep.doctor(config, deep=deep, mend=mend))
    if json:
        print(jsonlib.dumps([{name: getattr(f, name) for name in f.__slots__} for f in findings]))
    else:
        _show(findings)
    if any(finding.level == "fault" for finding in findings):
        raise typer.Exit(7)


def _show(findings: list[Finding]) -> None:
    from rich.markup import escape

    console = terminal.console(soft_wrap=True, highlight=False)
    for finding in findings:
        remedy = f"\n        {escape(finding.remedy)}" if finding.remedy else ""
        mark = f"[{COLORS[finding.level]}]{finding.level:7}[/]"
        console.print(f"{mark} {escape(finding.subject)}: {escape(finding.what)}{remedy}")
