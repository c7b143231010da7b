"""`corrigenda submit` and `corrigenda retract`: corrections into the queue."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON
from corrigenda.cli.tables import print_table

if TYPE_CHECKING:
    from corrigenda.api.values import Submitted

_SHOWN = 5  # rows of a table that a person is shown
MOST_WARNINGS = 20
SHOWN_COLUMNS = (
    *("correction_id", "model", "action", "subject", "prompt", "target_new"),
    *("paraphrases", "neighbours"),
)


def register(app: typer.Typer) -> None:
    app.command("submit")(submit)
    app.command("retract")(retract)


def submit(
    file: Annotated[
        Path,
        typer.Argument(
            help="Parquet, CSV, Excel, JSON or JSON Lines, packed or not; - is standard input.",
            metavar="FILE",
            show_default=False,
            allow_dash=True,
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="A model, a glob or tag:NAME, for every row of the file.")
    ] = None,
    asserted_at: Annotated[
        datetime | None, typer.Option(help="UTC, for rows that do not say; default: the file's own time.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Who or what says so, for rows that do not say; default: you.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Of a text file that is not UTF-8: cp1252, utf-16-le, shift_jis.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what was understood; enqueue nothing.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Check a file of corrections and put its good rows into the queue.

    Takes our own columns and the shapes of CounterFact/ROME, EasyEdit, KnowEdit, MEND, zsRE, MQuAKE and
    FastEdit. Rows with a fault are shown with what to do about it; the others go on. The same file handed in
    twice is handed in once, and a nightly export without times says only what is new.

    Examples:
      corrigenda submit mayors.parquet
      corrigenda submit facts.csv --model "llama-*" --dry-run
      corrigenda submit counterfact.json --model tag:chat
    """
    from corrigenda.api.fleet import Fleet
    from corrigenda.errors import CorrectionsError

    found = Fleet.open(config).submit(
        file, model=model, asserted_at=asserted_at, source=source, encoding=encoding, dry_run=dry_run
    )
    if json:
        print(jsonlib.dumps(_as_json(found), ensure_ascii=False))
    else:
        _show(found)
    if not (found.good or found.repeats) and any(one.reason != "retracted" for one in found.rejects):
        raise CorrectionsError(
            "no row of this file is a correction",
            remedy=found.rejects[0].remedy,
            path=str(file),
            rows=len(found.rejects),
        )


def retract(
    correction_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Corrections to take back.")],
    model: Annotated[str, typer.Option(help="A model, a glob or tag:NAME; default: wherever it is.")] = "*",
    reason: Annotated[str | None, typer.Option(help="Kept in the ledger.")] = None,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Take corrections back: the next release is solved without them, as if they had never been said.

    Examples:
      corrigenda retract mayor-2031
      corrigenda retract mayor-2031 mayor-2032 --model llama-8b --reason "the source was wrong"
    """
    from corrigenda.api.fleet import Fleet

    done = Fleet.open(config).retract(*correction_ids, model=model, reason=reason)
    if json:
        print(jsonlib.dumps(asdict(done), ensure_ascii=False))
        return
    count = len(done.retracted)
    print(
        f"{count} retract{'s' * (count != 1)} enqueued as {done.file} in {done.queue}; "
        "the next run leaves them out"
    )
    if done.not_in_a_release:
        unknown = ", ".join(done.not_in_a_release)
        _warn(f"not in any release yet, retracted all the same when they come: {unknown}")


def _as_json(found: Submitted) -> dict[str, Any]:
    said: dict[str, Any] = {"file": found.file, "queue": found.queue, "kind": found.kind}
    more = {"shape": found.shape, "good": found.good, "repeats": found.repeats, "probes": found.probes}
    more |= {"warnings": found.warnings}
    return said | more | {"rejects": [asdict(one) for one in found.rejects], "notes": found.notes}


def _show(found: Submitted) -> None:
    print(found.description)
    for note in found.notes:
        print(f"  {note}")
    head = [_row(row) for row in found.corrections.slice(0, _SHOWN).to_pylist()]
    if head:
        print_table(SHOWN_COLUMNS, head)
        print(_probes(found))
    if found.repeats:
        print(f"{found.repeats} rows say what is known already and are not enqueued again")
    for warning in found.warnings[:MOST_WARNINGS]:
        _warn(warning)
    if len(found.warnings) > MOST_WARNINGS:
        _warn(f"and {len(found.warnings) - MOST_WARNINGS} more warnings; --json has them all")
    if refused := len(found.rejects):
        _warn(f"{refused} rows are rejected" + (", the first of them:" if refused > _SHOWN else ":"))
        shown = [asdict(one) for one in found.rejects[:_SHOWN]]
        print_table(["row", "correction_id", "reason", "column", "value", "remedy"], shown, stderr=True)
    print(f"enqueued as {found.file} in {found.queue}" if found.file else "nothing is enqueued")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A correction as it is shown: of its probes, how many it brings."""
    counts = {"paraphrases": len(row["paraphrases"] or ()), "neighbours": len(row["neighborhood"] or ())}
    return row | counts


def _probes(found: Submitted) -> str:
    """How many probes they bring: without, a correction is tested by its own prompt alone."""
    said = [
        f"{counts['probes']} {word}"
        + (f" ({counts['without']} corrections bring none)" * bool(counts["without"]))
        for word, counts in zip(("paraphrases", "neighbours"), found.probes.values(), strict=False)
    ]
    return f"probes: {', '.join(said)}"


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)
