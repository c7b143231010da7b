"""Corrections into the queue, and retracts that hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.api.books import waiting
from corrigenda.api.opened import queue_of, store_of
from corrigenda.api.values import Reject, Retracted, Submitted
from corrigenda.config import FleetConfig
from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.facts import Correction
from corrigenda.storage.corrections import queue
from corrigenda.storage.corrections.admission import Known, admit, probes
from corrigenda.storage.corrections.formats import understand
from corrigenda.storage.corrections.reading import Selects, check_table
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import snapshots
from corrigenda.storage.releases.lease import person
from corrigenda.storage.releases.snapshots import Snapshot

_TICK = timedelta(microseconds=1)


def submit(
    what: Any,
    to: ObjectStore,
    *,
    model: str | None = None,
    asserted_at: datetime | None = None,
    source: str | None = None,
    encoding: str | None = None,
    dry_run: bool = False,
) -> Submitted:
    """Check corrections and put the good ones into the queue at `to`; see `corrigenda.submit`."""
    at = _utc(asserted_at) or _own_time(what)
    found = _admitted(_understood(what, model, at, source, encoding, None), {}, None)
    return found if dry_run or not found.good else _enqueued(found, to)


def submit_to_fleet(
    fleet: FleetConfig,
    what: Any,
    *,
    model: str | None,
    asserted_at: datetime | None,
    source: str | None,
    encoding: str | None,
    dry_run: bool,
) -> Submitted:
    """The same for a fleet: models and what they know are known by name, and a retract comes after what it
    takes back.
    """
    require_known(fleet, model)
    given = _utc(asserted_at)
    at = given or _own_time(what)
    found = _understood(what, model, at, source or person(), encoding, lambda one: bool(fleet.matching(one)))
    selectors = set(found.corrections["model"].to_pylist())
    told = _told(fleet, selectors)
    found = _after_what_they_take_back(found, told, undated=None if given else at)
    known = {one: [Known(corrections) for corrections in told[one]] for one in selectors}
    found = _admitted(found, known, undated=None if given else at)
    if dry_run or not found.good:
        return found
    return _enqueued(found, queue_of(fleet, create=True))


def _understood(
    what: Any,
    model: str | None,
    at: datetime,
    source: str | None,
    encoding: str | None,
    knows: Selects | None,
) -> Submitted:
    if isinstance(what, str | os.PathLike):
        read = understand(
            Path(what), model=model, asserted_at=at, source=source, encoding=encoding, knows=knows
        )
        rejects = tuple(Reject.of(row) for row in read.rejects)
        return Submitted(
            None, read.kind, read.shape, read.good, rejects, notes=read.notes, numbers=read.numbers
        )
    table = queue.as_table(what, now=at)
    if model is not None:
        table = _with(table, "model", pa.repeat(model, table.num_rows))
    if source is not None and "source" not in table.column_names:
        table = _with(table, "source", pa.repeat(source, table.num_rows))
    checked = check_table(table, knows=knows)
    refused = checked.rejects.to_pylist()
    if refused and refused[0]["row"] is None:
        raise queue.refusal(refused, table.num_rows)
    rejects = tuple(Reject.of(row) for row in refused)
    return Submitted(
        None, "rows", "corrections", checked.good, rejects, notes=checked.notes, numbers=checked.numbers
    )


def _admitted(found: Submitted, known: Mapping[str, Sequence[Known]], undated: datetime | None) -> Submitted:
    """Without repeats, and without rows that would undo a retract unsaid."""
    taken = admit(found.corrections, found.numbers, known, undated=undated, now=datetime.now(UTC))
    held = tuple(Reject.of(row) for row in taken.rejects)
    return replace(
        found,
        corrections=taken.good,
        rejects=tuple(sorted((*found.rejects, *held), key=lambda one: one.row or 0)),
        warnings=taken.warnings,
        repeats=taken.repeats,
        probes=probes(taken.good),
        numbers=(),
    )


def _enqueued(found: Submitted, to: ObjectStore) -> Submitted:
    return replace(found, file=queue.enqueue(to, found.corrections), queue=to.url)


def _own_time(what: Any) -> datetime:
    """When a file was written, for its rows without a time: handing it in again changes nothing."""
    try:
        return datetime.fromtimestamp(int(Path(what).stat().st_mtime), UTC)
    except (TypeError, OSError):
        return datetime.now(UTC)


def _utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def retract(fleet: FleetConfig, ids: Sequence[str], *, model: str, reason: str | None) -> Retracted:
    """Put retracts into the queue, each later than what it takes back."""
    require_known(fleet, model)
    ids = list(dict.fromkeys(ids))
    times, published = last_times(fleet, model)
    now = datetime.now(UTC)
    rows = [
        {
            "correction_id": one,
            "action": "retract",
            "model": model,
            "asserted_at": _later(now, times.get(one)),
            "source": f"{person()}, by corrigenda retract",
            "reason": reason,
        }
        for one in ids
    ]
    place = queue_of(fleet, create=True)
    receipt = queue.submit(rows, to=place)
    unknown = tuple(one for one in ids if one not in published)
    return Retracted(str(receipt.file), tuple(ids), unknown, place.url)


def require_known(fleet: FleetConfig, selector: str | None) -> None:
    """Raises NotFoundError, which lists the models, when a selector means none of them."""
    if selector is not None and not fleet.matching(selector):
        raise NotFoundError(
            "no model of the fleet is meant by this",
            remedy="Name one of the models listed, a glob that matches one, or tag:NAME",
            model=selector,
            models=[entry.name for entry in fleet.models],
        )


def last_times(fleet: FleetConfig, selector: str) -> tuple[dict[str, datetime], set[str]]:
    """When each correction of the models that are meant was last asserted as a fact, in the ledger
    or in what waits; and the ids in the ledger. Nothing before the first run."""
    now = _snapshots(fleet, {selector})
    published = {e.correction.correction_id for one in now.values() for e in one.ledger.entries}
    return _times(_told(fleet, {selector})[selector]), published


def _times(told: Sequence[Sequence[Correction]]) -> dict[str, datetime]:
    times: dict[str, datetime] = {}
    for one in (one for model in told for one in model if one.action == "upsert"):
        times[one.correction_id] = max(one.asserted_at, times.get(one.correction_id, one.asserted_at))
    return times


def _told(fleet: FleetConfig, selectors: set[str]) -> dict[str, list[list[Correction]]]:
    """Per selector, what each model that it means has been told: in its ledger, or in what waits for it."""
    now = _snapshots(fleet, selectors)
    found = waiting(
        fleet, store_of(fleet, absent_ok=True), {model: one.consumed for model, one in now.items()}
    )
    told = {
        model: [e.correction for e in one.ledger.entries]
        + [arrival.correction for arrival in found.of(model).arrivals()]
        for model, one in now.items()
    }
    return {one: [told[model] for model in sorted(fleet.matching(one)) if model in told] for one in selectors}


def _snapshots(fleet: FleetConfig, selectors: set[str]) -> dict[str, Snapshot]:
    """The present releases of the models that are meant; one that is damaged is doctor's affair."""
    state = store_of(fleet, absent_ok=True)
    found = {}
    for model in sorted({model for one in selectors for model in fleet.matching(one)}):
        with suppress(CorruptBlobError, NotFoundError):
            found[model] = snapshots.current(state, model)
    return found


