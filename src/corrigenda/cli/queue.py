"""`corrigenda submit` and `corrigenda retract`: corrections into the queue."""

from __future__ import annotations

import json as jsonlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON
from corrigenda.cli.tables import print_table

if TYPE_CHECKING:
    from corrigenda.config import Fleet
    from corrigenda.storage.corrections.formats import Understood

SHOWN = 5  # rows of a table that a person is shown


def register(app: typer.Typer) -> None:
    app.command("submit")(submit)
    app.command("retract")(retract)


def submit(
    file: Annotated[
        Path, typer.Argument(help="Parquet, CSV, JSON or JSON Lines.", metavar="FILE", show_default=False)
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what was understood; enqueue nothing.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Check a file of corrections and put its good rows into the queue.

    Takes our own columns and the shapes of CounterFact/ROME, EasyEdit, MEND and MQuAKE. Rows with a fault are
    shown with what to do about it; the others go on. The same file handed in twice is handed in once.

    Examples:
      corrigenda submit mayors.parquet
      corrigenda submit facts.csv --model "llama-*" --dry-run
      corrigenda submit counterfact.json --model tag:chat
    """
    from corrigenda.config import load_fleet
    from corrigenda.errors import CorrectionsError
    from corrigenda.storage.corrections import queue
    from corrigenda.storage.corrections.formats import understand
    from corrigenda.storage.objects.opening import open_store
    from corrigenda.storage.releases.lease import person

    fleet = load_fleet(config)
    _require_known(fleet, model)
    at = asserted_at.replace(tzinfo=UTC) if asserted_at else None
    found = understand(
        file,
        model=model,
        asserted_at=at,
        source=source or person(),
        knows=lambda selector: bool(fleet.matching(selector)),
    )
    name = None
    if found.good.num_rows and not dry_run:
        name = queue.enqueue(open_store(fleet.queue, root=fleet.root, create=True), found.good)
    _show(found, name, json=json)
    if not found.good.num_rows:
        first = found.rejects[0] if found.rejects else {"remedy": "Check that this is the right file"}
        raise CorrectionsError(
            "no row of this file is a correction",
            remedy=str(first["remedy"]),
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
    from corrigenda.config import load_fleet
    from corrigenda.storage.corrections import queue
    from corrigenda.storage.objects.opening import open_store
    from corrigenda.storage.releases.lease import person

    fleet = load_fleet(config)
    _require_known(fleet, model)
    ids = list(dict.fromkeys(correction_ids))
    times, published = _last_times(fleet, model)
    now = datetime.now(UTC)
    rows = [
        {
            "correction_id": one,
            "action": "retract",
            "model": model,
            # A correction may be dated ahead of its time; its retract must still be the later one.
            "asserted_at": max(now, times[one] + timedelta(microseconds=1)) if one in times else now,
            "source": f"{person()}, by corrigenda retract",
            "reason": reason,
        }
        for one in ids
    ]
    receipt = queue.submit(rows, to=open_store(fleet.queue, root=fleet.root, create=True))
    unknown = [one for one in ids if one not in published]
    if json:
        print(
            jsonlib.dumps(
                {"file": receipt.file, "retracted": ids, "not_in_a_release": unknown}, ensure_ascii=False
            )
        )
        return
    print(
        f"{len(ids)} retract{'s' * (len(ids) != 1)} enqueued as {receipt.file}; the next run leaves them out"
    )
    if unknown:
        _warn(f"not in any release yet, retracted all the same when they come: {', '.join(unknown)}")


def _require_known(fleet: Fleet, selector: str | None) -> None:
    """Raises NotFoundError, which lists the models, when a selector means none of them."""
    from corrigenda.errors import NotFoundError

    if selector is not None and not fleet.matching(selector):
        raise NotFoundError(
            "no model of the fleet is meant by this",
            remedy="Name one of the models listed, a glob that matches one, or tag:NAME",
            model=selector,
            models=[entry.name for entry in fleet.models],
        )


def _last_times(fleet: Fleet, selector: str) -> tuple[dict[str, datetime], set[str]]:
    """When each correction of the models that are meant was last asserted, in the ledger or in what waits;
    and the ids in the ledger. Nothing before the first run."""
    from corrigenda.cli.history import waiting
    from corrigenda.errors import SetupError
    from corrigenda.storage.objects.opening import open_store
    from corrigenda.storage.releases import snapshots

    try:
        state = open_store(fleet.store, root=fleet.root)
    except SetupError as fault:
        if fault.retryable:
            raise
        return {}, set()
    now = {model: snapshots.current(state, model) for model in fleet.matching(selector)}
    told = [entry.correction for one in now.values() for entry in one.ledger.entries]
    published = {one.correction_id for one in told}
    found = waiting(fleet, state, {model: one.consumed for model, one in now.items()})
    told += [arrival.correction for model in now for arrival in found.of(model).arrivals()]
    times: dict[str, datetime] = {}
    for one in told:
        times[one.correction_id] = max(one.asserted_at, times.get(one.correction_id, one.asserted_at))
    return times, published


def _show(found: Understood, name: str | None, *, json: bool) -> None:
    if json:
        said = {"file": name, "kind": found.kind, "shape": found.shape, "good": found.good.num_rows}
        print(jsonlib.dumps(said | {"rejects": found.rejects, "notes": found.notes}, ensure_ascii=False))
        return
    print(found.description)
    for note in found.notes:
        print(f"  {note}")
    head = found.good.slice(0, SHOWN).to_pylist()
    if head:
        print_table(["correction_id", "model", "action", "subject", "prompt", "target_new"], head)
    if found.rejects:
        _warn(
            f"{len(found.rejects)} rows are rejected"
            + (", the first of them:" if len(found.rejects) > SHOWN else ":")
        )
        print_table(
            ["row", "correction_id", "reason", "column", "value", "remedy"],
            found.rejects[:SHOWN],
            stderr=True,
        )
    print(f"enqueued as {name}" if name else "nothing is enqueued")


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)
