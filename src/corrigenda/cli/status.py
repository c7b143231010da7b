"""`corrigenda status`: where the fleet stands, and what waits."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli import history
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON
from corrigenda.cli.tables import pairs, print_table

if TYPE_CHECKING:
    from corrigenda.storage.corrections.intake import Intake
    from corrigenda.storage.objects.interface import ObjectStore
    from corrigenda.storage.releases.snapshots import Snapshot

Row = Mapping[str, Any]


def register(app: typer.Typer) -> None:
    app.command("status")(status)
    history.register(app)


def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model only.")] = None,
    rejects: Annotated[bool, typer.Option("--rejects", help="List every rejected row.")] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Refs, ledger counts, what waits in the queue, what was rejected, and files that cannot be read.

    Examples:
      corrigenda status
      corrigenda status smollm2-135m --json
      corrigenda status --rejects
    """
    from corrigenda.config import load_fleet

    fleet = load_fleet(config)
    names = [fleet.model(model).name] if model else [entry.name for entry in fleet.models]
    state = history.open_state(fleet)
    snapshots, damaged = _snapshots(state, names)
    found = history.waiting(fleet, state, {name: one.consumed for name, one in snapshots.items()})
    rows = [_model_row(state, name, snapshots[name], found) for name in snapshots]
    refused = history.rejects(state, found)
    if json:
        problems = [{"file": p.file, "reason": p.reason, "detail": p.detail} for p in found.problems]
        said = {"models": rows, "damaged": damaged, "problems": problems, "rejected": len(refused)}
        print(jsonlib.dumps(said | ({"rejects": refused} if rejects else {}), ensure_ascii=False))
        return
    _print_status(rows, damaged, found, refused, rejects)


def _snapshots(state: ObjectStore, names: Sequence[str]) -> tuple[dict[str, Snapshot], dict[str, str]]:
    """The models' present ledgers; one that is damaged does not hide the others."""
    from corrigenda.errors import CorruptBlobError, NotFoundError
    from corrigenda.storage.releases import snapshots

    found: dict[str, Snapshot] = {}
    damaged: dict[str, str] = {}
    for name in names:
        try:
            found[name] = snapshots.current(state, name)
        except (CorruptBlobError, NotFoundError) as fault:
            damaged[name] = str(fault)
    return found, damaged


def _model_row(state: ObjectStore, name: str, snapshot: Snapshot, found: Intake) -> dict[str, Any]:
    from corrigenda.storage.releases import refs

    ref, canary = snapshot.seen.ref, refs.read(state, name, "canary").ref
    new = found.of(name)
    return {
        "model": name,
        "latest": ref.release if ref else None,
        "canary": canary.release if canary else None,
        "since": ref.moved_at if ref else None,
        "layer": snapshot.release.layer if snapshot.release else None,
        "ledger": snapshot.ledger.counts,
        "waiting_rows": new.rows.num_rows,
        "waiting_files": len(new.files),
    }


def _print_status(
    rows: Sequence[Row], damaged: Mapping[str, str], found: Intake, refused: Sequence[Row], every: bool
) -> None:
    shown = [
        {**row}
        | {"since": (row["since"] or "")[:19], "waiting": row["waiting_rows"]}
        | {"ledger": pairs({state: count for state, count in row["ledger"].items() if count})}
        for row in rows
    ]
    print_table(["model", "latest", "canary", "since", "layer", "ledger", "waiting"], shown)
    for name, fault in damaged.items():
        typer.echo(f"warning: {name}: {fault}", err=True)
    for problem in found.problems:
        typer.echo(
            f"warning: {problem.file}: {problem.reason}, {problem.detail.rstrip('.') or 'left alone'}."
            f" {problem.remedy}",
            err=True,
        )
    if refused:
        print(f"{len(refused)} rejected: {pairs(Counter(row['reason'] for row in refused))}")
    if every and refused:
        print_table(["file", "row", "correction_id", "reason", "column", "value", "remedy"], refused)
