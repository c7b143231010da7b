"""`corrigenda status`: where the fleet stands, and what waits."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli import history, monitoring
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON
from corrigenda.cli.tables import pairs, print_table

if TYPE_CHECKING:
    from corrigenda.api.values import FleetStatus, ModelStatus


_COLUMNS = ("model", "latest", "canary", "since", "layer", "last night", "held", "ledger", "waiting")


def register(app: typer.Typer) -> None:
    app.command("status")(status)
    history.register(app)


def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model only.")] = None,
    rejects: Annotated[bool, typer.Option("--rejects", help="List every rejected row.")] = False,
    max_age: Annotated[
        str | None,
        typer.Option(
            "--max-age",
            metavar="26h",
            help="Exit code 6 unless every model had a good night since, and last.",
        ),
    ] = None,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Metrics in Prometheus' text format on stdout.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """The fleet at a glance: releases, last nights, holds, ledgers, what waits, and what was rejected.

    Examples:
      corrigenda status
      corrigenda status smollm2-135m --json
      corrigenda status --rejects
      corrigenda status --max-age 26h
      corrigenda status --prometheus > /var/lib/node_exporter/corrigenda.prom
    """
    from corrigenda.api.fleet import Fleet

    longest = monitoring.age(max_age) if max_age else None
    found = Fleet.open(config).status(model)
    if prometheus:
        print(monitoring.prometheus(found), end="")
    elif json:
        print(jsonlib.dumps(_as_json(found, rejects), ensure_ascii=False, default=str))
    else:
        _show(found, rejects)
    wrong = list(monitoring.amiss(found, longest)) if longest else []
    for line in wrong:
        typer.echo(f"warning: {line}", err=True)
    if wrong:
        raise typer.Exit(6)


def _as_json(found: FleetStatus, every: bool) -> dict[str, Any]:
    problems = [{"file": p.file, "reason": p.reason, "detail": p.detail} for p in found.problems]
    said = {"models": [asdict(one) for one in found.models], "damaged": found.damaged, "problems": problems}
    refused = [asdict(one) for one in found.rejects]
    return said | {"rejected": len(refused)} | ({"rejects": refused} if every else {})


def _show(found: FleetStatus, every: bool) -> None:
    print_table(_COLUMNS, map(_row, found.models))
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    for name, fault in found.damaged.items():
        typer.echo(f"warning: {name}: {fault}", err=True)
    for problem in found.problems:
        detail = problem.detail.rstrip(".") or "left alone"
        typer.echo(f"warning: {problem.file}: {problem.reason}, {detail}. {problem.remedy}", err=True)
    if found.rejects:
        print(f"{len(found.rejects)} rejected: {pairs(Counter(one.reason for one in found.rejects))}")
    if every and found.rejects:
        columns = ["file", "row", "correction_id", "reason", "column", "value", "remedy"]
        print_table(columns, map(asdict, found.rejects))


def _row(one: ModelStatus) -> dict[str, Any]:
    held = {state: count for state, count in one.ledger.items() if count}
    shown = {"since": (one.since or "")[:19], "waiting": one.waiting_rows, "ledger": pairs(held)}
    return asdict(one) | shown | {"last night": _night(one)}


def _night(one: ModelStatus) -> str:
    if one.night is None:
        return ""
    return f"{one.night.status} {monitoring.told(datetime.now(UTC) - one.night.ended_at)} ago"
