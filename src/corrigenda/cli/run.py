"""`corrigenda run`: a correction run now, by the same flow that the schedule starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from corrigenda import terminal
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

# How a release lies in the store, besides its blobs: what `corrigenda.config` calls a layout.
Layout = Literal["hf"]
# Share of the corrections that get too little from which on it is worth a word; a few always do.
MANY = 0.15


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Pipeline")(run)


def run(
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this model; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is new, change nothing.")] = False,
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--layout",
            help="hf: publish each release as a whole Hugging Face directory in the store, too, for readers "
            "without corrigenda; besides what fleet.toml says.",
        ),
    ] = None,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Correct the models of the fleet now: ingest, localize, edit, validate, publish.

    Examples:

      corrigenda run

      corrigenda run --model smollm2-135m --dry-run

      corrigenda run --layout hf
    """
    outcome = run_fleet(config, model, dry_run=dry_run, layouts=[layout] if layout else None)
    if as_json:
        typer.echo(json.dumps(outcome, indent=2, default=str))
    else:
        show(outcome)
    raise typer.Exit(outcome["exit_code"])


def run_fleet(
    config: Path,
    models: list[str] | None = None,
    *,
    dry_run: bool = False,
    layouts: list[Layout] | None = None,
) -> dict[str, Any]:
    """The fleet flow under the embedded orchestrator."""
    from corrigenda.cli import orchestra
    from corrigenda.config import load_fleet
    from corrigenda.errors import PartialFleetError

    fleet = load_fleet(config)
    for name in models or []:
        fleet.model(name)
    orchestra.prepare(fleet.root / ".corrigenda")
    from corrigenda.flows.maintain_fleet import maintain_fleet

    try:
        outcome: dict[str, Any] = maintain_fleet(str(config), models, dry_run, layouts)
    except PartialFleetError as fault:
        outcome = fault.facts["outcome"]  # type: ignore[assignment]
    return outcome


def show(outcome: dict[str, Any]) -> None:
    """One line a model, then what needs attention."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "status", "release", "layer", "new", "active", "quarantined", "rejected"):
        table.add_column(heading)
    for row in outcome["models"]:
        counts = row.get("counts") or row.get("taken_in", {}).get("counts", {})
        cells = [row["model"], row["status"], row.get("release"), row.get("layer")]
        cells += [row.get("taken_in", {}).get("new"), *(counts.get(s) for s in ("active", "quarantined"))]
        table.add_row(*("" if cell is None else str(cell) for cell in (*cells, counts.get("rejected"))))
    console = terminal.console(soft_wrap=True)
    console.print(table)
    for row in outcome["models"]:
        if row["status"] == "failed":
            console.print(f"{row['model']}: {row['error']}", style="red", markup=False)
    for row in outcome["models"]:
        for line in noteworthy(row.get("taken_in", {})):
            console.print(f"{row['model']}: {line}", style="yellow", markup=False)
        for line in crowded(row.get("edits", {})):
            console.print(f"{row['model']}: {line}", style="yellow", markup=False)
        for worse in row.get("regressions", ()):
            console.print(regressed(row["model"], worse), style="yellow", markup=False)
    queue = outcome["queue"]
    if queue["rejected"]:
        console.print(f"{queue['rejected']} rows were rejected; see `corrigenda status`", style="yellow")
    for problem in queue["problems"]:
        console.print(
            f"{problem['file']}: {problem['reason']}: {problem['detail']}. {problem['remedy']}",
            style="yellow",
            markup=False,
        )


def noteworthy(taken_in: Mapping[str, Any]) -> Iterator[str]:
    """What people should know of the rows that came in, though none of it is an error."""
    for found in taken_in.get("contradictions", ()):
        ids = ", ".join(found["correction_ids"])
        asked = found["prompt"].replace("{}", found["subject"])
        yield f"{ids} want different answers to {asked!r}: {found['winner']} holds, it is the latest"
    if unknown := taken_in.get("unknown_retracts"):
        yield f"retracted before it was ever asserted: {', '.join(unknown)}"


def crowded(edits: Mapping[str, int]) -> Iterator[str]:
    """A word of warning where one layer has not room for all corrections."""
    facts = edits.get("computed", 0) + edits.get("cached", 0)
    if edits.get("short", 0) > MANY * facts:
        yield (
            f"{edits['short']} of {facts} corrections got less of the edit than they need: the layer has "
            "not room for more. Retract some, or raise `editing.most_change` and the gates on perplexity and "
            "drift"
        )


def regressed(model: str, worse: dict[str, Any]) -> str:
    """One line about a correction that used to pass."""
    return (
        f"{model}: {worse['correction_id']} passed in release {worse['last_passed']} and fails now: "
        f"{worse['prompt']!r} -> {worse['says']!r}; see `corrigenda results regressions`"
    )
