"""`corrigenda query`, `results` and `report`: what validation found, for people and for programs."""

from __future__ import annotations

import json as jsonlib
import math
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda import terminal
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

if TYPE_CHECKING:
    from pyarrow import Table

    from corrigenda.api.fleet import Fleet

MOST_SHOWN = 1_000  # rows of a table for people
CSV = Annotated[bool, typer.Option("--csv", help="Comma-separated values on stdout.")]


class What(StrEnum):
    """The ready-made questions."""

    corrections = "corrections"
    gates = "gates"
    drift = "drift"
    history = "history"
    regressions = "regressions"


def register(app: typer.Typer) -> None:
    app.command("query")(query)
    app.command("corrections")(corrections)
    app.command("results")(results)
    app.command("report")(report)


def query(
    sql: Annotated[
        str | None,
        typer.Argument(metavar="SQL", help="One SELECT; - reads it from stdin.", show_default=False),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Every table and column, and what it means.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
    csv: CSV = False,
) -> None:
    """Ask the validation results in SQL (DuckDB). It only reads, and sees neither files nor the network.

    Tables: rows (every probe of every run), published and latest (of releases only), verdicts,
    nights (every run of every model), releases, ledger (every correction with its state).

    Examples:
      corrigenda query "select kind, avg(pass_after::int) from latest group by kind"
      corrigenda query --schema
      corrigenda query "from published where not pass_after" --csv > failing.csv
    """
    from corrigenda.errors import UsageError

    if schema:
        from corrigenda.api.answers import meanings

        _show(meanings(), json=json, csv=csv)
        return
    if sql is None:
        raise UsageError(
            "there is no question", remedy='Give one SELECT, as in corrigenda query "from latest"'
        )
    text = sys.stdin.read() if sql == "-" else sql
    _show(_fleet(config).query(text, warn=_warn), json=json, csv=csv)


class StateOption(StrEnum):
    """Where a correction may end."""

    active = "active"
    superseded = "superseded"
    retracted = "retracted"
    quarantined = "quarantined"
    rejected = "rejected"


def corrections(
    state: Annotated[StateOption | None, typer.Option(help="Only these.")] = None,
    model: Annotated[str | None, typer.Option(help="One model only.")] = None,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
    csv: CSV = False,
) -> None:
    """The corrections of the published releases, each with its state and why.

    Examples:
      corrigenda corrections
      corrigenda corrections --state quarantined --model smollm2-135m
    """
    _show(_fleet(config).corrections(state, model, warn=_warn), json=json, csv=csv)


def results(
    what: Annotated[What, typer.Argument(help="Which figures.", show_default=False)],
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model only.")] = None,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
    csv: CSV = False,
) -> None:
    """Ready-made figures of the releases: corrections, gates, drift, history, regressions.

    Examples:
      corrigenda results corrections smollm2-135m
      corrigenda results gates --json
      corrigenda results regressions
    """
    _show(_fleet(config).results(what, model, warn=_warn), json=json, csv=csv)


def report(
    target: Annotated[str, typer.Argument(metavar="MODEL[@N]", help="N: a release; latest by default.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; - is stdout.")
    ] = None,
    config: CONFIG = DEFAULT_CONFIG,
) -> None:
    """Write one self-contained page about a release: figures, before and after, drift, what was sent out.

    Examples:
      corrigenda report smollm2-135m
      corrigenda report smollm2-135m@3 -o report.html
    """
    page = _fleet(config).report(target)
    if output == Path("-"):
        terminal.for_programs().write(page.html)
    else:
        print(page.write(output))


def _fleet(config: Path) -> Fleet:
    from corrigenda.api.fleet import Fleet

    return Fleet.open(config)


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _show(table: Table, *, json: bool, csv: bool) -> None:
    """Rows on stdout: for programs all of them and as they are, for people a table."""
    from corrigenda.errors import UsageError

    if json and csv:
        raise UsageError("one output has one form", remedy="Give --json or --csv, not both")
    table = _once_each(table)
    if json:
        rows = [_plain(row) for row in table.to_pylist()]
        jsonlib.dump(rows, sys.stdout, ensure_ascii=False, default=_encoded)
        print()
    elif csv:
        _print_csv(table.column_names, table.to_pylist())
    else:
        _print_people(table)


def _once_each(table: Table) -> Table:
    """The table with a name of its own for every column: `a`, `a_1`, as DuckDB's data frames have it."""
    names: list[str] = []
    for name in table.column_names:
        count = 0
        while (unlike := f"{name}_{count}" if count else name) in names:
            count += 1
        names.append(unlike)
    return table.rename_columns(names)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}


def _encoded(value: object) -> object:
    """Decimals are numbers to SQL and to JSON; all else that JSON does not know is text."""
    from decimal import Decimal

    return float(value) if isinstance(value, Decimal) else str(value)


def _print_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    from csv import DictWriter

    writer = DictWriter(terminal.for_programs(), columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _print_people(table: Table) -> None:
    from corrigenda.cli.tables import print_table

    rows = [
        {name: _short(value) for name, value in row.items()} for row in table.slice(0, MOST_SHOWN).to_pylist()
    ]
    print_table(table.column_names, rows)
    if table.num_rows > MOST_SHOWN:
        typer.echo(f"{table.num_rows - MOST_SHOWN} more rows; --json and --csv give all", err=True)


def _short(value: object) -> object:
    """Figures as people read them."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case _:
            return value
