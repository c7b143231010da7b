"""The ledger: all corrections of one model, each with its state; an immutable snapshot per release.

A ledger is what `rules` makes of a set of entries and a set of marks. Equal sets give equal ledgers and
equal bytes, however they came together. Knows nothing of queues, stores or models.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.facts import Correction, digest_of
from corrigenda.storage.corrections.rules import STATES, Mark, State, Told, by_id, fates, slot
from corrigenda.storage.corrections.schemas import CONSUMED, LATER, LEDGER, Arrival, correction_of, row_of
from corrigenda.stored import UnreadableError, object_of, rows_of, table_of


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one correction.

    digest   of its content; names the version
    file     digest of the queue file that brought it
    by       digest of the entry that superseded or retracted it
    why      a reason code: new_version, same_slot, retracted, or the mark's reason
    mark     what the pipeline found; kept also while the entry is superseded or retracted
    """

    correction: Correction
    digest: str
    file: str
    state: State
    by: str | None = None
    why: str | None = None
    mark: Mark | None = None


class Contradiction(NamedTuple):
    """Corrections of one batch that want different answers from one slot; the later one wins."""

    subject: str
    prompt: str
    correction_ids: tuple[str, ...]
    winner: str


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did. Nothing here is an error.

    new                     entries that the ledger did not have
    repeats                 arrivals that it had already, or that came twice
    contradictions          within the batch
    unknown_retracts        ids that no upsert ever had; the retract waits for one
    revived                 ids that were retracted and are active again
    other_facts             ids whose active version asks something else than the one before
    activated, deactivated  ids that entered the active set or changed in it; ids that left it
    """

    new: int
    repeats: int
    contradictions: tuple[Contradiction, ...]
    unknown_retracts: tuple[str, ...]
    revived: tuple[str, ...]
    other_facts: tuple[str, ...]
    activated: tuple[str, ...]
    deactivated: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether the active set is another one."""
        return bool(self.activated or self.deactivated)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Entries in canonical order: by correction_id, then from the oldest version to the newest."""

    entries: tuple[Entry, ...] = ()

    @property
    def active(self) -> tuple[Correction, ...]:
        """What the release must contain, by correction_id."""
        return tuple(entry.correction for entry in self.entries if entry.state == "active")

    @property
    def counts(self) -> dict[State, int]:
        """Entries by state; every state is there."""
        found = Counter(entry.state for entry in self.entries)
        return {state: found[state] for state in STATES}

    def history(self, correction_id: str) -> tuple[Entry, ...]:
        """All versions of one correction, oldest first; empty when there is none."""
        return tuple(entry for entry in self.entries if entry.correction.correction_id == correction_id)

    def to_parquet(self) -> bytes:
        """Rows of schemas.LEDGER; equal ledgers give equal bytes."""
        return _parquet(pa.Table.from_pylist([_row(entry) for entry in self.entries], schema=LEDGER))


def empty() -> Ledger:
    """The ledger of a model that nobody has corrected yet."""
    return Ledger()


def from_parquet(body: bytes) -> Ledger:
    """What `Ledger.to_parquet` wrote. Raises CorruptBlobError."""
    told, marks = {}, {}
    for row in _rows(body, LEDGER):
        told[row["digest"]] = Told(correction_of(row), row["digest"], row["file"] or "")
        if row["evidence"]:
            marks[row["digest"]] = _mark(row["evidence"])
    return _settled(told, marks)


def ledger_table(body: bytes) -> pa.Table:
    """What `Ledger.to_parquet` wrote, as it is: LEDGER, with nulls for what earlier versions lack."""
    try:
        return table_of(body, LEDGER, lacks=LATER)
    except UnreadableError as fault:
        raise _damaged(fault) from None


def entry_of(row: Mapping[str, Any]) -> Entry:
    """A row of a ledger as an entry."""
    mark = _mark(row["evidence"]) if row["evidence"] else None
    told = correction_of(dict(row))
    return Entry(told, row["digest"], row["file"] or "", row["state"], row["by"], row["why"], mark)


def _mark(evidence: str) -> Mark:
    try:
        mark = Mark(**object_of(evidence, state=str, reason=str, evidence=dict))
        if mark.state not in ("quarantined", "rejected"):
            raise UnreadableError(f"no mark makes a correction {mark.state!r:.40}")
        return mark
    except (UnreadableError, TypeError) as fault:
        raise _damaged(fault) from None


def merge(ledger: Ledger, arrivals: Iterable[Correction | Arrival]) -> tuple[Ledger, Merged]:
    """The ledger with what arrived, and what that did. Merging twice is merging once."""
    batch = [arrival if isinstance(arrival, Arrival) else Arrival(arrival) for arrival in arrivals]
    told, marks = _told(ledger), _marks(ledger)
    for arrival in batch:
        one = Told(arrival.correction, digest_of(arrival.correction.content), arrival.file)
        told[one.digest] = min(one, told.get(one.digest, one), key=_provenance)
    merged = _settled(told, marks)
    return merged, _report(ledger, merged, [arrival.correction for arrival in batch])


def quarantine(
    ledger: Ledger, ids: Iterable[str], reason: str, evidence: Mapping[str, Any] | None = None
) -> Ledger:
    """Send active corrections out of the active set until a new version of them arrives.

    reason     a reason code
    evidence   JSON-able: what was measured, and by which gate

    Raises NotFoundError for an id that is not active.
    """
    return _marked(ledger, set(ids), "quarantined", reason, evidence)


def reject(
    ledger: Ledger, ids: Iterable[str], reason: str, evidence: Mapping[str, Any] | None = None
) -> Ledger:
    """As `quarantine`, for what this model cannot take at all (a subject without a token, say)."""
    return _marked(ledger, set(ids), "rejected", reason, evidence)


def consumed_to_parquet(digests: Iterable[str]) -> bytes:
    """The queue files whose rows are in a ledger; the same set gives the same bytes."""
    return _parquet(pa.table({"file_digest": sorted(set(digests))}, schema=CONSUMED))


def consumed_from_parquet(body: bytes) -> frozenset[str]:
    """What `consumed_to_parquet` wrote. Raises CorruptBlobError."""
    return frozenset(row["file_digest"] for row in _rows(body, CONSUMED))


def _settled(told: Mapping[str, Told], marks: Mapping[str, Mark]) -> Ledger:
    fate = fates(told, marks)
    return Ledger(
        tuple(
            Entry(one.correction, one.digest, one.file, *fate[one.digest], mark=marks.get(one.digest))
            for versions in by_id(told).values()
            for one in versions
        )
    )


def _told(ledger: Ledger) -> dict[str, Told]:
    return {entry.digest: Told(entry.correction, entry.digest, entry.file) for entry in ledger.entries}


def _marks(ledger: Ledger) -> dict[str, Mark]:
    return {entry.digest: entry.mark for entry in ledger.entries if entry.mark}


def _provenance(one: Told) -> tuple[str, ...]:
    """Repeats may differ in what is not content: the smallest is kept, whichever came first."""
    told = one.correction
    return one.file, told.model, told.source or "", told.reason or "", str(told.priority)


def _marked(
    ledger: Ledger,
    ids: set[str],
    state: Literal["quarantined", "rejected"],
    reason: str,
    evidence: Mapping[str, Any] | None,
) -> Ledger:
    holders = {e.correction.correction_id: e.digest for e in ledger.entries if e.state == "active"}
    if unknown := sorted(ids - holders.keys()):
        raise NotFoundError(
            "only active corrections can be sent out",
            remedy="Look at their states with `corrigenda show ID`",
            correction_ids=unknown,
        )
    mark = Mark(state, reason, evidence or {})
    return _settled(_told(ledger), _marks(ledger) | {holders[one]: mark for one in ids})


def _report(before: Ledger, after: Ledger, batch: list[Correction]) -> Merged:
    was, now = _active(before), _active(after)
    upserts = {e.correction.correction_id for e in after.entries if e.correction.action == "upsert"}
    retracts = {one.correction_id for one in batch if one.action == "retract"}
    new = len(after.entries) - len(before.entries)
    return Merged(
        new=new,
        repeats=len(batch) - new,
        contradictions=tuple(contradictions(batch)),
        unknown_retracts=tuple(sorted(retracts - upserts)),
        revived=tuple(sorted(_retracted(before) & now.keys())),
        other_facts=tuple(
            sorted(one for one, said in now.items() if one in was and slot(said) != slot(was[one]))
        ),
        activated=tuple(
            sorted(one for one, said in now.items() if one not in was or was[one].asserts != said.asserts)
        ),
        deactivated=tuple(sorted(was.keys() - now.keys())),
    )


def _active(ledger: Ledger) -> dict[str, Correction]:
    return {e.correction.correction_id: e.correction for e in ledger.entries if e.state == "active"}


def _retracted(ledger: Ledger) -> set[str]:
    return {e.correction.correction_id for e in ledger.entries if e.state == "retracted"}


def contradictions(batch: Sequence[Correction]) -> Iterator[Contradiction]:
    """Latest versions of the batch's upserts that share a slot and differ in the target."""
    newest: dict[str, list[Correction]] = defaultdict(list)
    for one in sorted(batch, key=lambda one: one.asserted_at):
        if newest[one.correction_id] and newest[one.correction_id][-1].asserted_at < one.asserted_at:
            newest[one.correction_id].clear()
        newest[one.correction_id].append(one)
    slots: dict[tuple[str, str], list[Correction]] = defaultdict(list)
    for one in (one for versions in newest.values() for one in versions if one.action == "upsert"):
        slots[slot(one)].append(one)
    for _, rivals in sorted(slots.items()):
        if len({rival.target_new for rival in rivals}) > 1:
            winner = max(rivals, key=lambda one: (one.asserted_at, digest_of(one.content)))
            ids = tuple(sorted({rival.correction_id for rival in rivals}))
            yield Contradiction(winner.subject, winner.prompt, ids, winner.correction_id)


def _row(entry: Entry) -> dict[str, Any]:
    mark = entry.mark
    found = {"state": mark.state, "reason": mark.reason, "evidence": dict(mark.evidence)} if mark else None
    return row_of(entry.correction) | {
        "digest": entry.digest,
        "file": entry.file,
        "state": entry.state,
        "by": entry.by,
        "why": entry.why,
        "evidence": json.dumps(found, sort_keys=True, ensure_ascii=False) if found else None,
    }


def _parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _rows(body: bytes, schema: pa.Schema) -> list[dict[str, Any]]:
    try:
        return rows_of(body, schema, lacks=LATER)
    except UnreadableError as fault:
        raise _damaged(fault) from None


def _damaged(fault: Exception) -> CorruptBlobError:
    return CorruptBlobError(
        "a ledger snapshot cannot be read", remedy="Run `corrigenda doctor`", cause=str(fault)[:200]
    )
