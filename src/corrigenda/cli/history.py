"""`corrigenda log` and `show`: how a model, and one correction, came to stand where they stand."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON
from corrigenda.cli.tables import pairs, print_table

if TYPE_CHECKING:
    from corrigenda.api.values import Chapter, ProbeResult, Story, Waiting

_MODEL = Annotated[str, typer.Argument(metavar="_MODEL", help="A model's name.", show_default=False)]


def register(app: typer.Typer) -> None:
    app.command("log")(log)
    app.command("show")(show)


def log(model: _MODEL, config: CONFIG = DEFAULT_CONFIG, json: JSON = False) -> None:
    """Every move of `latest`, newest first, rollbacks included, and what the release holds.

    Example:
      corrigenda log smollm2-135m
    """
    from corrigenda.api.fleet import Fleet

    moves = Fleet.open(config).log(model)
    if json:
        print(jsonlib.dumps([asdict(one) for one in moves], ensure_ascii=False))
        return
    shown = [asdict(one) | {"moved_at": one.moved_at[:19], "ledger": pairs(one.ledger)} for one in moves]
    print_table(["release", "moved_at", "layer", "ledger", "reason"], shown)


def show(
    correction_id: Annotated[str, typer.Argument(metavar="CORRECTION_ID", show_default=False)],
    model: Annotated[str | None, typer.Option(help="One model only.")] = None,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """A correction's whole history, and its probe results through releases.

    What waits in the queue for the next run is shown, too, and rows of it that were rejected.

    Examples:
      corrigenda show mayor-2031
      corrigenda show mayor-2031 --model llama-8b --json
    """
    from corrigenda.api.fleet import Fleet

    told = Fleet.open(config).show(correction_id, model)
    if json:
        said = asdict(told) | {"probes": [_probe(row) for row in told.probes]}
        print(jsonlib.dumps(said, ensure_ascii=False, default=str))
    else:
        _show(told)


def _show(told: Story) -> None:
    """The fact in one line, what became of it, what waits, what was refused, and its probes."""
    facts: list[Chapter | Waiting] = [*told.history, *told.waiting]
    for row in [row for row in facts if row.action == "upsert"][-1:]:
        print(f"{row.prompt.replace('{}', row.subject)} -> {row.target_new}")
    shown = [*map(_chapter, told.history), *map(_waiting, told.waiting)]
    when = ["model", "release", "at", "version", "action", "state", "why"]
    if shown:
        print_table([*when, "asserted_at", "target_new", "source", "reason"], shown)
    for row in told.history:
        if row.evidence:
            print(f"{row.model}@{row.release} {row.state}: {_evidence(row)}")
    if told.rejects:
        columns = ["file", "row", "reason", "column", "value", "remedy"]
        print_table(columns, map(asdict, told.rejects))
    if told.probes:
        what = ["model", "release", "kind", "prompt", "expected", "says_before", "says_after", "pass"]
        print_table(what, map(_probe, told.probes))


def _chapter(row: Chapter) -> dict[str, Any]:
    # A mark's reason holds its evidence, which has a line of its own.
    why = (row.why or "").partition(":")[0] + (f" {row.by_id}" if row.by_id else "")
    cut = {"version": row.version[:8], "at": row.at[:19], "asserted_at": row.asserted_at[:19]}
    return asdict(row) | cut | {"why": why}


def _waiting(row: Waiting) -> dict[str, Any]:
    blank = dict.fromkeys(("release", "at", "version", "why"))
    return asdict(row) | blank | {"state": "waiting", "asserted_at": row.asserted_at[:19]}


def _evidence(row: Chapter) -> str:
    """The figures that the reason does not say already."""
    why = row.why or ""
    more = {name: value for name, value in (row.evidence or {}).items() if str(value) not in why}
    more = {name: value for name, value in more.items() if name not in ("correction_id", "enough")}
    return f"{why} ({pairs(more)})" if more else why


def _probe(row: ProbeResult) -> dict[str, Any]:
    passed = ("yes" if passes else "no" for passes in (row.pass_before, row.pass_after))
    return asdict(row) | {"pass": " -> ".join(passed)}