def _later(wanted: datetime, last: datetime | None) -> datetime:
    """A correction may be dated ahead of its time; its retract must still be the later one."""
    return wanted if last is None else max(wanted, last + _TICK)


def _after_what_they_take_back(
    found: Submitted, told: Mapping[str, Sequence[Sequence[Correction]]], undated: datetime | None
) -> Submitted:
    """Retracts that nobody dated (they have the time `undated`) are moved behind what they take back. Of the
    others it is said when they take nothing back, because the later one of two versions holds."""
    table = found.corrections
    if not pc.any(pc.equal(table["action"], "retract")).as_py():
        return found
    rows, notes = table.to_pylist(), list(found.notes)
    known = {selector: _times(models) for selector, models in told.items()}
    for row in rows:
        last = known[row["model"]].get(row["correction_id"])
        if row["action"] != "retract" or last is None or last < row["asserted_at"]:
            continue
        if row["asserted_at"] == undated:
            row["asserted_at"] = _later(row["asserted_at"], last)
        else:
            notes.append(_in_vain(row, last))
    return replace(found, corrections=pa.Table.from_pylist(rows, schema=table.schema), notes=tuple(notes))


def _in_vain(row: dict[str, Any], last: datetime) -> str:
    return (
        f"the retract of {row['correction_id']} is dated {row['asserted_at']:%Y-%m-%d %H:%M:%S} and what "
        f"it takes back {last:%Y-%m-%d %H:%M:%S}: the later one holds, so nothing is taken back"
    )


def _with(table: pa.Table, name: str, column: Any) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)
