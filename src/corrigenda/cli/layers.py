"""`corrigenda layers`: which layer carries a model's corrections, and why."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda import terminal
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

if TYPE_CHECKING:
    from rich.table import Table

    from corrigenda.api.values import LayerScores

BAR = 28


def register(app: typer.Typer) -> None:
    app.command("layers")(layers)


def layers(
    model: Annotated[str, typer.Argument(help="A model of the fleet.", show_default=False)],
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the scores into this file (.svg, .png or .pdf).")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="two-stage, lga, lga-unfenced, edit-shaped, causal-tracing, salem, middle or random, "
            "instead of the configured one."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Find the layer again, whatever was found before.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Show every layer's score and the golden layer, the one that is edited.

    Scores are remembered: an unchanged model with unchanged proxy facts is never localized twice.

    Examples:
      corrigenda layers smollm2-135m
      corrigenda layers smollm2-135m --method lga --plot layers.svg
      corrigenda layers smollm2-135m --json
    """
    from corrigenda.api.fleet import Fleet
    from corrigenda.cli.layer_picture import check_format, draw

    check_format(plot)
    progress = terminal.console(stderr=True)
    with progress.status(terminal.neutral(f"localizing {model} …")):
        found = Fleet.open(config).layers(model, method=method, fresh=fresh)
    if json:
        typer.echo(jsonlib.dumps(found.to_json()))
    else:
        out = terminal.console()
        out.print(table_of(found))
        out.print(sentence_of(found), highlight=False, soft_wrap=True)
    for warning in found.warnings:
        progress.print(f"[yellow]warning:[/] {warning}")
    if plot is not None:
        draw(found, plot, title=model)
        progress.print(f"drawn: {plot}")


def table_of(found: LayerScores) -> Table:
    """Every layer with its score as a number and as a bar; the golden one stands out."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, title=f"layers by {found.method}, version {found.version}", title_justify="left"
    )
    table.add_column("layer", justify="right")
    table.add_column("score", justify="right")
    table.add_column("", width=BAR, no_wrap=True)
    shown = [name for name in ("norms", "cosines") if getattr(found, name)]
    for name in (*shown, *(["trial"] if found.trials else [])):
        table.add_column(name.removesuffix("s"), justify="right")
    table.add_column("")
    for layer, score in enumerate(found.scores):
        cells = [f"{getattr(found, name)[layer]:.3g}" for name in shown]
        if found.trials:
            cells.append(f"{found.trials[layer]:.3f}" if layer in found.trials else "")
        table.add_row(
            str(layer),
            f"{score:.4g}",
            bar_of(layer, found),
            *cells,
            remark_on(layer, found),
            style="bold green" if layer == found.pick else None if found.kept[layer] else "dim",
        )
    return table


def bar_of(layer: int, found: LayerScores) -> str:
    """A bar from zero (or the lowest score) to this one; what sticks out of the kept layers is cut off."""
    inside = [score for score, kept in zip(found.scores, found.kept, strict=True) if kept]
    low = min([0.0, *inside])
    reach = max([0.0, *inside]) - low
    if not reach:
        return ""
    length = round((BAR - 1) * (found.scores[layer] - low) / reach)
    return "█" * length if length < BAR else "█" * (BAR - 1) + "▸"


def remark_on(layer: int, found: LayerScores) -> str:
    if layer == found.pick:
        return "golden"
    if found.kept[layer]:
        return ""
    return "not tried" if found.trials else "outlier"


def sentence_of(found: LayerScores) -> str:
    """The pick in words."""
    words = [f"golden layer: {found.pick}"]
    if found.n_facts:
        words.append(f"from {found.n_facts} proxy facts")
    if found.pick_share is not None and found.n_facts:
        words.append(f"the same in {found.pick_share:.0%} of resamples")
    if found.seconds:
        words.append(f"found in {found.seconds:.1f} s")
    return ", ".join(words)
