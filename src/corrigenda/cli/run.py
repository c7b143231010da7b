"""`corrigenda run`: a correction run now, by the same flow that the schedule starts, or plainly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from corrigenda import terminal
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

if TYPE_CHECKING:
    from corrigenda.api.values import FleetRun, ModelRun


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Pipeline")(run)


def run(
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this model; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is new, change nothing.")] = False,
    layout: Annotated[
        Literal["hf"] | None,
        typer.Option(
            "--layout",
            help="hf: publish each release as a whole Hugging Face directory in the store, too, for readers "
            "without corrigenda; besides what fleet.toml says.",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="The same stages without orchestrator and server.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Correct the models of the fleet now: ingest, localize, edit, validate, publish.

    Examples:

      corrigenda run

      corrigenda run --model smollm2-135m --dry-run

      corrigenda run --layout hf

      corrigenda run --plain
    """
    from corrigenda.api.fleet import Fleet

    layouts = [layout] if layout else []
    done = Fleet.open(config).run(model, dry_run=dry_run, layouts=layouts, orchestrated=not plain)
    if as_json:
        typer.echo(json.dumps(done.as_json(), indent=2, default=str))
    else:
        show(done)
    raise typer.Exit(done.exit_code)


def show(done: FleetRun) -> None:
    """One line a model, then what needs attention."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "status", "release", "layer", "new", "active", "quarantined", "rejected"):
        table.add_column(heading)
    for row in done.models:
        table.add_row(*("" if cell is None else str(cell) for cell in _cells(row)))
    console = terminal.console(soft_wrap=True)
    console.print(table)
    for row in done.failed:
        console.print(f"{row.model}: {row.error}", style="red", markup=False)
    for row in done.models:
        for line in row.remarks:
            console.print(f"{row.model}: {line}", style="yellow", markup=False)
    if done.rejected:
        console.print(f"{done.rejected} rows were rejected; see `corrigenda status`", style="yellow")
    for problem in done.problems:
        line = f"{problem.file}: {problem.reason}: {problem.detail}. {problem.remedy}"
        console.print(line, style="yellow", markup=False)


def _cells(row: ModelRun) -> tuple[object, ...]:
    taken_in = row.taken_in or {}
    counts = row.counts or taken_in.get("counts", {})
    states = (counts.get(state) for state in ("active", "quarantined", "rejected"))
    return row.model, row.status, row.release, row.layer, taken_in.get("new"), *states
