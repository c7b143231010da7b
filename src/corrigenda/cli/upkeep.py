"""`corrigenda gc` and `corrigenda doctor`: what may be deleted, what is wrong and how to mend it."""

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

    from corrigenda.api.fleet import Fleet

    age = None if cache_days is None else timedelta(days=cache_days)
    grace = timedelta(days=grace_days)
    found = Fleet.open(config).gc(delete=delete, grace=grace, keep=keep, cache_age=age)
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
    from corrigenda.api import upkeep

    findings = list(upkeep.doctor(config, deep=deep))
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
