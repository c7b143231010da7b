"""`corrigenda query`, `results` and `report`: what validation found, for people and for programs."""

from __future__ import annotations

import json as jsonlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda import terminal
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyarrow import Table

    from corrigenda.config import Fleet
    from corrigenda.storage.objects.interface import ObjectStore
    from corrigenda.storage.releases.manifests import Release
    from corrigenda.validation.report import Subject

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
    app.command("results")(results)
    app.command("report")(report)


def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT; - reads it from stdin.")],
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
    csv: CSV = False,
) -> None:
    """Ask the validation results in SQL (DuckDB). It only reads, and sees neither files nor the network.

    Tables: rows (every probe of every run), published and latest (of releases only), verdicts, releases.

    Examples:
      corrigenda query "select kind, avg(pass_after::int) from latest group by kind"
      corrigenda query "describe rows"
      corrigenda query "from published where not pass_after" --csv > failing.csv
    """
    from corrigenda.validation import results as stored

    with connected(config) as connection:
        text = sys.stdin.read() if sql == "-" else sql
        _show(stored.query(connection, text), json=json, csv=csv)


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
    from corrigenda.validation import results as stored
    from corrigenda.validation.queries import sql

    with connected(config, model) as connection:
        _show(stored.query(connection, sql(f"results_{what}"), model=model), json=json, csv=csv)


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
    from corrigenda.config import load_fleet
    from corrigenda.storage.delivery.pull import parse_target

    model, ref = parse_target(target)
    path = write_report(load_fleet(config), model, ref, output)
    if path is not None:
        print(path)


def write_report(fleet: Fleet, model: str, ref: str, output: Path | None = None) -> Path | None:
    """Write the page about a release; where it lies, or None when it went to stdout.

    ref      latest, canary, or a release's number
    output   None: MODEL-N.html in the working directory; -: stdout
    """
    from corrigenda.storage.delivery import pull
    from corrigenda.storage.objects.opening import open_store
    from corrigenda.storage.releases import history
    from corrigenda.validation.report import render
    from corrigenda.validation.results import connect, listed

    store = open_store(fleet.store, root=fleet.root)
    release = pull.resolve(store, model, ref)
    behind = [listed(one) for one in history.ancestry(store, release.digest)]
    with connect(store, behind) as connection:
        page = render(connection, _subject(store, release))
    if output == Path("-"):
        terminal.for_programs().write(page)
        return None
    path = output or Path(f"{release.model}-{release.number}.html")
    _write(path, page)
    return path


def connected(config: Path, model: str | None = None) -> DuckDBPyConnection:
    """Results and releases of the fleet's store. Raises NotFoundError for a model that nobody knows."""
    from corrigenda.config import load_fleet
    from corrigenda.storage.objects.opening import open_store
    from corrigenda.storage.releases import manifests
    from corrigenda.validation.results import connect

    fleet = load_fleet(config)
    store = open_store(fleet.store, root=fleet.root)
    known = manifests.models(store)
    if model is not None and model not in known:
        fleet.model(model)
    return connect(store, [row for name in known for row in _releases(store, name)])


def _releases(store: ObjectStore, model: str) -> Iterator[dict[str, Any]]:
    """The releases behind `latest`; what is damaged is said, and does not hide the other models."""
    from corrigenda.errors import CorruptBlobError
    from corrigenda.storage.releases import history, refs
    from corrigenda.validation.results import listed

    try:
        ref = refs.read(store, model, "latest").ref
        yield from (listed(release) for release in history.ancestry(store, ref.manifest if ref else None))
    except CorruptBlobError as fault:
        typer.echo(f"warning: {model}: {fault}", err=True)


def _subject(store: ObjectStore, release: Release) -> Subject:
    from corrigenda.validation.report import Subject

    return Subject(
        model=release.model,
        number=release.number,
        created_at=release.created_at,
        layer=release.layer,
        gates=release.gates,
        layers=release.settings.get("localization"),
        quarantined=_sent_out(store, release),
        provenance=_provenance(release),
    )


def _sent_out(store: ObjectStore, release: Release) -> list[dict[str, Any]]:
    """Corrections that the release's ledger holds back, with the reason."""
    from corrigenda.storage.releases.snapshots import ledger_of

    return [
        {
            "correction_id": entry.correction.correction_id,
            "prompt": entry.correction.request.text,
            "target_new": entry.correction.target_new,
            "state": entry.state,
            "reason": entry.why or "",
            "came_back": entry.mark.evidence.get("came_back", []) if entry.mark else [],
        }
        for entry in ledger_of(store, release).entries
        if entry.state in ("quarantined", "rejected")
    ]


def _provenance(release: Release) -> dict[str, Any]:
    """What a reader needs to find the very bytes again."""
    base, counts = release.base, dict(release.counts)
    told = {
        "manifest": release.digest,
        "follows": release.parent,
        "base": base.get("source"),
        "base weights": base.get("weights_digest"),
        "tokenizer": base.get("tokenizer_digest"),
        "ledger": release.ledger.digest if release.ledger else None,
        "run": counts.pop("run_id", None),
        "corrections by state": ", ".join(f"{name} {count}" for name, count in counts.items()),
        "editing": jsonlib.dumps(release.settings["editing"], sort_keys=True)
        if "editing" in release.settings
        else None,
        "bytes": f"{release.size:,} in {len(release.files)} files",
    }
    return {label: value for label, value in told.items() if value}


def _write(path: Path, page: str) -> None:
    from corrigenda.errors import SetupError

    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as fault:
        raise SetupError(
            "the report cannot be written", remedy=f"Choose another file: {fault.strerror}", path=str(path)
        ) from None


def _show(table: Table, *, json: bool, csv: bool) -> None:
    """Rows on stdout: for programs all of them and as they are, for people a table."""
    from corrigenda.errors import UsageError

    if json and csv:
        raise UsageError("one output has one form", remedy="Give --json or --csv, not both")
    if json:
        rows = [_plain(row) for row in table.to_pylist()]
        jsonlib.dump(rows, sys.stdout, ensure_ascii=False, default=_encoded)
        print()
    elif csv:
        _print_csv(table.column_names, table.to_pylist())
    else:
        _print_people(table)


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
